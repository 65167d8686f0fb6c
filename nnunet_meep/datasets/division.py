"""Divides cases into training, validation and test, where a data set comes without a division.

Cases are taken in the order of their names. Nothing is random, so the same cases are always divided
in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_meep.datasets.raw_folder import Splits, splits_of
from nnunet_meep.errors import InputError

#: Validation scans of each of several folds, unless another number is given.
VALIDATION_PER_FOLD = 2


@dataclass(frozen=True)
class Division:
    """How many cases are for what.

    Attributes:
        n_cases: only the first so many cases are taken; None for all.
        n_test: the last so many are for testing and belong to no fold.
        n_validation: so many before them are the validation set of fold 0, the only fold. None for
            no fold: nnU-Net then makes its five. With ``n_folds``, the number in each fold; None
            for ``VALIDATION_PER_FOLD``.
        n_folds: the number of folds, each with test cases of its own: fold f tests cases f,
            f + n_folds, f + 2 n_folds, ... None for no such folds.
    """

    n_cases: int | None = None
    n_test: int = 0
    n_validation: int | None = None
    n_folds: int | None = None


@dataclass(frozen=True)
class Divided:
    """The cases after the division.

    Attributes:
        cases: those that were taken, sorted.
        test: those that are for testing in every fold.
        splits: content of ``splits_final.json``; if empty, nnU-Net makes its own. The test cases of
            one of several folds are those that it mentions neither in ``train`` nor in ``val``.
        folds: description of the folds.
    """

    cases: tuple[str, ...]
    test: frozenset[str]
    splits: Splits
    folds: str


def divide(names: Iterable[str], division: Division, source: Path) -> Divided:
    """Divide cases.

    Args:
        names: the cases that were found.
        division: how many are for what.
        source: the folder to name in errors.

    Raises:
        InputError: there are too few cases, or the numbers do not go together.
    """
    cases = sorted(names)
    if division.n_cases is not None:
        if len(cases) < division.n_cases:
            raise InputError(
                f"{source}: expected at least {division.n_cases} cases with labels (--cases), "
                f"found {len(cases)}"
            )
        cases = cases[: division.n_cases]
    if division.n_folds is not None:
        return _folds_with_tests(cases, division.n_folds, division, source)
    n_test, n_validation = division.n_test, division.n_validation or 0
    n_training = len(cases) - n_test - n_validation
    if n_training < 1:
        raise InputError(
            f"{source}: expected at least {n_test + n_validation + 1} cases with labels, {n_test} "
            f"for testing (--test), {n_validation} for validation (--validation) and one for "
            f"training, found {len(cases)}{_taken(division)}"
        )
    in_fold, test = cases[: n_training + n_validation], cases[n_training + n_validation :]
    return Divided(
        cases=tuple(cases),
        test=frozenset(test),
        splits=splits_of(in_fold, [set(in_fold[n_training:])]) if n_validation else [],
        folds=f"fold 0 ({n_validation} validation scans)",
    )


def _taken(division: Division) -> str:
    """Why there may be fewer cases than the folder has, for the end of a message."""
    return "" if division.n_cases is None else f", as --cases takes the first {division.n_cases}"


def _folds_with_tests(cases: list[str], n_folds: int, division: Division, source: Path) -> Divided:
    n_validation = division.n_validation
    if n_validation is None:
        n_validation = VALIDATION_PER_FOLD
    if division.n_test:
        raise InputError("--test: expected none with --folds, whose folds test all cases in turn")
    if n_folds < 2:
        raise InputError(f"--folds: expected at least 2, got {n_folds}")
    n_test = -(-len(cases) // n_folds)  # of the first fold, which has the most
    n_complete = len(cases) // n_folds * (n_folds - 1)
    if n_validation > min(n_complete, len(cases) - n_test - 1):
        raise InputError(
            f"{source}: expected enough cases with labels for {n_folds} folds (--folds) that each "
            f"test {n_test}, validate on {n_validation} (--validation) and train on at least one, "
            f"found {len(cases)}{_taken(division)}"
        )
    everything = set(cases)
    return Divided(
        cases=tuple(cases),
        test=frozenset(),
        splits=splits_of(
            cases,
            [_validation(cases, fold, n_folds, n_validation) for fold in range(n_folds)],
            only=[everything - set(cases[fold::n_folds]) for fold in range(n_folds)],
        ),
        folds=f"{n_folds} folds, each with test scans of its own and {n_validation} validation "
        "scans",
    )


def _validation(cases: Sequence[str], fold: int, n_folds: int, n_validation: int) -> set[str]:
    """The validation cases of one of several folds, none of which it tests.

    With the cases in rows of ``n_folds``, a fold tests one column. Its validation cases are in
    equally spaced rows: the first in the column after its own, the second in the one after that,
    and so on, without its own. So they are spread over the names, and if each fold validates on at
    most one case of a row, no two folds validate on the same case. An incomplete last row has none.
    """
    n_rows = len(cases) // n_folds
    return {
        cases[n_folds * (i * n_rows // n_validation) + (fold + 1 + i % (n_folds - 1)) % n_folds]
        for i in range(n_validation)
    }
