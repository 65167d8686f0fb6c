"""Folders and files that are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_meep.atomic import replacing_files, replacing_folder


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as temporary:
        (temporary / "a.txt").write_text(text)


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path / "data", text)
        assert (tmp_path / "data" / "a.txt").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "data", "old")

    def interrupted() -> None:
        with replacing_folder(tmp_path / "data") as temporary:
            (temporary / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_old_one_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", "old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == ".new-data":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "data", "new")
    assert (tmp_path / "data" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_that_was_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "data", "old")
    (tmp_path / "data").rename(tmp_path / ".old-data")  # and then it was killed
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "data"):
        raise ZeroDivisionError
    assert (tmp_path / "data" / "a.txt").read_text() == "old"


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
