"""The state of a benchmark as a table, and what is pending as commands."""

from __future__ import annotations

from collections.abc import Iterator

from nnunet_meep.benchmark.plans.plan import Training
from nnunet_meep.benchmark.running.process import end_of
from nnunet_meep.benchmark.running.records import FAILED
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.tables import text_table

#: Columns: what the keys of their steps begin with, after the training's own key.
_COLUMNS = {
    "train": "train",
    "predict": "predict",
    "calibrate": "fit apply",
    "evaluate": "evaluate",
}


def status_table(state: State) -> str:
    """A row for each data set and training: what is done, running, failed or pending.

    Below it what ``found`` in it means, the last log line of each failed step, and the pages that
    were written so far.
    """
    wanted = {step.key for step in state.pending()}
    rows = [["data", "trainer", "fold", *_COLUMNS]]
    for name in dict.fromkeys(t.data for t in state.trainings):
        steps = [s for s in state.steps.values() if s.key.count("/") and _owner(s) == name]
        rows.append([name, "(preparation)", "", _summary(state, steps, wanted), "", "", ""])
        for training in state.trainings:
            if training.data == name:
                cells = _cells(state, training, wanted)
                rows.append([name, training.trainer, str(training.fold), *cells])
    lines = [text_table(rows, n_left=len(rows[0]))]
    if any("found)" in cell for row in rows for cell in row):
        lines.append("found: it was there before, and this benchmark did not have to make it")
    lines += [f"{key}: {reason}" for key, reason in state.problems.items()]
    lines += failures(state)
    pages = sorted((state.folders.work / "report").rglob("report.html"))
    lines += [f"Report: {page}" for page in pages]
    return "\n".join(lines)


def failures(state: State) -> list[str]:
    """For each failed step, why, and its log."""
    found = []
    for step in state.pending():
        record = state.records.read(step.key)
        if record is not None and record.state == FAILED:
            log = state.log(step)
            where = f" (all it said: {log})" if log.is_file() else ""
            found.append(f"{step.key} failed: {record.reason}{where}")
    return found


def pending_lines(state: State) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """What is pending, as arguments of ``--only`` for runners that may work side by side.

    Returns:
        A line for each training that is not finished; if the plan cuts evaluations into parts, a
        line for each part; and a line for each training, which joins its parts. Lines that begin
        before others have made what they need wait for it, or make it themselves.

    Raises:
        InputError: the plan cuts evaluations into parts, and a data set is not prepared yet, so
            that the parts are not known.
    """
    pending = [step.key for step in state.pending()]
    trainings: list[list[str]] = []
    parts: list[list[str]] = []
    joins: list[list[str]] = []
    for training in state.trainings:
        key = training.key
        mine = [k for k in pending if k.startswith(f"{key}/")]
        is_known = any(k.startswith(f"{key}/") for k in state.steps)
        if is_known and not mine:
            continue
        if not is_known and state.plan.parts > 1:
            raise InputError(
                f"{state.plan.path}: expected {training.data} to be prepared, because evaluations "
                f"are cut into parts; first run it with --only {training.data}/splits"
            )
        if state.plan.parts == 1:
            trainings.append([key])
            continue
        trainings.append([f"{key}/{what}" for what in ("train", "predict", "fit", "apply")])
        parts += [[k] for k in mine if "/part_" in k]
        joins.append([key])
    return trainings, parts, joins


def _owner(step: Step) -> str:
    """The data set of a step of preparation, "" for other steps."""
    data, rest = step.key.split("/", 1)
    return "" if "/fold_" in rest and not rest.startswith("test_images") else data


def _cells(state: State, training: Training, wanted: set[str]) -> Iterator[str]:
    prefix = f"{training.key}/"
    mine = {k.removeprefix(prefix): s for k, s in state.steps.items() if k.startswith(prefix)}
    for starts in _COLUMNS.values():
        steps = [s for k, s in mine.items() if k.split("/")[0] in starts]
        yield _summary(state, steps, wanted) if mine else "pending"


def _summary(state: State, steps: list[Step], wanted: set[str]) -> str:
    """``done``, ``running on HOST, epoch 3 of 50``, ``failed``, ``3 of 5 steps``, ``pending``.

    Behind what is done, how many of its steps were ``found``.
    """
    if not steps:
        return "-"
    left = [step for step in steps if step.key in wanted]
    n_found = sum(map(state.is_found, set(steps).difference(left)))
    found = f" ({n_found} found)" if n_found else ""
    if not left:
        return f"done{found}"
    for step in left:
        if (claim := state.records.holder(step.key)) is not None:
            progress = step.progress(end_of(state.log(step)))
            return f"running on {claim.machine.split(' ')[0]}, {progress}"
    for step in left:
        record = state.records.read(step.key)
        if record is not None and record.state == FAILED:
            return "failed"
    done = len(steps) - len(left)
    return f"{done} of {len(steps)} steps{found}" if done else "pending"
