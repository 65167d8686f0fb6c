"""Which trainings of a model repeat each other, and which are folds with cases of their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.results import Evaluation


class Folds(NamedTuple):
    """The folds of a model; a single one if all its trainings have cases in common.

    Attributes:
        of_training: the fold of each training.
        of_case: the fold of each case that all trainings of its fold have.
    """

    of_training: tuple[int, ...]
    of_case: dict[str, int]

    @classmethod
    def of(cls, name: str, trainings: Sequence[Evaluation]) -> Folds:
        """Trainings that share cases are in one fold, also if a third one shares cases with both.

        Raises:
            InputError: the trainings of a fold have no case in common. The message begins with the
                name of the model.
        """
        cases = [{case.case for case in training.cases} for training in trainings]
        folds: list[list[int]] = []
        for i, of_training in enumerate(cases):
            shared = [fold for fold in folds if any(of_training & cases[j] for j in fold)]
            folds = [fold for fold in folds if fold not in shared]
            folds.append([*(j for fold in shared for j in fold), i])
        folds.sort(key=min)
        common = [set.intersection(*(cases[i] for i in fold)) for fold in folds]
        if not all(common):
            raise InputError(
                f"{name}: expected trainings on the same cases (seeds) or without a common case "
                f"(folds), got some that share cases but none that all of them have"
            )
        fold_of = {i: number for number, fold in enumerate(folds) for i in fold}
        return cls(
            tuple(fold_of[i] for i in range(len(cases))),
            {case: number for number, fold in enumerate(common) for case in fold},
        )

    @property
    def n(self) -> int:
        """The number of folds."""
        return len(set(self.of_training))

    def with_cases(self, cases: Collection[str]) -> tuple[Folds, list[int]]:
        """The folds that have any of the cases, with these cases alone, and their trainings."""
        of_case = {case: self.of_case[case] for case in cases}
        kept = [i for i, fold in enumerate(self.of_training) if fold in of_case.values()]
        return Folds(tuple(self.of_training[i] for i in kept), of_case), kept

    def differ(self, other: Folds) -> bool:
        """Whether a fold of either model lies in several folds of the other.

        A model with a single fold has no folds that could be others.
        """
        n_common = len({(fold, other.of_case[case]) for case, fold in self.of_case.items()})
        return any(1 < folds.n < n_common for folds in (self, other))
