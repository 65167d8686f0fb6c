"""A step of a benchmark: a command of nnU-Net or of this package, and what it needs.

A step is shown as a line that can be copied. Paths in it begin with a placeholder, such as
``{results}`` (see :mod:`.folders`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nnunet_meep.benchmark.running.folders import Folders


def _no_progress(log: str) -> str:
    return "running"


@dataclass(frozen=True)
class Step:
    """One command, or one small action of this package.

    Attributes:
        key: its name, also of its record and log; parts separated by ``/``.
        command: with placeholders; without an executable, words that say what ``action`` does.
        outputs: files that are there when it is done.
        needs: keys of the steps before it.
        inputs: the user's own files that it reads, which may change at any time.
        fold: the cases that a training trains and validates on, by nnU-Net's keys.
        clear: folders to delete before it starts anew, that is without ``resume``.
        action: called after the command, or instead of one if ``is_action``.
        is_action: whether there is no command.
        detail: shown behind the command, and part of what it is.
        processes: the flag that takes a number of processes, if there is one.
        on_device: whether it takes ``-device``, and a GPU where there is one.
        progress: tells from its output how far it is.
        resume: the command to go on where it was interrupted, from the command to begin with;
            None: it always starts anew.
        adopts: whether it goes on with what is there without a record.
        complete: adds to the command what its record does not name, such as the user's folders.
        found: whether it counts as done where its outputs exist without a record, and whatever its
            command is.
        is_same: whether an output that exists without a record is what it would make, and counts
            as done; otherwise it is somebody else's, and stays. None: all outputs are its own.
        place: a folder that other benchmarks may write into, too; only one works in it at a time.
        instead: what to do where an output is somebody else's.
    """

    key: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    fold: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    clear: tuple[str, ...] = ()
    action: Callable[[Folders], None] | None = None
    is_action: bool = False
    detail: str = ""
    processes: str = ""
    on_device: bool = False
    progress: Callable[[str], str] = _no_progress
    resume: Callable[[Folders, list[str]], list[str]] | None = None
    adopts: bool = False
    complete: Callable[[list[str]], list[str]] = list
    found: bool = False
    is_same: Callable[[Folders], bool] | None = None
    instead: str = ""
    place: str = ""
