import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from nnunet_meep.evaluation.bins import bin_edges, bin_index, class_sums
from nnunet_meep.evaluation.metrics import class_metrics, reliability_bins

# The worked example of the literature's kind: ten voxels, five bins.
P = np.array([0.22, 0.48, 0.49, 0.96, 0.55, 0.64, 0.78, 0.82, 0.34, 0.87])
Y = np.array([0, 1, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)

probabilities = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float32, n, elements=st.floats(0, 1, width=32)),
        npst.arrays(np.bool_, n),
        npst.arrays(np.bool_, n),
    )
)


def test_worked_example() -> None:
    metrics = class_metrics(class_sums(P, Y, P > 0.5, n_bins=5))
    assert metrics["ece"] == pytest.approx(0.315)
    assert metrics["brier"] == pytest.approx(0.30859)
    assert metrics["brier_plus"] == pytest.approx(0.1864833, abs=1e-7)
    # By hand: p > 0.5 in 6 voxels, 4 of them true; 6 voxels are positive.
    assert metrics["dice"] == pytest.approx(2 * 4 / (6 + 6))


def test_bins_are_half_open_with_zero_in_the_first() -> None:
    p = np.array([0.0, 0.2, np.nextafter(0.2, 1), 0.4, 0.6, 0.8, 1.0])
    assert bin_index(p, 5).tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_float32_is_binned_by_its_value() -> None:
    # float32(0.2) is 0.20000000298, above the edge, float32(0.7) is 0.699999988, below it.
    assert bin_index(np.array([0.2, 0.7], dtype=np.float32), 10).tolist() == [2, 6]


@given(probabilities, st.integers(1, 20))
def test_every_bin_holds_what_its_edges_say(data, n_bins) -> None:
    p, y, predicted = data
    sums = class_sums(p, y, predicted, n_bins)
    edges = bin_edges(n_bins)
    for b in range(n_bins):
        inside = (p > edges[b]) & (p <= edges[b + 1])
        if b == 0:
            inside |= p == 0
        assert sums.count[b] == inside.sum()
        assert sums.sum_y[b] == y[inside].sum()
        assert sums.sum_p[b] == pytest.approx(p[inside].astype(np.float64).sum())


@given(probabilities, st.integers(1, 20))
def test_brier_and_reliability_agree_with_scikit_learn(data, n_bins) -> None:
    p, y, predicted = data
    p64 = p.astype(np.float64)
    sums = class_sums(p, y, predicted, n_bins)
    metrics = class_metrics(sums)
    assert metrics["brier"] == pytest.approx(np.mean((p64 - y) ** 2))
    if 0 < y.sum() < y.size:
        assert metrics["brier"] == pytest.approx(brier_score_loss(y, p64))
        assert metrics["brier_plus"] == pytest.approx(brier_score_loss(y[y], p64[y], pos_label=1))
    # scikit-learn puts an edge itself into another bin; elsewhere the curves are the same.
    if not np.isin(p64, bin_edges(n_bins)[1:-1]).any():
        mean_y, mean_p = calibration_curve(y, p64, n_bins=n_bins)
        filled = sums.count > 0
        bins = reliability_bins(sums)
        assert np.array(bins["mean_y"])[filled] == pytest.approx(mean_y)
        assert np.array(bins["mean_p"])[filled] == pytest.approx(mean_p)
        weights = sums.count[filled] / len(p)
        assert metrics["ece"] == pytest.approx((weights * abs(mean_p - mean_y)).sum(), abs=1e-12)


@given(probabilities, st.integers(0, 60))
def test_sums_of_two_parts_merge_into_the_sums_of_the_whole(data, cut) -> None:
    p, y, predicted = data
    whole = class_metrics(class_sums(p, y, predicted, 7))
    parts = class_sums(p[:cut], y[:cut], predicted[:cut], 7) + class_sums(
        p[cut:], y[cut:], predicted[cut:], 7
    )
    assert class_metrics(parts) == pytest.approx(whole, nan_ok=True)


def test_one_part_alone_differs() -> None:
    whole, half = class_sums(P, Y, P > 0.5, 5), class_sums(P[:5], Y[:5], P[:5] > 0.5, 5)
    assert class_metrics(half)["ece"] != pytest.approx(class_metrics(whole)["ece"])


def test_counts_beyond_what_float32_can_count() -> None:
    n = 2**24 + 10
    sums = class_sums(
        np.full(n, 0.25, dtype=np.float32), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool), 4
    )
    assert sums.count.tolist() == [n, 0, 0, 0]
    assert class_metrics(sums)["ece"] == 0.25


def test_bounds_and_perfect_prediction() -> None:
    perfect = class_metrics(class_sums(Y.astype(np.float64), Y, Y, 15))
    assert perfect == {"dice": 1.0, "brier": 0.0, "brier_plus": 0.0, "ece": 0.0}
    worst = class_metrics(class_sums(1.0 - Y, Y, ~Y, 15))
    assert worst == {"dice": 0.0, "brier": 1.0, "brier_plus": 1.0, "ece": 1.0}


def test_undefined_is_nan() -> None:
    empty, nothing = np.zeros(3, dtype=bool), np.zeros(3)
    metrics = class_metrics(class_sums(nothing, empty, empty, 5))
    assert np.isnan(metrics["dice"])
    assert np.isnan(metrics["brier_plus"])
    assert metrics["brier"] == metrics["ece"] == 0
    no_voxels = class_metrics(class_sums(nothing[:0], empty[:0], empty[:0], 5))
    assert all(np.isnan(v) for v in no_voxels.values())
