"""What is known of each step: a record once it has ended, a claim while somebody works on it.

Both are small files in ``WORK/steps``, named after the step. Several runners, also on several
machines with one file system, share the steps by them. A claim is a file that only one of them can
create. Its runner touches it regularly; if a runner was killed, its claim is taken over by creating
the next one, ``STEP.claim-2`` after ``STEP.claim-1``, which again only one can do. Claims are
removed only by the runner that holds the last one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import psutil

from nnunet_meep.atomic import boot_id, remove_left_over, replacing_file, temporary_folder
from nnunet_meep.json_file import parse_json, read_json

#: Seconds after which the claim of a runner on another machine counts as left behind.
STALE = 180.0
#: The same for a claim without content: its runner was killed while it wrote it.
_UNWRITTEN = 60.0
BEGUN, DONE, FAILED = "begun", "done", "failed"


@dataclass(frozen=True)
class Record:
    """What happened to a step.

    Attributes:
        state: ``begun``, ``done`` or ``failed``.
        identity: different for each time that the step ran.
        command: with placeholders for folders.
        needs: the identities of the records of the steps that it needed.
        outputs: sizes in bytes, by path with placeholders; -1 for what is missing, unless done.
        inputs: what is known of the user's files that it read; see :mod:`.inputs`.
        fold: the cases that a training trained and validated on.
        versions: of the packages that ran it.
        host: name of the machine.
        started: seconds since 1970.
        seconds: how long it took, without attempts that were interrupted.
        reason: why it failed, one line.
        usage: ``device``, ``memory_mb``, ``gpu_memory_mb`` as far as they are known.
    """

    state: str
    identity: str
    command: list[str]
    needs: dict[str, str]
    outputs: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    fold: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    host: str = ""
    started: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


#: Of each attribute; numbers may be written without a fraction.
_KINDS: dict[str, Any] = {
    name: (int, float) if kind is float else get_origin(kind) or kind
    for name, kind in get_type_hints(Record).items()
}


@dataclass(frozen=True)
class Claim:
    """Who works on a step.

    Attributes:
        path: its file.
        machine: see :func:`this_machine`.
        process: the runner's process ID.
        process_started: when that process started (:func:`start_of`); IDs are used again.
        group: process group of the command that it runs; 0 if none.
        group_started: when that command started.
    """

    path: Path
    machine: str
    process: int
    process_started: float
    group: int = 0
    group_started: float = 0.0

    @property
    def owner(self) -> tuple[str, int, float]:
        """What tells its runner from all others."""
        return self.machine, self.process, self.process_started


class Records:
    """The records and claims in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> Record | None:
        """The record of a step; None if there is none, or none that can be read."""
        try:
            record = Record(**read_json(self._path(key)))
        except (OSError, ValueError, TypeError):
            return None
        is_whole = all(isinstance(value, _KINDS[name]) for name, value in vars(record).items())
        return record if is_whole else None

    def write(self, key: str, record: Record) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")

    def remove_left_over(self) -> None:
        """Remove what killed runners were writing."""
        for folder in list(self._folder.glob("**/")):
            remove_left_over(folder)

    def claim(self, key: str) -> Claim | None:
        """Claim a step for this process; None if somebody else holds it.

        The record has to be read again afterwards: the step may have ended in between. What a
        killed runner on this machine left running for the step is ended.
        """
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        last = self._last(key)
        if last is not None and self.holder(key) is not None:
            return None
        left = None if last is None else _read(last)
        number = 1 if last is None else _number(last) + 1
        me = os.getpid()
        claim = Claim(self._path(key, f".claim-{number}"), this_machine(), me, start_of(me))
        try:
            with claim.path.open("x") as file:
                file.write(_content(claim))
        except FileExistsError:
            return None
        except OSError as error:  # the disk is full
            claim.path.unlink(missing_ok=True)
            error.filename = str(claim.path)
            raise
        # Since the look at the last one, others may have claimed and released the step.
        if self._last(key) != claim.path or (last is not None and _read(last) != left):
            claim.path.unlink(missing_ok=True)
            return None
        if left is not None and left.machine == claim.machine:
            end_group(left.group, left.group_started)
        return claim

    def update(self, claim: Claim, group: int) -> Claim:
        """Note in a claim which process group works on it."""
        claim = replace(claim, group=group, group_started=start_of(group))
        with replacing_file(claim.path) as temporary:
            temporary.write_text(_content(claim), encoding="utf-8")
        return claim

    def touch(self, claim: Claim) -> bool:
        """Show that the claim's runner is alive. False if another runner has taken it over."""
        try:
            if not _is_of(claim, claim.path.read_bytes()):
                return False
            os.utime(claim.path)
            return not claim.path.with_name(_following(claim.path)).exists()
        except FileNotFoundError:  # taken over, and by now released
            return False
        except OSError:  # a network drive may be away for a moment
            return True

    def release(self, key: str, claim: Claim) -> None:
        """Give a claim up, unless it was taken over; its step's record has to be written before."""
        if not self.touch(claim):
            return
        for number in range(1, _number(claim.path) + 1):
            self._path(key, f".claim-{number}").unlink(missing_ok=True)

    def holder(self, key: str) -> Claim | None:
        """The claim on a step whose runner is alive; None if there is none."""
        last = self._last(key)
        if last is None:
            return None
        claim = _read(last)
        if claim is None:
            return None if self._age(last) > _UNWRITTEN else Claim(last, "unknown", 0, 0.0)
        if claim.machine == this_machine():
            return claim if _is_alive(claim) else None
        return None if self._age(last) > STALE else claim

    def _last(self, key: str) -> Path | None:
        path = self._path(key)
        found = list(path.parent.glob(f"{path.stem}.claim-*")) if path.parent.is_dir() else []
        return max(found, key=_number, default=None)

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of the file system it lies on.

        Also if that clock was set back since, and the file seems to be touched in the future.
        """
        try:
            with temporary_folder(self._folder) as probe:
                return abs(probe.stat().st_mtime - path.stat().st_mtime)
        except OSError:  # released in the meantime
            return 0.0

    def _path(self, key: str, ending: str = ".json") -> Path:
        return self._folder / f"{key}{ending}"


def new_identity() -> str:
    return uuid.uuid4().hex


def this_machine() -> str:
    """A name for where process IDs mean the same: the host since its start, and the container."""

    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {boot_id()} {namespace}"


def start_of(process: int) -> float:
    """When a process started, in seconds; 0 if there is no such process.

    On Linux since the machine started, because the time of day may be set while the process runs;
    elsewhere since 1970, as the system noted it at the time.
    """
    try:
        # First, because older versions of psutil keep it for the start of processes.
        boot = psutil.boot_time() if sys.platform.startswith("linux") else 0.0
        created: float = psutil.Process(process).create_time()
        return created - boot
    except psutil.Error:
        return 0.0


def end_group(group: int, started: float) -> None:
    """End the processes of a group, unless its ID has been used again.

    An ID is free as long as nothing of the group is left. Its first process is therefore the right
    one, has ended before its workers, or is another one with another start.

    Args:
        group: process group; 0 does nothing.
        started: when its first process started, see :func:`start_of`.
    """
    if not group or os.name != "posix":
        return
    first = start_of(group)
    if first and not _is_near(first, started):
        return
    for process in psutil.pids():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process) == group:
                psutil.Process(process).kill()


def _is_alive(claim: Claim) -> bool:
    try:
        return (
            _is_near(start_of(claim.process), claim.process_started)
            and psutil.Process(claim.process).status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


def _is_near(one: float, other: float) -> bool:
    """Whether two starts are the same; they are kept in ticks."""
    return abs(one - other) < 1


def _content(claim: Claim) -> str:
    content: Mapping[str, Any] = asdict(claim)
    return json.dumps({key: value for key, value in content.items() if key != "path"})


def _read(path: Path) -> Claim | None:
    try:
        return Claim(path=path, **read_json(path))
    except (OSError, ValueError, TypeError):
        return None


def _is_of(claim: Claim, content: bytes) -> bool:
    """Whether the file of a claim holds one of the same runner; its command may differ."""
    try:
        return Claim(path=claim.path, **parse_json(content)).owner == claim.owner
    except (ValueError, TypeError):
        return False


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _following(path: Path) -> str:
    return f"{path.name.rpartition('-')[0]}-{_number(path) + 1}"
