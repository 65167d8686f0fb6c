"""Run a plan, or a part of it, in this process; what the command and the jobs of a cluster do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.machine import Machine
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.status import failures
from nnunet_meep.benchmark.running.steps import known_keys
from nnunet_meep.benchmark.running.watch import Watch, run_steps
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.notes import counted


@dataclass(frozen=True)
class Options:
    """How to run a plan.

    Attributes:
        plan: its file.
        work: a folder for everything; None: see :meth:`.Folders.of`.
        sources: by data set: what ``{source}`` in its ``convert`` stands for.
        device, jobs, gpus, per_gpu: see :meth:`.Machine.of`.
        environment: variables for trainings, in place of the user's.
    """

    plan: Path
    work: Path | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    device: str | None = None
    jobs: int | None = None
    gpus: tuple[str, ...] = ()
    per_gpu: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def state(self, only: Sequence[str] = (), *, notes: bool = True) -> State:
        """The state of the plan; see :class:`.State`.

        Raises:
            InputError: the plan is wrong, or has no step that ``only`` asks for.
        """
        plan = read_plan(self.plan)
        _check_only(plan, only)
        folders = Folders.of(self.plan, self.work)
        state = State(plan, folders, sources=dict(self.sources), only=only, notes=notes)
        state.update()
        return state

    def machine(self) -> Machine:
        """Where the steps run.

        Raises:
            InputError: GPUs are asked for that are not there.
        """
        return Machine.of(
            self.device, self.jobs, list(self.gpus), self.per_gpu, environment=self.environment
        )


def run(options: Options, only: Sequence[str] = ()) -> None:
    """Run what is pending, with lines on its progress on stdout.

    Args:
        only: keys of trainings or steps; empty: everything, and then the report.

    Raises:
        InputError: a step failed; the message has a line for each.
    """
    state = options.state(only)
    machine = options.machine()
    watch = Watch(state)
    for model in state.plan.models:
        if model.note and not only:
            watch.say(f"Note: {model.trainer} {model.note}")
    refuse_problems(state)
    n_trainings = counted(len(state.trainings), "training")
    if state.pending():
        watch.begin(
            f"{n_trainings if state.trainings else 'Preparation'} on {machine.device}; everything "
            f"goes into {state.folders.work}"
        )
        run_steps(state, machine, watch)
    else:
        watch.say(f"All is done already ({n_trainings})." + " The report:" * (not only))
    problems = [f"{key}: {reason}" for key, reason in state.problems.items()]
    problems += failures(state)
    if not only:
        try:
            report(state)
        except InputError as error:
            problems.append(f"report: {error}")
    if problems:
        raise InputError("not everything could be done:", *(f"  {line}" for line in problems))


def refuse_problems(state: State) -> None:
    """Refuse, before anything runs, a plan that does not fit the data sets that are there.

    Raises:
        InputError: a line for each problem.
    """
    if state.problems:
        path = state.plan.path
        raise InputError(*(f"{path}: {line}" for line in dict.fromkeys(state.problems.values())))


def report(state: State, stored: Path | None = None) -> None:
    """Write the report of what is there so far; its pages and verdicts are printed.

    Args:
        state: of the plan.
        stored: results to take instead of those of the work folder.

    Raises:
        InputError: there is nothing to report, because the plan does not fit the data sets.
    """
    # Here, because torch and what draws take seconds, which all other commands can do without.
    from nnunet_meep.benchmark.collect import collect, ordered
    from nnunet_meep.benchmark.report import write_report
    from nnunet_meep.benchmark.results import read_results

    folder = state.folders.work / "report"
    if stored is None:
        results = collect(state, folder / "results")
    else:
        results = ordered(read_results(stored, state.folders).trainings, state.plan)
    if not results.trainings:
        print("No training has all its evaluations yet: no report.")
        refuse_problems(state)
        kept = folder / "results"
        if stored is None and state.is_unprepared and any(kept.glob("*/*.json.xz")):
            print(
                f"The data are not prepared any more, without which nothing can be checked. For a "
                f"report of the results that are kept: meep-benchmark report {state.plan.path} "
                f"--results {kept}"
            )
        return
    pages = write_report(state.plan, results, folder, state.folders, progress=True)
    for path, said in pages:
        print("\n".join(["", *said, f"Report: {path}"]), flush=True)
    if not pages:
        print("No training of a reference is evaluated yet: no page.")


def _check_only(plan: Plan, only: Sequence[str]) -> None:
    """Refuse what no step of the plan can be."""
    known = list(known_keys(plan)) if only else []
    for key in only:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f"; the nearest is {near[0]}" if near else ""
            raise InputError(
                f"--only {key}: expected a training or step of {plan.path}, such as "
                f"{next(plan.trainings()).key}, found none{meant}"
            )
