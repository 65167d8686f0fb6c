"""Every point at which a command can be killed, and every call of it that can fail.

Python tells its audit hooks of each call that changes files before it is made, whoever makes it. So
one run of a command shows what a kill would leave at each point, and a call can be made to fail.
Libraries that write by themselves (ITK) are reached by a limit on the size of files.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from nnunet_meep.atomic import is_temporary, remove_left_over

#: The files below a folder by their paths in it; None for folders.
State = dict[str, bytes | None]

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.fsync"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)

#: What is called before each change; None: nothing. An audit hook cannot be removed again.
_before: Callable[[str, tuple[Any, ...]], None] | None = None
_hooks: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _before
    if _before is None or not (event in _CHANGES or event == "open"):
        return
    if event == "open" and not (isinstance(arguments[0], str) and arguments[2] & _WRITING):
        return
    call, _before = _before, None  # it changes files itself
    try:
        call(event, arguments)
    finally:
        _before = call


@contextmanager
def before_changes(root: Path, call: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``call(event, path)`` before each change below a folder, and before each fsync."""
    global _before
    if not _hooks:
        sys.addaudithook(_hook)
        _hooks.append("installed")

    def is_below(arguments: tuple[Any, ...]) -> bool:
        paths = [a for a in arguments[:2] if isinstance(a, str | os.PathLike)]
        return any(Path(os.path.abspath(path)).is_relative_to(root) for path in paths)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        relative = event in ("os.remove", "os.rmdir") and arguments[1] >= 0  # to a descriptor
        if relative or is_below(arguments):
            call(event, "" if event == "os.fsync" else str(arguments[0]))

    fsync = os.fsync

    def synced(descriptor: int) -> None:
        _hook("os.fsync", (root,))  # no event of Python's
        fsync(descriptor)

    with patch.object(os, "fsync", synced):
        _before = on_event
        try:
            yield
        finally:
            _before = None


def read_state(root: Path) -> State:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def write_state(root: Path, state: State) -> None:
    """Make a folder what it was; its temporary folders then belong to no process."""
    shutil.rmtree(root)
    root.mkdir()
    for name, content in state.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def killed(root: Path, run: Callable[[], int]) -> list[State]:
    """Run a command to its end; what a kill before each of its changes would have left."""
    states: list[State] = []

    def note(event: str, path: str) -> None:
        states.append(read_state(root))

    with before_changes(root, note):
        assert run() == 0
    return states


def failing(root: Path, run: Callable[[], int], n: int) -> int:
    """The exit code of a command whose n-th change fails, by a full disk or another error."""
    changes = 0

    def fail(event: str, path: str) -> None:
        nonlocal changes
        changes += 1
        if changes == n + 1:
            number = _ERRORS[n % len(_ERRORS)]
            raise OSError(number, os.strerror(number), *([path] if path else []))

    with before_changes(root, fail):
        return run()


def limited(run: Callable[[], int], n_bytes: int) -> int:
    """The exit code of a command that can write no file of more than ``n_bytes``."""
    resource = pytest.importorskip("resource", reason="limits a file's size the Unix way")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        return run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def recover(root: Path) -> State:
    """What is there once the next run has removed what was left over."""
    for folder in [p.parent for p in root.rglob(".tmp-meep-*") if is_temporary(p)]:
        remove_left_over(folder)
    state = read_state(root)
    assert not any(is_temporary(Path(name)) for name in state)
    return state


def assert_whole(state: State, before: State, after: State) -> None:
    """Every file is the one from before or the new one, and none is lost.

    But for what nnU-Net writes, and claims, which may be empty.
    """
    for name, content in state.items():
        if content is not None and ".uncalibrated" not in name and ".claim-" not in name:
            versions = [meaning(name, s[name]) for s in (before, after) if name in s]
            assert meaning(name, content) in versions, name
    assert {name for name in before if name in after} <= set(state)


def same(state: State, other: State) -> bool:
    return {n: meaning(n, c) for n, c in state.items()} == {
        n: meaning(n, c) for n, c in other.items()
    }


def meaning(name: str, content: bytes | None) -> Any:
    """The content of a file without when it was written."""
    if content is None:
        return None
    if name.endswith((".npz", ".pth")):
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.comment, {n: archive.read(n) for n in archive.namelist()}
    if name.endswith(".json"):
        found = json.loads(content)
        found.get("origin", {}).pop("written", None)
        return found
    return content
