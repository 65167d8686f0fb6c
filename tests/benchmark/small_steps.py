"""Benchmarks of small steps, which note in a file that they ran."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.running import runner
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.machine import Machine, Slot
from nnunet_meep.benchmark.running.records import Claim, Record, Records
from nnunet_meep.benchmark.running.runner import Runner
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.errors import InputError

_NO_PLAN = Plan(Path("plan.toml"), {}, (), (), (), 15, True, 1, ())
#: A command that notes its first argument, makes the other ones, and then waits if it should.
COMMAND = """\
import pathlib, signal, sys
def main():
    _, name, work, wait, *outputs = sys.argv
    if wait == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(pathlib.Path(work, "ran.txt"), "a") as file:
        file.write(name + "\\n")
    if wait == "fail":
        raise SystemExit("ValueError: on purpose")
    if wait == "die":
        signal.raise_signal(signal.SIGKILL)
    while wait in ("forever", "stubborn"):
        signal.pause()
    for output in outputs:
        pathlib.Path(output).parent.mkdir(exist_ok=True)
        pathlib.Path(output).write_text(name)
"""


class Given(State):
    """A state of given steps, in place of those of a plan; goals are all, if none are named."""

    def __init__(self, work: Path, steps: Sequence[Step], goals: Sequence[str] = ()) -> None:
        places = {name: work / name for name in ("raw", "preprocessed", "results")}
        super().__init__(_NO_PLAN, Folders(work=work, **places))
        self._add(steps, [step for step in steps if not goals or step.key in goals])

    def update(self) -> None:
        pass


def output_of(key: str) -> str:
    return f"{{work}}/out/{key.replace('/', '_')}"


def action(key: str, *needs: str, says: str = "do", **more: Any) -> Step:
    """A step without a command; it fails as long as there is a file ``fail_KEY``."""
    outputs = more.pop("outputs", (output_of(key),))

    def act(folders: Folders) -> None:
        with (folders.work / "ran.txt").open("a") as file:
            file.write(f"{key}\n")
        if (folders.work / f"fail_{key}").exists():
            raise InputError(f"{key}: on purpose")
        for output in outputs:
            folders.path(output).parent.mkdir(exist_ok=True)
            folders.path(output).write_text(f"{says} {key}")

    return Step(key, (says, key), outputs, needs, action=act, is_action=True, **more)


def command(key: str, *needs: str, wait: str = "no", **more: Any) -> Step:
    """A step with the command ``small-step``, see :data:`COMMAND`."""
    outputs = more.pop("outputs", (output_of(key),))
    return Step(key, ("small-step", key, "{work}", wait, *outputs), outputs, needs, **more)


def run(state: State, n_slots: int = 1, show: Any = lambda _: None) -> Runner:
    """Run what is pending, looking around all the time."""
    runner._LOOK, runner._LOOK_AROUND, runner._CHECK = 0.005, 0.05, 0.0
    machine = Machine("cpu", (Slot(True, True),) * n_slots, n_slots)
    told: list[tuple[str, str, str]] = []
    made = Runner(state, machine, lambda event, step, text: told.append((event, step.key, text)))
    made.told = told  # type: ignore[attr-defined]
    made.run(show)
    return made


def ran(work: Path) -> list[str]:
    """The steps that ran, in order, as often as they ran."""
    path = work / "ran.txt"
    return path.read_text().split() if path.exists() else []


def in_turn(work: Path) -> list[Step]:
    """Twelve steps in three chains, the last of each a command."""
    del work
    return [
        (command if i == 3 else action)(f"{chain}/{i}", *([f"{chain}/{i - 1}"] if i else []))
        for i in range(4)
        for chain in "abc"
    ]


def run_beside_others(work: Path, barrier: Barrier | None) -> None:
    """What a process does that runs :func:`in_turn`; says on stdout what begins and ends."""
    runner._LOOK, runner._LOOK_AROUND, runner._CHECK = 0.005, 0.05, 0.0
    machine = Machine("cpu", (Slot(True, True),) * 2, 2)
    if barrier is not None:
        barrier.wait()
    Runner(Given(work, in_turn(work)), machine, _say).run()


def _say(event: str, step: Step, text: str) -> None:
    print(event, step.key, flush=True)


def claim_all(folder: Path, keys: Sequence[str], barrier: Barrier) -> Counter[str]:
    """What a process does that claims each key as soon as it can; those that it gets."""
    records = Records(folder)
    got: Counter[str] = Counter()
    for key in keys:
        barrier.wait()
        got[key] += records.claim(key) is not None
    barrier.wait()  # alive until all have tried
    return got


def claim_and_wait(folder: Path, key: str, group: int) -> None:
    """What a process does that is killed while its command, of a process group, runs."""
    records = Records(folder)
    claim = records.claim(key)
    assert claim is not None
    records.update(claim, group)
    print("claimed", flush=True)
    sys.stdin.read()


def finished(state: State, step: Step, how: str = "done") -> None:
    """As if another runner had finished a step."""
    if how == "done":
        for text in step.outputs:
            state.folders.path(text).parent.mkdir(exist_ok=True)
            state.folders.path(text).write_text("by another")
    record = Record(how, "another", list(step.command), state.identities(step), state.sizes(step))
    state.records.write(step.key, record)


def of_another_machine(claim: Claim, age: float) -> None:
    """Make a claim one of another machine, touched some seconds ago."""
    import json
    import os

    content = json.loads(claim.path.read_bytes())
    claim.path.write_text(json.dumps({**content, "machine": "far away", "process": 1}))
    now = time.time()
    os.utime(claim.path, (now - age, now - age))
