"""Show on the terminal what a runner does, how far it is, and how long it will take."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import defaultdict

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
        self._shown = time.monotonic()
        self._width = 0

    def tell(self, event: str, step: Step, text: str) -> None:
        """What :class:`.Runner` reports of a step."""
        if event == "start":
            self._started[step.key] = time.monotonic()
            self.say(f"{_now()} {step.key}\n      $ {text}")
            return
        seconds = time.monotonic() - self._started.pop(step.key, time.monotonic())
        if event == "done":
            self.say(f"{_now()} {step.key}: done, {clock(seconds)}")
        else:
            self.say(f"{_now()} {step.key}: {event}: {text}")

    def show(self, runner: Runner) -> None:
        """What is running, and for how long still."""
        every = 1.0 if sys.stdout.isatty() else _EVERY
        if time.monotonic() - self._shown < every or not runner.running:
            return
        self._shown = time.monotonic()
        parts = [f"{_short(r.step.key)} {_progress(r)}" for r in runner.running]
        left = time_left(self._state, runner)
        if left is not None:
            parts.insert(0, f"about {clock(left)} left")
        line = "; ".join(parts)
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a full line would wrap
            print(f"\r{line[:width]:<{self._width}}", end="", flush=True)
            self._width = min(len(line), width)
        else:
            print(f"      {line}", flush=True)

    def say(self, text: str) -> None:
        """Print lines above the one that is kept up to date."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="")
            self._width = 0
        print(text, flush=True)


def time_left(state: State, runner: Runner) -> float | None:
    """Seconds until all is done, from what such steps took so far; None if that is unknown."""
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for step in state.steps.values():
        record = state.records.read(step.key)
        if record is not None and record.state == DONE and record.seconds:
            took[_kind(step)].append(record.seconds)
    going = {running.step.key: running for running in runner.running}
    for running in going.values():
        if (share := _share(_progress(running))) and not took[_kind(running.step)]:
            took[_kind(running.step)].append((time.time() - running.record.started) / share)
    total = 0.0
    for step in state.pending():
        if step.key in runner.failed:
            continue
        if not (known := took[_kind(step)]):
            return None
        estimate = sum(known) / len(known)
        if step.key in going:
            estimate -= time.time() - going[step.key].record.started
        total += max(estimate, 0.0)
    return total / max(1, len(runner.running))


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


def _short(key: str) -> str:
    return key.replace("nnUNetTrainer", "", 1)


def _now() -> str:
    return time.strftime("%H:%M:%S")


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss`` or ``m:ss``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
