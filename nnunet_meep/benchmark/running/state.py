"""Which steps of a plan there are, and which are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from nnunet_meep.benchmark.plans.plan import Plan, Training
from nnunet_meep.benchmark.running import inputs
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.prepare import preparation
from nnunet_meep.benchmark.running.records import DONE, FAILED, Record, Records
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.benchmark.running.steps import training_steps
from nnunet_meep.benchmark.running.unchanged import check_fold
from nnunet_meep.errors import InputError

#: The identity of what was there before the benchmark; the same for all runners that find it.
FOUND = "found"


class State:
    """The steps of a plan as far as they are known, with their records.

    Steps of trainings are known once their data set is prepared. Files are looked at again with
    each call, except for steps that were done before.

    Args:
        sources: by data set: what ``{source}`` in its ``convert`` stands for.
        only: keys of trainings or steps; empty: all.
        notes: whether what was there already gets a record; not for a look that changes nothing.

    Attributes:
        steps: by key, in the order in which they should run.
        problems: by data set or training: why its steps cannot be told.
    """

    def __init__(
        self,
        plan: Plan,
        folders: Folders,
        *,
        sources: dict[str, Path] | None = None,
        only: Iterable[str] = (),
        notes: bool = True,
    ) -> None:
        self.plan, self.folders = plan, folders
        self.records = Records(folders.work / "steps")
        self.steps: dict[str, Step] = {}
        self.problems: dict[str, str] = {}
        self._sources, self._only, self._notes = sources or {}, tuple(only), notes
        self._done: dict[str, str] = {}
        self._goals: dict[str, None] = {}
        self._expanded: set[str] = set()

    @cached_property
    def trainings(self) -> list[Training]:
        """The trainings to make: all, or those that ``only`` concerns."""
        return [
            training
            for training in self.plan.trainings()
            if not self._only
            or any(_within(training.key, o) or _within(o, training.key) for o in self._only)
        ]

    @property
    def is_unprepared(self) -> bool:
        """Whether there will be more steps, once the data sets of all trainings are prepared."""
        return any(training.data not in self._expanded for training in self.trainings)

    def update(self) -> None:
        """Look which steps are known by now."""
        data_sets = [o.split("/")[0] for o in self._only] or [t.data for t in self.trainings]
        for name in dict.fromkeys(data_sets):
            if name in self._expanded or name in self.problems:
                continue
            data = self.plan.data[name]
            try:
                steps = preparation(data, self.folders, self._sources.get(name))
                trains = any(training.data == name for training in self.trainings)
                asked = [
                    s for s in steps if not trains and any(_within(s.key, o) for o in self._only)
                ]
                self._add(steps, goals=asked or steps[-1:])
                if len(steps) == 1 or not self.is_done(steps[-1]):
                    continue
            except InputError as error:
                self.problems[name] = str(error)
                continue
            self._expanded.add(name)
            for training in self.trainings:
                if training.data == name:
                    self._expand(training, steps[-1].key)

    def _expand(self, training: Training, ready: str) -> None:
        try:
            steps = training_steps(self.plan, training, self.folders, ready)
            self._check_fold(steps[0])
        except InputError as error:
            self.problems[training.key] = str(error)
            return
        if self._only:  # also in part, such as TRAINING/predict
            goals = [s for s in steps if any(_within(s.key, o) for o in self._only)]
            if not goals:  # the command has checked the names
                self.problems[training.key] = (
                    f"--only: expected a step of {training.key} that there is, which without test "
                    f"scans with labels are train and evaluate/validation"
                )
        else:
            goals = [s for s in steps if "/evaluate/" in s.key]
        self._add(steps, goals)

    def _check_fold(self, train: Step) -> None:
        """Check that a training, as far as it is still there, is of the fold of today."""
        record, fold = self.records.read(train.key), self.folders.path(train.place)
        if record is not None and record.command == list(words(train)) and fold.is_dir():
            check_fold(fold, record.fold, train.fold)

    def _add(self, steps: Iterable[Step], goals: Iterable[Step]) -> None:
        self.steps.update({step.key: step for step in steps})
        self._goals.update(dict.fromkeys(step.key for step in goals))

    def pending(self) -> list[Step]:
        """The steps that still have to run, in order.

        A step that is not done counts only if something that is wanted needs it: predictions may
        be deleted once they are evaluated. What came of a step that runs again counts, too.
        """
        wanted: dict[str, None] = {}

        def want(key: str) -> None:
            if key not in wanted and not self.is_done(self.steps[key]):
                wanted[key] = None
                for need in self.steps[key].needs:
                    want(need)

        def outdated(key: str) -> bool:
            needs = self.steps[key].needs
            found = [outdated(need) for need in needs]
            if key not in wanted and any(found):
                wanted[key] = None
                self._done.pop(key, None)
                for need in needs:
                    want(need)
            return key in wanted

        for key in self._goals:
            want(key)
        n = 0
        while n < len(wanted):
            n = len(wanted)
            for key in self._goals:
                outdated(key)
        return [step for key, step in self.steps.items() if key in wanted]

    def is_done(self, step: Step) -> bool:
        """Whether its record says so, its outputs are as it left them, and nothing before changed.

        What was there without a record counts as done if the step allows it.
        """
        if step.key in self._done:
            return True
        record = self.records.read(step.key)
        before = (self.steps[key] for key in step.needs)
        if (
            self._may_be_found(step, record)
            and self._all_there(step)
            and all(map(self.is_done, before))
        ):
            needs = self.identities(step)
            record = Record(DONE, FOUND, list(words(step)), needs, self.sizes(step))
            if self._notes:
                self.records.write(step.key, record)
        if record is None or not self._is_current(step, record):
            return False
        if not self._is_intact(step, record):
            return False
        self._done[step.key] = record.identity
        return True

    def is_found(self, step: Step) -> bool:
        """Whether what a step makes was there before, so that it did not have to run."""
        record = self.records.read(step.key)
        return self._done.get(step.key, record.identity if record else "") == FOUND

    def _may_be_found(self, step: Step, record: Record | None) -> bool:
        """Whether outputs that are there count as done, though no step here made them."""
        if step.is_same is None:
            return step.found and record is None
        is_theirs = record is None or record.state == FAILED
        if record is not None and record.identity == FOUND:  # and the plan has changed since
            is_theirs = record.command != list(words(step))
        return is_theirs and step.is_same(self.folders)

    def _is_intact(self, step: Step, record: Record) -> bool:
        """Whether the outputs of a step that is done are as it left or found them."""
        if step.found:  # nnU-Net's preparation is the user's, who may have done it anew
            return self._all_there(step)
        if step.is_same is not None and record.identity == FOUND:  # another benchmark's
            return step.is_same(self.folders)
        return record.outputs == self.sizes(step)

    def _is_current(self, step: Step, record: Record | None) -> bool:
        """Whether a step was done as the plan says now, and so was all before it.

        Its outputs, and theirs, may be gone.
        """
        if record is None or record.state != DONE or record.needs != self.identities(step):
            return False
        if not step.found and record.command != list(words(step)):
            return False
        if record.inputs and not inputs.are_same(step.inputs, record.inputs, self.folders):
            return False
        return all(
            key in self._done or self._is_current(self.steps[key], self.records.read(key))
            for key in step.needs
        )

    def identities(self, step: Step) -> dict[str, str]:
        """The identities of the records of the steps that a step needs; "" if there is none."""
        found = {}
        for key in step.needs:
            record = self.records.read(key) if key not in self._done else None
            found[key] = self._done.get(key) or (record.identity if record else "")
        return found

    def sizes(self, step: Step) -> dict[str, int]:
        """The sizes of its outputs, -1 for what is missing."""
        found = {}
        for text in step.outputs:
            path = self.folders.path(text)
            found[text] = path.stat().st_size if path.is_file() else -1
        return found

    def can_resume(self, step: Step, record: Record | None) -> bool:
        """Whether an attempt, of which there is a record, did the same with the same.

        It may also have been done, and have lost some of its outputs since. Where it adopts what
        others made, they may have changed, too: a training that was validated once more stays.
        """
        if record is None or record.command != list(words(step)):
            return False
        if not inputs.still_there(step.inputs, record.inputs, self.folders):
            return False  # what was made of a file that changed or is gone would stay
        left = {text: size for text, size in self.sizes(step).items() if size >= 0}
        is_intact = record.state != DONE or left.items() <= record.outputs.items()
        return (is_intact or step.adopts) and record.needs == self.identities(step)

    def log(self, step: Step) -> Path:
        """What a step's command says."""
        return self.folders.work / "logs" / f"{step.key}.log"

    def _all_there(self, step: Step) -> bool:
        return bool(step.outputs) and all(size >= 0 for size in self.sizes(step).values())


def _within(key: str, of: str) -> bool:
    """Whether a key is another one, or lies below it."""
    return key == of or key.startswith(f"{of}/")


def words(step: Step) -> Iterator[str]:
    """What makes a step the one that it is: its command, and what is done after it."""
    yield from step.command
    if step.detail:
        yield step.detail
