"""Run the steps of a plan side by side, go on where an earlier run stopped, share with others."""

from __future__ import annotations

import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from nnunet_meep import __version__
from nnunet_meep.benchmark.running import inputs
from nnunet_meep.benchmark.running.keep_alive import kept_alive
from nnunet_meep.benchmark.running.launch import entry_point
from nnunet_meep.benchmark.running.machine import Machine, Slot
from nnunet_meep.benchmark.running.process import Process, end, how_it_ended
from nnunet_meep.benchmark.running.progress import last_error
from nnunet_meep.benchmark.running.records import (
    BEGUN,
    DONE,
    FAILED,
    Claim,
    Record,
    Records,
    end_group,
    new_identity,
)
from nnunet_meep.benchmark.running.state import FOUND, State, words
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.errors import InputError

#: Seconds between two looks at the running steps, at other runners' steps, and at the claims.
_LOOK, _LOOK_AROUND, _CHECK = 0.2, 2.0, 20.0


@dataclass
class Running:
    """A step that this runner works on."""

    step: Step
    slot: Slot
    claim: Claim
    record: Record
    process: Process


class Runner:
    """Runs what is pending.

    Args:
        state: of the plan.
        machine: where the steps run.
        tell: is called with each step that starts (with its line: ``$`` and a command that can be
            copied, or ``#`` and words), ends, or fails (with a reason).

    Attributes:
        failed: why a step failed, by its key, in this run.
        running: the steps that this runner works on.
    """

    def __init__(
        self, state: State, machine: Machine, tell: Callable[[str, Step, str], None]
    ) -> None:
        self.state, self.machine, self._tell = state, machine, tell
        self.failed: dict[str, str] = {}
        self.running: list[Running] = []
        self._free = list(machine.slots)
        self._claims: list[Claim] = []
        self._places: dict[str, Claim] = {}
        self._waiting: set[str] = set()
        self._earlier: dict[str, Record | None] = {}
        self._looked = self._checked = float("-inf")
        self._pending: list[Step] = []

    def run(self, show: Callable[[Runner], None] = lambda _: None) -> None:
        """Run until everything is done, failed, or waits for something that failed.

        Args:
            show: is called again and again, to show what is running.
        """
        self.state.records.remove_left_over()
        with kept_alive(self.state.records, self._claims):
            try:
                while True:
                    ended = self._finish()
                    if ended or time.monotonic() - self._looked > _LOOK_AROUND:
                        self._look_around()
                        self._start()
                        if self._is_over():
                            return
                    self._give_up_lost()
                    show(self)
                    time.sleep(_LOOK)
            finally:
                end([running.process for running in self.running])
                for running in self.running:
                    self._release(running.step, running.claim)

    def _look_around(self) -> None:
        self.state.update()
        self._pending = self.state.pending()
        self._looked = time.monotonic()
        for step in self._pending:
            if step.key not in self._earlier:
                self._earlier[step.key] = self._failure(step)

    def _failure(self, step: Step) -> Record | None:
        record = self.state.records.read(step.key)
        return record if record is not None and record.state == FAILED else None

    def _is_over(self) -> bool:
        if self.running or self._waits_for_others():
            return False
        self._look_around()  # somebody may have finished or left a step a moment ago
        if next(self._startable(), None) is None:
            return True
        self._looked = float("-inf")
        return False

    # Starting

    def _start(self) -> None:
        """Start what can be started; small actions are done on the spot."""
        acted = True
        while acted:
            acted = False
            for step in self._startable():
                slot = next((s for s in self._free if _fits(step, s)), None)
                if slot is None and not step.is_action:
                    continue
                claim = self._claim(step)
                if claim is None:
                    continue
                try:
                    self._begin(step, slot, claim)
                finally:
                    if not any(running.step is step for running in self.running):
                        self._release(step, claim)
                        acted = True
            if acted:
                self._look_around()

    def _claim(self, step: Step) -> Claim | None:
        """Claim a step, and the place it shares with other benchmarks; None if either is taken."""
        if self._is_place_taken(step):
            if step.key not in self._waiting:
                self._waiting.add(step.key)
                where = self.state.folders.path(step.place)
                self._tell("waits", step, f"another benchmark works in {where}")
            return None
        claim = self.state.records.claim(step.key)
        if claim is None:
            return None
        self._claims.append(claim)
        if step.place:
            records, name = self._place(step)
            place = records.claim(name)
            if place is None:
                self._release(step, claim)
                return None
            self._claims.append(place)
            self._places[step.key] = place
        return claim

    def _startable(self) -> Iterator[Step]:
        taken = {running.step.key for running in self.running} | self.failed.keys()
        waiting = {step.key for step in self._pending}
        for step in self._pending:
            can_start = step.key not in taken and waiting.isdisjoint(step.needs)
            if can_start and not self._failed_elsewhere(step):
                yield step

    def _failed_elsewhere(self, step: Step) -> bool:
        """Whether another runner failed with it; what failed before this run is tried again."""
        failure = self._failure(step)
        if failure is None or failure == self._earlier[step.key]:
            return False
        self.failed[step.key] = failure.reason
        return True

    def _begin(self, step: Step, slot: Slot | None, claim: Claim) -> None:
        """Begin a claimed step, unless it is done by now; a small action is then done, too."""
        state = self.state
        if state.is_done(step):
            return
        before = state.records.read(step.key)
        record = Record(
            BEGUN,
            new_identity(),
            list(words(step)),
            state.identities(step),
            inputs=inputs.look_at(step.inputs, state.folders),
            fold={name: list(cases) for name, cases in step.fold.items()},
            versions=versions(),
            host=socket.gethostname(),
            started=time.time(),
        )
        sizes = state.sizes(step)
        ours = before.outputs if before is not None and before.identity != FOUND else {}
        theirs = [text for text, size in sizes.items() if size >= 0 and text not in ours]
        if step.is_same is not None and theirs:
            self._fail(
                step,
                record,
                f"{state.folders.path(theirs[0])}: expected no such file, as this benchmark did "
                f"not make it, nor one with the same settings; {step.instead}",
            )
            return
        record = replace(record, outputs=sizes)
        # A record of another configuration, say, tells nothing of what is in this one's folder.
        of_this = before is not None and not before.outputs.keys().isdisjoint(step.outputs)
        goes_on = state.can_resume(step, before) or (step.adopts and not of_this)
        if step.resume is None or not goes_on:
            for text in step.clear:
                clear(state.folders.path(text))
        state.records.write(step.key, record)
        if step.is_action or slot is None:
            self._tell("start", step, "# " + " ".join(state.folders.fill(w) for w in words(step)))
            self._end(step, record)
            return
        command = [state.folders.fill(word) for word in step.command]
        try:
            if step.resume is not None and goes_on:
                command = step.resume(state.folders, command)
            entry_point(command[0])
            command = step.complete(command)
        except (InputError, OSError) as error:
            self._fail(step, record, str(error))
            return
        line = "$ " + shlex.join(command + self._device(step))
        if step.detail:
            line += "  # " + step.detail.lstrip("; ")
        command += self._device(step)
        if step.processes:
            alone = not self.running
            command += [
                step.processes,
                str(self.machine.cores if alone else self.machine.threads),
            ]
        self._tell("start", step, line)
        process = Process(
            command,
            state.log(step),
            self.machine.environment(
                slot, state.folders.environment(), trains=step.command[0] == "nnUNetv2_train"
            ),
            self.machine.threads,
        )
        running = Running(step, slot, claim, record, process)
        self.running.append(running)  # at once, so that it is ended whatever happens
        self._free.remove(slot)
        running.claim = state.records.update(claim, process.group)
        if step.key in self._places:
            self._places[step.key] = state.records.update(self._places[step.key], process.group)

    def _device(self, step: Step) -> list[str]:
        return ["-device", self.machine.device] if step.on_device else []

    # Ending

    def _finish(self) -> bool:
        """Record the steps that have ended; whether there were any."""
        ended = [r for r in self.running if r.process.returncode() is not None]
        for running in ended:
            if self._is_lost(running):
                continue
            self.running.remove(running)
            self._free.append(running.slot)
            code = running.process.returncode()
            usage = {"device": "CPU", **running.process.usage()}
            record = replace(running.record, usage=usage)
            if code == 0:
                self._end(running.step, record)
            else:
                # Its workers may still be there, for example if it was killed.
                end_group(running.process.group, running.claim.group_started)
                reason = f"{last_error(running.process.output())} ({how_it_ended(code or 0)})"
                self._fail(running.step, record, reason)
            self._release(running.step, running.claim)
        return bool(ended)

    def _end(self, step: Step, record: Record) -> None:
        """Do what follows the command, and record the step as done."""
        try:
            if step.action is not None:
                step.action(self.state.folders)
        except (InputError, OSError) as error:
            self._fail(step, record, str(error))
            return
        sizes = self.state.sizes(step)
        if missing := [text for text, size in sizes.items() if size < 0]:
            self._fail(step, record, f"it ended without {self.state.folders.path(missing[0])}")
            return
        seconds = time.time() - record.started
        record = replace(record, state=DONE, outputs=sizes, seconds=seconds)
        self.state.records.write(step.key, record)
        self._tell("done", step, "")

    def _fail(self, step: Step, record: Record, reason: str) -> None:
        seconds = time.time() - record.started
        record = replace(record, state=FAILED, reason=reason, seconds=seconds)
        self.state.records.write(step.key, record)
        self.failed[step.key] = reason
        self._tell("failed", step, reason)

    # Others

    def _release(self, step: Step, claim: Claim) -> None:
        held = self._held(step, claim)
        self._claims[:] = [other for other in self._claims if other.path not in held]
        if step.key in self._places:
            records, name = self._place(step)
            records.release(name, self._places.pop(step.key))
        self.state.records.release(step.key, claim)

    def _held(self, step: Step, claim: Claim) -> dict[Path, Claim]:
        """A step's claim, and that of its place, by their files."""
        claims = [claim, *(c for key, c in self._places.items() if key == step.key)]
        return {held.path: held for held in claims}

    def _place(self, step: Step) -> tuple[Records, str]:
        """Where the claim of a step's place is, beside it, and its name there."""
        path = self.state.folders.path(step.place)
        return Records(path.parent), f".{path.name}"

    def _is_place_taken(self, step: Step) -> bool:
        if not step.place or step.key in self._places:
            return False
        records, name = self._place(step)
        return records.holder(name) is not None

    def _give_up_lost(self) -> None:
        """Look from time to time whether another runner has taken something over."""
        if time.monotonic() - self._checked < _CHECK:
            return
        self._checked = time.monotonic()
        for running in list(self.running):
            self._is_lost(running)

    def _is_lost(self, running: Running) -> bool:
        """Whether another runner has taken a step over; this one then stops working on it."""
        claims = self._held(running.step, running.claim).values()
        if all(map(self.state.records.touch, claims)):
            return False
        end([running.process])
        self.running.remove(running)
        self._free.append(running.slot)
        self._release(running.step, running.claim)
        self._tell("lost", running.step, "another runner has taken it over")
        return True

    def _waits_for_others(self) -> bool:
        """Whether another runner works on something that is pending here."""
        return any(
            self.state.records.holder(step.key) is not None or self._is_place_taken(step)
            for step in self._pending
            if step.key not in self.failed
        )


def clear(folder: Path) -> None:
    """Delete what a step left, but keep a training beside it under another name."""
    if checkpoints := list(folder.glob("checkpoint_*.pth")):
        made = datetime.fromtimestamp(max(path.stat().st_mtime for path in checkpoints))
        kept = folder.with_name(f"earlier_{folder.name}_{made:%Y-%m-%d_%H%M%S}")
        if not kept.exists():
            folder.rename(kept)
            return
    shutil.rmtree(folder, ignore_errors=True)


def _fits(step: Step, slot: Slot) -> bool:
    return slot.for_device if step.on_device else slot.for_others


def versions() -> dict[str, str]:
    """The versions of the packages that make the numbers."""
    names = ("nnunetv2", "torch", "numpy")
    return {"nnunet-meep": __version__, **{name: version(name) for name in names}}
