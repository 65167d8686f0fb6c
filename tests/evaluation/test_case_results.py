"""A table of cases gives back what was put into it, and takes little memory."""

from __future__ import annotations

import copy
import math
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_meep.errors import described
from nnunet_meep.evaluation import case_results
from nnunet_meep.evaluation.case_results import BinsOfCases, CaseResult, CaseTable, RoiResult

#: As metrics are: whole numbers, others, and undefined ones.
numbers = st.one_of(st.integers(0, 2**40), st.floats(allow_nan=False), st.just(math.nan))
EDGES = [0.0, 0.5, 1.0]
BINS = ("count", "mean_p", "mean_y")


@st.composite
def tables(draw):
    """Cases with the same names: 1 or 2 ROIs and classes, with a top label or without one."""
    rois = draw(st.sampled_from([["image"], ["image", "crop"]]))
    keys = draw(st.sampled_from([["1"], ["1", "2"]]))
    has_top_label = draw(st.booleans())

    def of(names, values=numbers):
        return {name: draw(values) for name in names}

    def bins():
        return {"edges": EDGES, **of(BINS, st.lists(numbers, min_size=2, max_size=2))}

    def roi():
        return RoiResult(
            {key: of(["dice", "ece"]) for key in keys},
            of(["ece", "accuracy", "aurc"]) if has_top_label else None,
            {key: bins() for key in keys},
        )

    return [
        CaseResult(f"c{i}", i, draw(st.none() | st.just(i)), {name: roi() for name in rois})
        for i in range(draw(st.integers(1, 4)))
    ]


@pytest.mark.parametrize("n_in_memory", [1, 40, 10**6])
@given(tables())
def test_a_table_gives_back_its_cases(n_in_memory, cases) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_results, "_NUMBERS_IN_MEMORY", n_in_memory)
        table = CaseTable(cases)
    assert len(table) == len(cases)
    assert table == cases
    assert cases == table
    assert table[-1] == cases[-1]
    assert table[1:] == cases[1:]
    assert table != [*cases, cases[0]]
    copied = copy.deepcopy(table)
    table.append(cases[0])
    assert copied == cases
    assert [*table] == [*cases, cases[0]]
    assert table[0] == cases[0]  # read after a later one was written


@given(tables())
def test_bins_of_cases_are_those_of_each_case(cases) -> None:
    for roi, key in [(roi, key) for roi, of_roi in cases[0].rois.items() for key in of_roi.bins]:
        bins = BinsOfCases(cases, roi, key)
        assert [*bins] == [case.rois[roi].bins[key] for case in cases]
        assert [*bins[1:]] == [*bins][1:]


def one_class(dice, count=(3, 0)):
    bins = {"edges": EDGES, "count": [*count], "mean_p": [0.25, math.nan], "mean_y": [1.0, 0.0]}
    return RoiResult({"1": {"dice": dice}}, None, {"1": bins})


def test_whole_numbers_stay_whole() -> None:
    table = CaseTable()
    for dice in (math.nan, 1, 0.5):
        table.append(CaseResult("c", 0, None, {"image": one_class(dice)}))
    assert repr([case.rois["image"].classes["1"]["dice"] for case in table]) == "[nan, 1, 0.5]"
    assert repr(table[0].rois["image"].bins["1"]["count"]) == "[3, 0]"
    with pytest.raises(IndexError):
        table[3]


@pytest.mark.parametrize(
    "other",
    [
        RoiResult({"1": {"ece": 0.5}}, None, one_class(0.5).bins),
        RoiResult({"2": {"dice": 0.5}}, None, one_class(0.5).bins),
        RoiResult({"1": {"dice": 0.5}}, {"ece": 0.5}, one_class(0.5).bins),
        one_class(0.5, count=[3]),
    ],
    ids=["metric", "class", "top label", "bins"],
)
def test_cases_with_other_names_do_not_fit(other) -> None:
    table = CaseTable()
    table.append(CaseResult("a", 0, 0, {"image": one_class(0.5)}))
    with pytest.raises(ValueError, match="b has other metrics than a"):
        table.append(CaseResult("b", 0, 0, {"image": other}))


def test_no_room_for_the_numbers_names_the_folder(monkeypatch) -> None:
    monkeypatch.setattr(case_results, "_NUMBERS_IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("r+b"))  # noqa: SIM115
    with pytest.raises(OSError, match="No space left") as caught:
        CaseTable([CaseResult("a", 0, 0, {"image": one_class(0.5)})])
    assert described(caught.value) == f"{tempfile.gettempdir()}: No space left on device"


def test_many_cases_take_little_memory() -> None:
    """20 metrics and 3 times 15 bins of 3 keys: 195 numbers of 8 bytes in each case."""
    rng = np.random.default_rng(0)

    def case(i):
        metrics = {key: dict(enumerate(rng.random(20).tolist())) for key in "12t"}
        bins = {key: {"edges": [], **{n: rng.random(15).tolist() for n in BINS}} for key in "12t"}
        return CaseResult(f"case_{i:05d}", 0, 0, {"image": RoiResult(metrics, None, bins)})

    tracemalloc.start()
    try:
        table = CaseTable()
        for i in range(1000):
            table.append(case(i))
        after_1000, _ = tracemalloc.get_traced_memory()
        for i in range(1000, 2000):
            table.append(case(i))
        after_2000, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 2000
    assert after_1000 < 1000 * 2000
    assert after_2000 < after_1000 + 2**20
