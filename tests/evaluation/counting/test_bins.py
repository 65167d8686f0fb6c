import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nnunet_meep.evaluation.counting import few_voxels, loops
from nnunet_meep.evaluation.counting.bins import (
    FEW_VOXELS,
    MAX_BINS,
    SUBCELLS,
    Cells,
    CellTotals,
    ClassTotals,
    bin_edges,
    bin_index,
    cell_index,
    grid,
    subcell_index,
)
from nnunet_meep.evaluation.counting.class_counts import ClassCounts, count_voxels
from nnunet_meep.evaluation.counting.loops import ClassCounter
from nnunet_meep.evaluation.metrics.calibration import reliability_bins
from nnunet_meep.evaluation.metrics.scores import class_metrics

CODES = np.array([0, 1, 2], np.uint8)

n_bins_of_tests = st.integers(1, 40) | st.just(MAX_BINS)


def awkward(dtype, n_bins):
    """Values of [0, 1]: the ends, the middle, edges of the bins, and all of their neighbours."""
    exact = np.concatenate([bin_edges(n_bins), [0.5]]).astype(dtype)
    p = np.concatenate([exact, *(np.nextafter(exact, dtype(towards)) for towards in (0, 1))])
    return np.concatenate([p, [np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny]])


@st.composite
def voxels(draw):
    """p of any precision, y and the number of bins."""
    n_bins = draw(n_bins_of_tests)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    anything = st.floats(0, 1, width=8 * dtype().itemsize)
    special = st.sampled_from(awkward(dtype, n_bins).tolist())
    n = draw(st.integers(1, 60))
    p = draw(npst.arrays(dtype, n, elements=anything | special))
    return p, draw(npst.arrays(np.bool_, n)), n_bins


def count(p, codes, n_bins=15, *, score=True) -> ClassCounts:
    counter = ClassCounter(grid(n_bins), CODES, score=score)
    n_bad, n_clipped = counter.add(p, codes)
    assert n_bad == n_clipped == 0
    return counter.counted()


def dense(cells, n_bins):
    table = np.zeros((grid(n_bins).n_cells, 2), np.int64)
    np.add.at(table, cells.cell, cells.count)  # parts of one cell add up
    return table


def bin_by_its_edges(p, n_bins):
    return np.clip(np.digitize(p, np.linspace(0, 1, n_bins + 1), right=True) - 1, 0, n_bins - 1)


def test_bins_are_half_open_with_zero_in_the_first() -> None:
    p = np.array([0.0, 0.2, np.nextafter(0.2, 1), 0.4, 0.6, 0.8, 1.0])
    assert bin_index(p, 5).tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_float32_is_binned_by_its_value() -> None:
    # float32(0.2) is 0.20000000298, above the edge, float32(0.7) is 0.699999988, below it.
    assert bin_index(np.array([0.2, 0.7], dtype=np.float32), 10).tolist() == [2, 6]


@given(voxels())
def test_every_bin_holds_what_its_edges_say(data) -> None:
    p, y, n_bins = data
    bins = reliability_bins(count_voxels(p, y, y, n_bins).cells, grid(n_bins))
    p = p.astype(np.float64)
    edges = bin_edges(n_bins)
    assert bins["edges"] == edges.tolist()
    for b in range(n_bins):
        inside = (p > edges[b]) & (p <= edges[b + 1])
        if b == 0:
            inside |= p == 0
        assert bins["count"][b] == inside.sum()
        if inside.any():
            assert bins["mean_y"][b] == pytest.approx(y[inside].mean())
            assert bins["mean_p"][b] == pytest.approx(p[inside].mean())
        else:
            assert np.isnan([bins["mean_y"][b], bins["mean_p"][b]]).all()


@given(voxels())
def test_the_compiled_loop_counts_each_voxel_in_its_cell(data) -> None:
    p, y, n_bins = data
    p = p.astype(np.promote_types(p.dtype, np.float32))
    cell = cell_index(p, n_bins)
    for i in range(len(p)):
        cells = count(p[i : i + 1], y[i : i + 1].astype(np.uint8), n_bins).cells
        assert cells.cell.tolist() == [cell[i]]
        assert cells.count.tolist() == [[1 - y[i], y[i]]]
        assert cells.sum_p[0, int(y[i])] == p[i]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_loop_counts_many_voxels_in_their_cells(dtype) -> None:
    rng = np.random.default_rng(3)
    tiny = 10 ** rng.uniform(-45, 0, 100_000)
    p = np.concatenate([tiny, 1 - tiny, rng.random(100_003)]).clip(0, 1).astype(dtype)
    rng.shuffle(p)
    y = rng.integers(0, 2, len(p))
    cells = count(p, y.astype(np.uint8)).cells
    n_cells = grid(15).n_cells
    slot = 2 * cell_index(p, 15) + y
    expected = np.bincount(slot, minlength=2 * n_cells).reshape(-1, 2)
    np.testing.assert_array_equal(dense(cells, 15), expected)
    sum_p = np.bincount(slot, p.astype(np.float64), 2 * n_cells).reshape(-1, 2)
    np.testing.assert_allclose(cells.sum_p, sum_p[cells.cell], rtol=1e-12)


def test_no_cell_reaches_over_an_edge_or_one_half_for_any_number_of_bins() -> None:
    for n_bins in range(1, MAX_BINS + 1):
        cells = grid(n_bins)
        p = np.concatenate([awkward(np.float32, n_bins), awkward(np.float64, n_bins)])
        index = cell_index(p, n_bins)
        np.testing.assert_array_equal(cells.bin_of_cell[index], bin_by_its_edges(p, n_bins))
        np.testing.assert_array_equal(index >= cells.first_above_half, p > 0.5)
        counted = count(p, np.zeros(len(p), np.uint8), n_bins, score=False)
        n = np.bincount(index, minlength=cells.n_cells)
        np.testing.assert_array_equal(dense(counted.cells, n_bins)[:, 0], n)


@given(voxels())
def test_a_cell_lies_within_a_bin_and_on_one_side_of_one_half(data) -> None:
    p, _, n_bins = data
    index = cell_index(p, n_bins)
    assert (grid(n_bins).bin_of_cell[index] == bin_by_its_edges(p, n_bins)).all()
    assert ((index >= grid(n_bins).first_above_half) == (p > 0.5)).all()


def test_exactly_zero_and_exactly_one_have_cells_of_their_own() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        p = np.array([0, np.finfo(dtype).smallest_subnormal, 1 - np.finfo(dtype).epsneg, 1], dtype)
        zero, small, large, one = cell_index(p, 15)
        assert zero == 0 < small < large < one == grid(15).n_cells - 1


def test_a_larger_probability_is_never_further_than_a_cell_behind() -> None:
    p = np.sort(np.random.default_rng(0).random(100_000))
    assert np.diff(cell_index(p, 15)).min() >= -1


def test_cells_are_as_fine_as_they_are_said_to_be() -> None:
    logit = np.linspace(-23.9, 23.9, 200_001)
    index = cell_index(1 / (1 + np.exp(-logit)), 1)
    for cell in np.unique(index):
        assert np.ptp(logit[index == cell]) <= 48 / 16384 * 1.01
    assert len(np.unique(index)) >= 16_384 * 23.9 / 24


def test_cells_between_two() -> None:
    cells = Cells(np.array([2, 5, 9]) * SUBCELLS, np.arange(6).reshape(3, 2), np.ones((3, 2)))
    inside = cells.between(3, 9)
    assert inside.cell.tolist() == [5]
    assert inside.count.tolist() == [[2, 3]]


@given(voxels(), st.lists(st.integers(0, 60), min_size=1, max_size=3))
def test_sums_of_parts_in_any_order_merge_into_the_sums_of_the_whole(data, cuts) -> None:
    p, y, n_bins = data
    predicted = p > 0.5
    whole = count_voxels(p, y, predicted, n_bins)
    parts = [
        count_voxels(p[i], y[i], predicted[i], n_bins)
        for i in np.split(np.arange(len(p)), sorted(cuts))
    ]
    for order in (parts, parts[::-1]):
        totals = ClassTotals(grid(n_bins).n_cells)
        for part in order:
            totals.add(part)
        total = totals.total()
        assert total.cells.cell.tolist() == whole.cells.cell.tolist()
        assert total.cells.count.tolist() == whole.cells.count.tolist()
        assert (total.tp, total.fp, total.fn) == (whole.tp, whole.fp, whole.fn)
        merged = class_metrics(total, grid(n_bins))
        expected = class_metrics(whole, grid(n_bins))
        # A root magnifies what is left of a difference of equal squares; it is compared as squares.
        for metrics in (merged, expected):
            metrics["ece_l2_debiased"] **= 2
        # Found by a search that ends at 1e-7.
        assert merged.pop("smece") == pytest.approx(expected.pop("smece"), abs=1e-6, nan_ok=True)
        assert merged == pytest.approx(expected, nan_ok=True, rel=1e-9)


def test_one_part_alone_differs() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(100), rng.random(100) < 0.3
    whole, half = (
        class_metrics(count_voxels(p[:n], y[:n], p[:n] > 0.5, 5), grid(5)) for n in (100, 50)
    )
    for name, value in whole.items():
        assert half[name] != pytest.approx(value, rel=1e-6), name


def test_what_rounding_loses_in_a_sum_of_cases_is_kept() -> None:
    totals, n = CellTotals(3), FEW_VOXELS + 1
    for sum_p in [2.0**53, *[1.0] * 10]:
        totals.add(Cells(np.array([SUBCELLS]), np.array([[n, 0]]), np.array([[sum_p, 0]])))
    assert totals.total().sum_p[0, 0] == 2.0**53 + 10
    assert totals.total().count.tolist() == [[11 * n, 0]]


@given(voxels())
@example((np.array([0.3843, 0.3845], np.float16), np.array([False, False]), 13))
def test_few_voxels_are_counted_in_parts_of_the_same_cells(data) -> None:
    p, y, n_bins = data
    p = p.astype(np.promote_types(p.dtype, np.float32))
    codes = y.astype(np.uint8)
    few = few_voxels.ClassCounter(grid(n_bins), CODES, score=True)
    for part in np.array_split(np.arange(len(p)), 3):
        few.add(p[part], codes[part])
    divided, whole = few.counted(), count(p, codes, n_bins)
    assert np.array_equal(dense(whole.cells, n_bins), dense(divided.cells, n_bins))
    assert divided.cells.sum_p.sum() == pytest.approx(whole.cells.sum_p.sum(), rel=1e-12)
    for name in ("squared_plus", "squared_minus", "log_likelihood"):
        assert getattr(divided, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-9)
    assert (np.diff(divided.cells.index) > 0).all()
    mean_p = divided.cells.sum_p.sum(axis=1) / divided.cells.count.sum(axis=1)
    assert (np.diff(mean_p) > -1e-12).all()


def test_parts_are_a_64th_of_a_cell() -> None:
    logit = np.linspace(-6, 6, 200_001)
    index = subcell_index(1 / (1 + np.exp(-logit)), 1)
    # The logarithm is right within a fifth of a part.
    assert len(np.unique(index)) == pytest.approx(16_384 * 64 / 4, rel=0.25)
    for part in np.unique(index)[::97]:
        assert np.ptp(logit[index == part]) <= 48 / 16384 / 64 * 1.5


def test_cells_of_many_small_images_are_not_divided_any_more() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(3 * FEW_VOXELS // 2)
    y = rng.random(len(p)) < p
    halves = np.array_split(np.arange(len(p)), 2)
    totals = ClassTotals(grid(15).n_cells)
    for half in halves:
        totals.add(count_voxels(p[half], y[half], y[half], 15))
    whole = count_voxels(p, y, y, 15).cells
    total = totals.total().cells
    assert (whole.index % SUBCELLS == 0).all()
    assert total.index.tolist() == whole.index.tolist()
    assert total.count.tolist() == whole.count.tolist()
    np.testing.assert_allclose(total.sum_p, whole.sum_p, rtol=1e-12)


def test_no_cases_add_up_to_nothing() -> None:
    total = ClassTotals(grid(15).n_cells).total()
    assert total.tp == total.squared_plus == len(total.cells.cell) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counting_part_by_part_is_counting_at_once(dtype) -> None:
    rng = np.random.default_rng(5)
    p = rng.random(5000).round(2).astype(dtype)
    codes = rng.integers(0, 3, 5000).astype(np.uint8)
    whole = count(p, codes)
    counter = ClassCounter(grid(15), CODES, score=True)
    for part in np.split(np.arange(5000), [1, 1024, 1025, 1041, 3000]):
        counter.add(p[part], codes[part])
    parts = counter.counted()
    assert (parts.cells.count == whole.cells.count).all()
    np.testing.assert_allclose(parts.cells.sum_p, whole.cells.sum_p)
    for name in ("squared_plus", "squared_minus", "log_likelihood"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


@given(voxels(), st.integers(0, 2**32 - 1))
def test_ignored_voxels_count_nowhere(data, seed) -> None:
    p, y, n_bins = data
    p = p.astype(np.promote_types(p.dtype, np.float32))
    codes = np.where(np.random.default_rng(seed).random(len(p)) < 0.5, 2, y).astype(np.uint8)
    counted, rest = count(p, codes, n_bins), count(p[codes < 2], codes[codes < 2], n_bins)
    assert counted.cells.cell.tolist() == rest.cells.cell.tolist()
    assert counted.cells.count.tolist() == rest.cells.count.tolist()
    for name in ("squared_plus", "squared_minus", "log_likelihood"):
        assert getattr(counted, name) == pytest.approx(getattr(rest, name), rel=1e-12)
    np.testing.assert_allclose(counted.cells.sum_p, rest.cells.sum_p)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_ignored_voxels_alone_are_no_voxels(p) -> None:
    counted = count(np.full(3000, p), np.full(3000, 2, np.uint8))
    assert len(counted.cells.cell) == 0
    assert counted.squared_plus == counted.squared_minus == counted.log_likelihood == 0


def test_codes_are_translated_to_y() -> None:
    counter = ClassCounter(grid(15), np.array([2, 0, 1, 1], np.uint8), score=True)
    counter.add(np.full(10, 0.5), np.repeat(np.arange(4, dtype=np.uint8), [1, 2, 3, 4]))
    assert counter.counted().cells.count.tolist() == [[2, 7]]


def test_without_scores_the_cells_are_the_same() -> None:
    p, codes = np.array([0.0, 0.2, 0.7, 1.0]), np.array([0, 1, 1, 1], np.uint8)
    scored, counted = count(p, codes), count(p, codes, score=False)
    assert counted.squared_plus == counted.squared_minus == counted.log_likelihood == 0
    assert counted.cells.count.tolist() == scored.cells.count.tolist()
    assert counted.cells.sum_p.tolist() == scored.cells.sum_p.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("value", "bad", "clipped"),
    [
        (np.nan, 1, 0),
        (-np.nan, 1, 0),
        (np.inf, 1, 1),
        (-np.inf, 1, 1),
        (1.01, 1, 1),
        (-0.01, 1, 1),
        (1 + 1e-6, 0, 1),
        (-1e-6, 0, 1),
        (1.0009, 0, 1),
        (0.0, 0, 0),
        (-0.0, 0, 0),
        (1.0, 0, 0),
    ],
)
def test_what_is_no_probability_is_told(dtype, value, bad, clipped) -> None:
    p = np.full(2500, 0.5, dtype)
    p[::7] = value
    n = len(p[::7])
    for module in (loops, few_voxels):
        counter = module.ClassCounter(grid(15), CODES, score=True)
        assert counter.add(p, np.zeros(2500, np.uint8)) == (n * bad, n * clipped)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_few_voxels_are_followed_as_many_are(seed, two_channels, dtype) -> None:
    """Largest probability, its channel, sums and pairs of codes, over the channels of an image."""
    rng = np.random.default_rng(seed)
    n, n_channels = 300, 2 if two_channels else 4
    p = rng.dirichlet([0.3] * n_channels, n).T.astype(dtype)
    p[:, rng.random(n) < 0.2] = 1 / n_channels  # as large as those before
    p[rng.random(p.shape) < 0.1] = 0.9  # two above 1/2, sums that are wrong
    a = rng.integers(0, 3, n).astype(np.uint8)
    results = []
    for module in (loops, few_voxels):
        largest, total = p[0].copy(), p[0].copy() if not two_channels else np.zeros(0, dtype)
        winner, table = np.zeros(n, np.uint8), np.zeros((4, n_channels), np.int64)
        numbers = []
        for channel in range(1, n_channels):
            numbers += [*module.compare_with_largest(p[channel], largest, total, 1e-3)]
            numbers += [module.take_larger(p[channel], channel, largest, winner)]
        module.count_pairs(a, winner, table)
        results.append([numbers, *(x.tolist() for x in (largest, total, winner, table))])
    assert results[0] == results[1]


@pytest.mark.parametrize("value", [np.nan, 1.01, -0.01])
def test_voxels_without_a_probability_are_refused(value) -> None:
    y = np.zeros(3, np.bool_)
    with pytest.raises(ValueError, match="found 2 values"):
        count_voxels(np.array([0.3, value, value]), y, y, 15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_beyond_the_ends_is_taken_as_the_end(dtype) -> None:
    y = np.array([True, False, True])
    clipped = count_voxels(np.array([1 + 1e-7, -1e-7, 0.25], dtype), y, y, 15)
    exact = count_voxels(np.array([1, 0, 0.25], dtype), y, y, 15)
    assert class_metrics(clipped, grid(15)) == class_metrics(exact, grid(15))


def test_counts_beyond_what_float32_can_count() -> None:
    n = 30_000_000
    p, y = np.full(n, 0.3, np.float32), np.zeros(n, np.bool_)
    sums = count_voxels(p, y, y, 4)
    assert sums.cells.count.tolist() == [[n, 0]]
    value, metrics = float(p[0]), class_metrics(sums, grid(4))
    for name in ("ece", "mce", "ace", "ece_adaptive"):
        assert metrics[name] == pytest.approx(value, rel=1e-12), name
    # Seven million sums each, rounded every time.
    assert metrics["brier"] == pytest.approx(value**2, rel=2e-11)
    assert metrics["nll"] == pytest.approx(-np.log1p(-value), rel=2e-11)
    assert metrics["volume_expected_ml"] == pytest.approx(n * value, rel=1e-12)
