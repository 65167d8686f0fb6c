"""Whether the user's files that a step reads are still those that it read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.identity import label_map_identity

#: Of each file, by its path with placeholders: size in bytes, time of its last change in
#: nanoseconds, and what tells its content.
Inputs: TypeAlias = "dict[str, tuple[int, int, str]]"


def look_at(files: Iterable[str], folders: Folders) -> Inputs:
    """What is known of the files; without those that cannot be read."""
    found = {}
    for text in files:
        path = folders.path(text)
        try:
            size, changed = _size_and_time(path)
            found[text] = (size, changed, _identity(path, size, changed))
        except (OSError, InputError):
            continue
    return found


def are_same(files: Iterable[str], before: Mapping[str, object], folders: Folders) -> bool:
    """Whether the files are those of an earlier :func:`look_at`, none more and none less."""
    names = list(files)
    return before.keys() == set(names) and still_there(names, before, folders)


def still_there(files: Iterable[str], before: Mapping[str, object], folders: Folders) -> bool:
    """Whether each file of an earlier :func:`look_at` is among the files, with the same content.

    A file with the same size and time counts as the same, so that a look at many takes no time:
    what ``cp -p`` puts in its place has the time of another file.
    """
    return before.keys() <= set(files) and all(
        _is_same(folders.path(text), entry) for text, entry in before.items()
    )


def _is_same(path: Path, before: object) -> bool:
    try:
        size, changed = _size_and_time(path)
        if not isinstance(before, list | tuple) or size != before[0]:
            return False
        return bool(changed == before[1] or _identity(path, size, changed) == before[2])
    except (OSError, InputError, IndexError):
        return False


def _size_and_time(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@cache
def _identity(path: Path, size: int, changed: int) -> str:
    return label_map_identity(path)
