"""Folders and files that are replaced whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nnunet_meep import atomic
from nnunet_meep.atomic import (
    creating_folder,
    is_temporary,
    move_files,
    remove_left_over,
    replacing_file,
    replacing_files,
    replacing_folder,
    temporary_folder,
)
from nnunet_meep.errors import described


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as temporary:
        (temporary / "a.txt").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path / "data", text)
        assert (tmp_path / "data" / "a.txt").read_text() == text
        assert names(tmp_path) == ["data"]


def test_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "data", "old")

    def interrupted() -> None:
        with replacing_folder(tmp_path / "data") as temporary:
            (temporary / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_the_old_one_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", "old")
    rename, failed = Path.rename, []

    def failing(path: Path, target: Path) -> Path:
        if target == tmp_path / "data" and not failed:
            failed.append(path)
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "data", "new")
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_an_old_folder_that_cannot_be_put_back_is_kept_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", "old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if target == tmp_path / "data":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            write(tmp_path / "data", "new")
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    remove_left_over(tmp_path)
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_of_several_files_none_is_replaced_where_one_fails(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("old")

    def write(fails: bool) -> None:
        with replacing_files(paths) as temporary:
            for path in temporary:
                path.write_text("new")
            if fails:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write(fails=True)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["old", "old"]
    write(fails=False)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "new"]


def test_files_get_their_names_in_the_given_order_after_all_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one may mark the others as complete."""
    done: list[str] = []
    replace, fsync = os.replace, os.fsync

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(f"fsync {os.fstat(descriptor).st_size}")

    def replaced(path: Path, target: Path) -> None:
        replace(path, target)
        done.append(f"rename {Path(target).name}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing_files([tmp_path / "b", tmp_path / "a"]) as (b, a):
        a.write_text("1")
        b.write_text("22")
    assert done == ["fsync 2", "fsync 1", "rename b", "rename a"]
    done.clear()
    with temporary_folder(tmp_path) as new:
        (new / "deep").mkdir()
        (new / "deep" / "c").write_text("333")
        (new / "a").write_text("4444")
        assert move_files(new, tmp_path, last="a") == [tmp_path / "deep" / "c", tmp_path / "a"]
    assert done == ["fsync 4", "fsync 3", "rename c", "rename a"]
    assert names(tmp_path) == ["a", "b", "deep"]


@pytest.mark.parametrize("block", [replacing_file, creating_folder, replacing_folder])
@pytest.mark.parametrize(
    "of_system",
    [(28, "No space left on device"), ("encoder error -2",)],
    ids=["no space", "encoder"],
)
def test_an_error_without_a_file_names_the_one_that_was_to_be_written(
    tmp_path: Path,
    block: Callable[[Path], AbstractContextManager[Path]],
    of_system: tuple[Any, ...],
) -> None:
    error = OSError(*of_system)
    message = described(error)
    with pytest.raises(OSError, match=message) as raised, block(tmp_path / "a.png"):
        raise error
    assert described(raised.value) == f"{tmp_path / 'a.png'}: {message}"


def test_errors_of_a_file_in_a_temporary_folder_name_the_one_outside(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, creating_folder(tmp_path / "data") as new:
        (new / "deep" / "a.txt").write_text("")
    assert described(raised.value) == f"{tmp_path}/data/deep/a.txt: No such file or directory"
    with pytest.raises(FileNotFoundError) as raised, replacing_file(tmp_path / "b" / "a.txt"):
        pass
    assert described(raised.value) == f"{tmp_path}/b: No such file or directory"
    with pytest.raises(FileNotFoundError) as raised, replacing_file(tmp_path / "a.txt"):
        (tmp_path / "other.txt").read_text()
    assert described(raised.value) == f"{tmp_path}/other.txt: No such file or directory"


#: A process that makes a temporary folder and is killed, or waits in it until its input ends.
PROCESS = """\
import os, signal, sys
from pathlib import Path
from nnunet_meep import atomic
if sys.argv[3:]:
    atomic.boot_id = lambda: sys.argv[3]
with atomic.temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "half.npz").write_bytes(bytes(100))
    print(folder, flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def made_by(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().rstrip())


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks on folders")
def test_what_a_killed_process_left_is_removed_and_what_a_live_one_uses_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / ".tmp-of-others").mkdir()
    with start(tmp_path, "wait") as live:
        used = made_by(live)
        with start(tmp_path, "die") as dead:
            left = made_by(dead)
        assert dead.returncode == -signal.SIGKILL
        assert (left / "half.npz").exists()
        with replacing_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
        assert names(tmp_path) == sorted([".tmp-of-others", used.name, "a.txt"])
        assert (used / "half.npz").exists()
        live.communicate()  # its input ends
    assert names(tmp_path) == [".tmp-of-others", "a.txt"]


@pytest.mark.skipif(atomic.fcntl is None, reason="no locks on folders")
def test_what_another_machine_made_is_removed_only_if_untouched_for_a_day(tmp_path: Path) -> None:
    """It does not show here whether its process is alive."""
    with start(tmp_path, "die", "another") as dead:
        left = made_by(dead)
    remove_left_over(tmp_path)
    assert left.exists()
    day_ago = os.stat(left).st_mtime - 25 * 3600
    os.utime(left, (day_ago, day_ago))
    remove_left_over(tmp_path)  # a file in it is new: somebody writes to it
    assert left.exists()
    os.utime(left / "half.npz", (day_ago, day_ago))
    remove_left_over(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_is_taken_for_left_over_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def taken(path: Path, *args: int, **how: int) -> None:
        mkdir(path, *args, **how)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", taken)
    with temporary_folder(tmp_path) as folder:
        assert made == [made[0], folder]
        assert folder.is_dir()


def test_an_old_folder_of_a_run_that_was_killed_between_the_renames_is_put_back(
    tmp_path: Path,
) -> None:
    write(tmp_path / "data", "old")
    left = tmp_path / f".tmp-meep-{atomic._machine()}-01234567"
    (left / ".replaced").mkdir(parents=True)
    (tmp_path / "data").rename(left / ".replaced" / "data")
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_in_the_systems_folder_nobody_else_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        assert re.fullmatch(r"\.tmp-meep-[0-9a-f]{8}-[0-9a-f]{8}", folder.name)
        assert is_temporary(folder)
    assert names(tmp_path) == []


#: A process that replaces a folder again and again, by one with two files of one content.
REPLACING = """\
import sys
from pathlib import Path
from nnunet_meep.atomic import replacing_folder
for i in range(100):
    try:
        with replacing_folder(Path(sys.argv[1])) as new:
            for name in "ab":
                (new / name).write_text(f"{sys.argv[2]} {i}")
    except OSError:
        pass  # the other one was faster
"""


def test_two_that_replace_one_folder_leave_it_whole(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder, "old")
    both = [subprocess.Popen([sys.executable, "-c", REPLACING, str(folder), name]) for name in "12"]
    assert [process.wait() for process in both] == [0, 0]
    assert names(tmp_path) == ["data"]
    assert (folder / "a").read_text() == (folder / "b").read_text()
