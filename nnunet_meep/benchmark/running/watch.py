"""Show on the terminal what a runner does, how far it is, and how long it will take."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.plans.short_names import short_names
from nnunet_meep.benchmark.running.machine import Machine
from nnunet_meep.benchmark.running.records import DONE
from nnunet_meep.benchmark.running.runner import Runner, Running
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.step import Step

#: Seconds between two lines on the progress where there is no terminal.
_EVERY = 60.0


class Watch:
    """Prints a line for each step, and keeps one line on what is running up to date."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._started: dict[str, float] = {}
        self._began = self._shown = time.monotonic()
        self._width = self._n_done = 0

    def begin(self, text: str) -> None:
        """Say what begins, and the folders that the commands which are shown take."""
        self.say("\n      $ ".join([text, *self._state.folders.exports()]))

    def tell(self, event: str, step: Step, text: str) -> None:
        """What :class:`.Runner` reports of a step."""
        if event == "start":
            self._started[step.key] = time.monotonic()
            self.say(f"{_now()} {step.key}\n      {text}")
            return
        seconds = time.monotonic() - self._started.pop(step.key, time.monotonic())
        if event == "done":
            self._n_done += 1
            self.say(f"{_now()} {step.key}: done, {clock(seconds)}")
        else:
            self.say(f"{_now()} {step.key}: {event}: {text}")

    def show(self, runner: Runner) -> None:
        """What is running, and for how long still."""
        if not runner.running or not self.is_due():
            return
        head = [clock(time.monotonic() - self._began)]
        if not self._state.is_unprepared:
            n = self._n_done + len(self._state.pending())
            head.insert(0, f"{self._n_done} of {n} steps done")
        if left := time_left(self._state, runner):
            seconds, is_all = left
            head.append(f"{'about' if is_all else 'at least'} {clock(seconds)} left")
        plan = self._state.plan
        parts = [(step_label(plan, r.step.key), _progress(r)) for r in runner.running]
        self.keep(", ".join(head), parts)

    def is_due(self) -> bool:
        """Whether it is time to show again how far it is."""
        every = 1.0 if sys.stdout.isatty() else _EVERY
        return time.monotonic() - self._shown >= every

    def keep(self, head: str, parts: Sequence[tuple[str, str]]) -> None:
        """Bring the line up to date.

        Args:
            head: its beginning.
            parts: for each step that runs, its name and how far it is.
        """
        self._shown = time.monotonic()
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a full line would wrap
            line = status_line(head, parts, width)
            print(f"\r{line:<{self._width}}", end="", flush=True)
            self._width = len(line)
        else:
            print(f"      {status_line(head, parts)}", flush=True)

    def say(self, text: str) -> None:
        """Print lines above the one that is kept up to date."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="")
            self._width = 0
        print(text, flush=True)

    def stop(self) -> None:
        """Leave the line as it is, behind which a terminal shows ^C, and begin a new one."""
        if self._width:
            print()
            self._width = 0


def run_steps(state: State, machine: Machine, watch: Watch) -> Runner:
    """Run what is pending, and show how it gets on; an interruption is answered with what to do.

    Returns:
        The runner, which knows what failed.
    """
    runner = Runner(state, machine, watch.tell)
    try:
        runner.run(watch.show)
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal is gone
            watch.stop()
            watch.say("Stopped. The same command goes on from here.")
        raise
    return runner


def status_line(head: str, parts: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """One line on all that is running: names are shortened as far as it takes, not the progress.

    Args:
        head: its beginning.
        parts: for each step that runs, its name and how far it is.
        width: characters that the line may have; None: any number.
    """
    separator = " | "
    if width is not None:
        each = (width - len(head)) // max(1, len(parts)) - len(separator)
        parts = [(_shortened(name, each - len(at) - 1), at) for name, at in parts]
    return separator.join([head, *(f"{name} {at}".strip() for name, at in parts)])[:width]


def step_label(plan: Plan, key: str) -> str:
    """A step's key without what all trainings have in common: ``MEEP_H seed0 train``."""
    data, *rest = key.split("/")
    models = [model for model in plan.models if model.data == data]
    short = short_names(list(dict.fromkeys(model.trainer for model in models)))
    words = [data] if len(plan.data) > 1 else []
    for model in models:
        if len(rest) > 1 and rest[0] in model.seeds:
            seed = model.seeds[rest[0]]
            words += [short[model.trainer], *([] if seed is None else [f"seed{seed}"])]
            words += [rest[1]] if len(plan.data[data].folds) > 1 else []
            rest = rest[2:]
    return " ".join([*words, "/".join(rest)])


def time_left(state: State, runner: Runner) -> tuple[float, bool] | None:
    """Seconds until all is done, from what such steps took so far.

    Returns:
        The seconds, and whether all steps are in it; None as long as it is unknown how long a
        training takes.
    """
    if state.is_unprepared:
        return None
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for step in state.steps.values():
        record = state.records.read(step.key)
        if record is not None and record.state == DONE and record.seconds:
            took[_kind(step)].append(record.seconds)
    going = {running.step.key: running for running in runner.running}
    for running in going.values():
        if (share := _share(_progress(running))) and not took[_kind(running.step)]:
            took[_kind(running.step)].append((time.time() - running.record.started) / share)
    total, is_all = 0.0, True
    for step in state.pending():
        if step.key in runner.failed:
            continue
        if not (known := took[_kind(step)]):
            if _kind(step)[1] == "train":
                return None
            is_all = False
            continue
        estimate = sum(known) / len(known)
        if step.key in going:
            estimate -= time.time() - going[step.key].record.started
        total += max(estimate, 0.0)
    return total / max(1, len(runner.running)), is_all


def _kind(step: Step) -> tuple[str, str]:
    """Steps of one kind take about as long: the data set, and what is done."""
    data, *_, what = step.key.split("/")
    return data, what


def _progress(running: Running) -> str:
    return running.step.progress(running.process.output())


def _share(progress: str) -> float | None:
    """``epoch 12 of 50`` as a share, without the epoch that is under way."""
    match = re.search(r"epoch (\d+) of (\d+)$", progress)
    return (int(match[1]) - 1) / int(match[2]) if match and int(match[2]) else None


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: max(0, length - 1)] + "…"


def _now() -> str:
    return time.strftime("%H:%M:%S")


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss`` or ``m:ss``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
