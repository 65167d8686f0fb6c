"""Cases divided by the order of their names: the last ones for testing, or folds with own tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_meep.datasets.division import Division, divide
from nnunet_meep.errors import InputError

SOURCE = Path("source")


def test_the_last_cases_are_for_testing_and_those_before_them_for_validation() -> None:
    divided = divide("gcbfaed", Division(n_cases=6, n_test=2, n_validation=1), SOURCE)
    assert divided.cases == tuple("abcdef")
    assert divided.test == {"e", "f"}
    assert divided.splits == [{"train": ["a", "b", "c"], "val": ["d"]}]


def test_without_validation_cases_nnunet_makes_the_folds() -> None:
    divided = divide("abc", Division(n_test=1), SOURCE)
    assert (divided.test, divided.splits) == ({"c"}, [])


def test_folds_by_hand() -> None:
    """Rows abc, def, ghi, and j alone: a fold tests a column and validates in two rows."""
    assert divide("abcdefghij", Division(n_folds=3, n_validation=2), SOURCE).splits == [
        {"train": list("cehi"), "val": list("bf")},  # tests a, d, g, j
        {"train": list("afgij"), "val": list("cd")},  # tests b, e, h
        {"train": list("bdghj"), "val": list("ae")},  # tests c, f, i
    ]


@given(
    n_cases=st.integers(4, 60),
    n_folds=st.integers(2, 10),
    n_validation=st.none() | st.integers(1, 12),
)
def test_folds_test_every_case_once_and_validate_evenly(
    n_cases: int, n_folds: int, n_validation: int | None
) -> None:
    cases = [f"{i:02d}" for i in range(n_cases)]
    division = Division(n_folds=n_folds, n_validation=n_validation)
    try:
        divided = divide(cases, division, SOURCE)
    except InputError:  # too few: for a training case, or for the folds' validation cases
        n_test = (n_cases + n_folds - 1) // n_folds
        possible = n_cases // n_folds * (n_folds - 1)
        assert n_test + (n_validation or 2) >= n_cases or (n_validation or 2) > possible
        return
    assert not divided.test
    assert len(divided.splits) == n_folds
    tested, validated = Counter(), Counter()
    for fold, split in enumerate(divided.splits):
        train, val = set(split["train"]), set(split["val"])
        test = set(cases) - train - val  # as a reader of the folds finds them
        assert test == {case for i, case in enumerate(cases) if i % n_folds == fold}
        assert not train & val
        assert train
        assert len(split["val"]) == len(val) == (n_validation or 2)
        tested.update(test)
        validated.update(val)
    assert tested == Counter(cases)
    times = {validated[case] for case in cases[: n_cases // n_folds * n_folds]}
    assert max(times) - min(times) <= 1


@pytest.mark.parametrize(
    ("division", "expected"),
    [
        (Division(n_cases=6), "expected at least 6 cases with labels (--cases), found 5"),
        (
            Division(n_test=3, n_validation=2),
            "expected at least 6 cases with labels, 3 for testing",
        ),
        (Division(n_folds=2, n_validation=2), "2 folds (--folds) that each test 3, validate on 2"),
        (Division(n_folds=6), "6 folds (--folds) that each test 1, validate on 2"),
        (
            Division(n_cases=3, n_test=3),
            "and one for training, found 3, as --cases takes the first 3",
        ),
        (Division(n_folds=1), "--folds: expected at least 2, got 1"),
        (Division(n_folds=2, n_test=1), "--test: expected none with --folds"),
    ],
)
def test_too_few_cases_and_numbers_that_do_not_go_together(
    division: Division, expected: str
) -> None:
    with pytest.raises(InputError) as refused:
        divide("abcde", division, SOURCE)
    assert expected in str(refused.value)
