"""Write outputs completely or not at all: in a temporary folder beside them, then renamed.

A process holds a lock on each of its temporary folders. The system gives the lock up however the
process ends, so that a folder nobody has locked is left over: who makes the next one in the same
place removes it. What is renamed has been written to the disk before (``fsync``): a power cut, too,
leaves the old one or the new one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, so nothing that is left over is removed
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".tmp-meep-"
#: With the machine that made it, as :func:`_machine` names it.
_NAME = re.compile(re.escape(_PREFIX) + "([0-9a-f]{8})-[0-9a-f]{8}")
#: Other machines that share the file system do not see locks on folders. What another one has made,
#: or this one before it was restarted, is left over if nobody wrote to it for so many seconds.
_UNTOUCHED = 24 * 3600.0
#: In a temporary folder: a folder from beside it on its way out, which is put back if it is missed.
_OLD = ".replaced"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` if the block succeeds.

    It has the same name, for writers that depend on it. An old file is kept until the rename, and
    for good if the block raises.
    """
    with replacing_files([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """:func:`replacing_file` of several in one folder: all are complete before the first rename.

    They get their names in the given order. If the process is killed in between, the first ones are
    new and the others old, each of them whole.
    """
    (folder,) = {path.parent for path in paths}
    named = paths[0] if len(paths) == 1 else folder
    with temporary_folder(folder, error_names=named) as new:
        temporaries = [new / path.name for path in paths]
        yield temporaries
        for temporary in temporaries:
            _sync(temporary)
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds.

    Raises:
        FileExistsError: ``path`` exists already; it is not changed.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    with _new_folder(path) as new:
        yield new
        _sync_all(new)
        new.rename(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds.

    An old folder is kept until then, and for good if the block raises. If the process is killed
    between the two renames, whoever writes there next puts the old one back.
    """
    with _new_folder(path) as new:
        yield new
        _sync_all(new)
        old = new.with_name(_OLD) / path.name
        old.parent.mkdir()
        if path.exists():
            path.rename(old)
        new.rename(path)


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent, error_names=path) as temporary:
        new = temporary / path.name
        new.mkdir()
        yield new


@contextmanager
def temporary_folder(
    parent: Path | None = None, *, error_names: Path | None = None
) -> Iterator[Path]:
    """Yield a folder that is removed at the end, or by :func:`remove_left_over`.

    Args:
        parent: where it is made; None: in the system's folder for temporary files.
        error_names: what an ``OSError`` of the block names that has no file; None: ``parent``.
            Those of a file in the temporary folder name the one in ``parent``.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    remove_left_over(parent)
    folder, lock = _create(parent)
    try:
        yield folder
    except OSError as error:
        error.strerror = error.strerror or str(error)  # of libraries, without a number
        for name in ("filename", "filename2"):
            if found := getattr(error, name):
                setattr(error, name, str(found).replace(str(folder), str(parent)))
        error.filename = error.filename or str(error_names or parent)
        raise
    finally:
        _remove(folder)
        if lock is not None:
            os.close(lock)


def move_files(new: Path, folder: Path, *, last: str | None = None) -> list[Path]:
    """Move all files in a temporary folder to the same places in another one, replacing old ones.

    Args:
        new: a temporary folder on the same file system.
        folder: exists.
        last: name of the file that shows that the others are there.

    Returns:
        Their new paths.
    """
    files = sorted(_sync_all(new), key=lambda path: path.name == last)
    targets = [folder / path.relative_to(new) for path in files]
    for path, target in zip(files, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return targets


def is_temporary(path: Path) -> bool:
    """Whether a path is a temporary folder, of a process that runs or of one that was killed."""
    return _NAME.fullmatch(path.name) is not None


def remove_left_over(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` whose process is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        name = _NAME.fullmatch(folder.name)
        if name is None or (name[1] != _machine() and not _is_untouched(folder)):
            continue
        with suppress(OSError):  # locked, or somebody else's
            lock = _lock(folder)
            try:
                _remove(folder)
            finally:
                os.close(lock)


def _create(parent: Path) -> tuple[Path, int | None]:
    """A new folder and its lock; None where folders cannot be locked."""
    while True:
        folder = parent / f"{_PREFIX}{_machine()}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            error.filename = str(parent)
            raise
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody took it for left over before it was locked
        except OSError:
            return folder, None


def _lock(folder: Path) -> int:
    """Lock a folder until the descriptor that is returned is closed, or the process ends.

    Raises:
        BlockingIOError: another process has locked it.
        FileNotFoundError: it is gone.
        OSError: it cannot be locked.
    """
    if fcntl is None:
        raise OSError("no locks")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path) -> None:
    """Remove a temporary folder, unless it holds an old folder that cannot be put back."""
    with suppress(OSError):
        for old in (folder / _OLD).glob("*"):
            if not os.path.lexists(folder.with_name(old.name)):
                old.rename(folder.with_name(old.name))
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Write a file to the disk, which costs about ten milliseconds beyond what it takes anyway."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> list[Path]:
    """:func:`_sync` of all files in a folder, at any depth; returns them in order."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    for path in files:
        _sync(path)
    return files


def _is_untouched(folder: Path) -> bool:
    """Whether nobody has written to a folder, or to anything in it, for ``_UNTOUCHED`` seconds."""
    try:
        newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # somebody is at work
        return False
    return time.time() - newest > _UNTOUCHED


def boot_id() -> str:
    """A name for this machine from its start to its end; containers have that of their host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"{socket.gethostname()} {psutil.boot_time()}"


@functools.cache
def _machine() -> str:
    return hashlib.sha256(boot_id().encode()).hexdigest()[:8]
