import itertools
import math
import tracemalloc
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.integrate import trapezoid
from scipy.special import digamma, expit
from scipy.stats import bootstrap
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from nnunet_meep.evaluation.counting.bins import CLIP, bin_edges, grid
from nnunet_meep.evaluation.counting.class_counts import count_voxels
from nnunet_meep.evaluation.counting.components import Components, Lesions
from nnunet_meep.evaluation.counting.surface import METRICS as SURFACE_METRICS
from nnunet_meep.evaluation.metrics import statistics
from nnunet_meep.evaluation.metrics.calibration import reliability_band, reliability_bins
from nnunet_meep.evaluation.metrics.case_ranking import case_ranking
from nnunet_meep.evaluation.metrics.catalogue import WMH_TABLE, metrics_of
from nnunet_meep.evaluation.metrics.lesions import lesion_metrics
from nnunet_meep.evaluation.metrics.metric import Of
from nnunet_meep.evaluation.metrics.risk_coverage import _harmonic, risk_coverage
from nnunet_meep.evaluation.metrics.scores import (
    cases_not_segmented,
    class_metrics,
    error_metrics,
    top_label_metrics,
)
from nnunet_meep.evaluation.metrics.statistics import bca_interval, over_cases

# The worked example of the specification: ten voxels, five bins.
P = np.array([0.22, 0.48, 0.49, 0.96, 0.55, 0.64, 0.78, 0.82, 0.34, 0.87])
Y = np.array([0, 1, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
NO_COMPONENTS = Components([], [], [])


def of_class(p, y, n_bins=15):
    return class_metrics(count_voxels(p, y, p > 0.5, n_bins), grid(n_bins))


def of_top_label(confidence, correct, n_bins=15):
    return top_label_metrics(count_voxels(confidence, correct, correct, n_bins).cells, grid(n_bins))


def of_errors(p, y, n_bins=15):
    return error_metrics(count_voxels(p, y, y, n_bins).cells, grid(n_bins))


@st.composite
def voxels(draw, elements=None):
    dtype, width = draw(st.sampled_from([(np.float16, 16), (np.float32, 32), (np.float64, 64)]))
    n = draw(st.integers(1, 60))
    anything = st.floats(0, 1, width=width)
    p = draw(npst.arrays(dtype, n, elements=anything if elements is None else elements))
    return p, draw(npst.arrays(np.bool_, n))


#: So far apart that each has a cell of its own.
coarse = st.integers(0, 64).map(lambda k: k / 64)


def overconfident(n, seed, spread):
    rng = np.random.default_rng(seed)
    z = rng.normal(-2, spread, n)
    return expit(z).astype(np.float32), rng.random(n) < expit(z / 2.5)


def calibrated(n, seed, spread):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, spread, n)
    return expit(z).astype(np.float32), rng.random(n) < expit(z)


def chosen(n, seed, values, rate):
    rng = np.random.default_rng(seed)
    p = rng.choice(values, n).astype(np.float32)
    return p, rng.random(n) < rate(p)


@lru_cache
def many(name):
    n = 300_000
    rng = np.random.default_rng(9)
    return {
        "saturated": lambda: overconfident(n, 1, 7),
        "less saturated": lambda: overconfident(n, 2, 3),
        "calibrated": lambda: calibrated(n, 3, 6),
        "calibrated, unsure": lambda: calibrated(n, 4, 2),
        "few values": lambda: chosen(n, 5, [0, 0.1, 0.3, 0.35, 0.8, 1], lambda p: 0.1 + 0.7 * p),
        "few values, calibrated": lambda: chosen(n, 6, [0.1, 0.3, 0.35, 0.8], lambda p: p),
        "one value": lambda: chosen(n, 7, [0.7], lambda p: p - 0.2),
        "one cell": lambda: (
            rng.uniform(0.7001, 0.7003, n).astype(np.float32),
            rng.random(n) < 0.5,
        ),
        "sure of the background": lambda: sure_of_the_background(n, rng),
    }[name]()


def sure_of_the_background(n, rng):
    """All but a hundredth of the voxels are in the outermost cell; the others are overconfident."""
    p = np.where(np.arange(n) < 0.99 * n, 10 ** rng.uniform(-20, -11, n), rng.uniform(0.7, 0.99, n))
    return p, (p > 0.5) & (rng.random(n) < p - 0.2)


MANY = ["saturated", "less saturated", "calibrated", "calibrated, unsure"]
FEW = ["few values", "few values, calibrated", "one value"]


def test_worked_example() -> None:
    metrics = of_class(P, Y, 5)
    assert metrics["ece"] == pytest.approx(0.315)
    assert metrics["mce"] == pytest.approx(0.55)
    assert metrics["ace"] == pytest.approx(0.305)
    assert metrics["brier"] == pytest.approx(0.30859)
    assert metrics["brier_plus"] == pytest.approx(0.1864833, abs=1e-7)
    assert metrics["nll"] == pytest.approx(0.9484718, abs=1e-7)
    # By hand: p > 0.5 in 6 voxels, 4 of them true; 6 voxels are positive.
    assert metrics["dice"] == pytest.approx(2 * 4 / (6 + 6))
    volumes = [metrics[f"volume_{which}_ml"] for which in ("true", "pred", "expected")]
    assert volumes == pytest.approx([6, 6, P.sum()])


def test_the_reference_gives_the_worked_example() -> None:
    assert reference.ece(P, Y, 5) == pytest.approx(0.315)
    assert reference.mce(P, Y, 5) == pytest.approx(0.55)
    assert reference.ace(P, Y, 5) == pytest.approx(0.305)
    assert reference.brier(P, Y) == pytest.approx(0.30859)
    assert reference.brier_plus(P, Y) == pytest.approx(0.1864833, abs=1e-7)
    assert reference.nll(P, Y) == pytest.approx(0.9484718, abs=1e-7)


def test_equal_mass_in_the_worked_example_by_hand() -> None:
    # Sorted: .22 .34 | .48 .49 | .55 .64 | .78 .82 | .87 .96 with y = 0 1 | 1 0 | 1 1 | 1 1 | 0 0.
    gaps = np.array([0.28 - 0.5, 0.485 - 0.5, 0.595 - 1, 0.8 - 1, 0.915])
    variance = np.array([0.25, 0.25, 0, 0, 0])
    metrics = of_class(P, Y, 5)
    assert metrics["ece_adaptive"] == pytest.approx(abs(gaps).mean())
    assert metrics["ece_l2_debiased"] == pytest.approx(np.sqrt((gaps**2 - variance).mean()))
    assert reference.ece_adaptive(P, Y, 5) == pytest.approx(abs(gaps).mean())
    squared = reference.ece_l2_debiased(P, Y, 5) ** 2
    assert squared == pytest.approx((gaps**2 - variance).mean())


def test_the_keys_are_those_of_the_tables() -> None:
    """What each function gives is in the catalogue, as of that of which it is."""
    of_lesions = set(lesion_metrics(Lesions(NO_COMPONENTS, NO_COMPONENTS, [], [], [])))
    others = {*SURFACE_METRICS, *of_lesions, *WMH_TABLE}
    assert set(of_class(P, Y)) == set(metrics_of(Of.CLASS)) - others
    assert set(of_top_label(P, Y)) == set(metrics_of(Of.TOP_LABEL)) - {"classwise_ece"}
    assert set(of_errors(P, Y)) == set(metrics_of(Of.REGION))


@given(voxels(), st.integers(1, 20))
@example((np.array([0, 0, 1, 1], np.float32), np.array([False, True, False, True])), 15)
def test_exact_metrics_are_those_of_the_equations(data, n_bins) -> None:
    p, y = data
    metrics, p64 = of_class(p, y, n_bins), p.astype(np.float64)
    assert metrics["brier"] == pytest.approx(reference.brier(p64, y), abs=1e-14)
    # 1 - (1 - p) is what is left of p = 1e-12.
    assert metrics["nll"] == pytest.approx(reference.nll(p64, y), rel=3e-6, abs=1e-12)
    for name in ("ece", "mce", "ace"):
        expected = getattr(reference, name)(p64, y, n_bins)
        assert metrics[name] == pytest.approx(expected, abs=1e-12), name
    for name, stratum in (("brier_plus", y), ("brier_minus", ~y)):
        if stratum.any():
            expected = getattr(reference, name)(p64, y)
            assert metrics[name] == pytest.approx(expected, abs=1e-14), name
        else:
            assert np.isnan(metrics[name])
    if y.any() or (p > 0.5).any():
        assert metrics["dice"] == pytest.approx(reference.dice(p > 0.5, y))


@given(voxels())
def test_brier_is_the_weighted_mean_of_its_strata(data) -> None:
    metrics, pi = of_class(*data), data[1].mean()
    strata = [
        share * metrics[name]
        for share, name in ((pi, "brier_plus"), (1 - pi, "brier_minus"))
        if share
    ]
    assert metrics["brier"] == pytest.approx(sum(strata), rel=1e-12, abs=1e-300)


@given(voxels(), st.integers(1, 20))
def test_brier_and_reliability_agree_with_scikit_learn(data, n_bins) -> None:
    p, y = data
    p64 = p.astype(np.float64)
    metrics = of_class(p, y, n_bins)
    if 0 < y.sum() < y.size:
        assert metrics["brier"] == pytest.approx(brier_score_loss(y, p64))
        assert metrics["brier_plus"] == pytest.approx(brier_score_loss(y[y], p64[y], pos_label=1))
    # scikit-learn puts an edge itself into another bin; elsewhere the curves are the same.
    if not np.isin(p64, bin_edges(n_bins)[1:-1]).any():
        mean_y, mean_p = calibration_curve(y, p64, n_bins=n_bins)
        bins = reliability_bins(count_voxels(p, y, y, n_bins).cells, grid(n_bins))
        n = np.array(bins["count"])
        assert np.array(bins["mean_y"])[n > 0] == pytest.approx(mean_y)
        assert np.array(bins["mean_p"])[n > 0] == pytest.approx(mean_p)
        gap = abs(mean_p - mean_y)
        assert metrics["ece"] == pytest.approx((n[n > 0] / len(p) * gap).sum(), abs=1e-12)
        assert metrics["mce"] == pytest.approx(gap.max(), abs=1e-12)
        assert metrics["ace"] == pytest.approx(gap.mean(), abs=1e-12)


@given(voxels())
def test_nll_agrees_with_scikit_learn(data) -> None:
    p, y = data
    clipped = np.clip(p.astype(np.float64), CLIP, 1 - CLIP)
    expected = log_loss(y, clipped, labels=[0, 1])
    assert of_class(p, y)["nll"] == pytest.approx(expected, rel=3e-6, abs=1e-12)


@pytest.mark.parametrize("n_bins", [7, 15, 50])
@pytest.mark.parametrize("name", ["saturated", "calibrated, unsure"])
def test_binned_errors_agree_with_netcal(name, n_bins) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    p, y = many(name)
    p = p.astype(np.float64)
    metrics = of_class(p, y, n_bins)
    for key, measure in (("ece", netcal.ECE), ("mce", netcal.MCE), ("ace", netcal.ACE)):
        assert metrics[key] == pytest.approx(measure(n_bins).measure(p, y), abs=1e-10), key
    adaptive = netcal.ECE(n_bins, equal_intervals=False).measure(p, y)
    assert metrics["ece_adaptive"] == pytest.approx(adaptive, abs=2e-4)


@pytest.mark.parametrize("name", [*MANY, *FEW, "one cell"])
def test_smooth_error_agrees_with_relplot(name) -> None:
    relplot = pytest.importorskip("relplot")
    p, y = many(name)
    # relplot does not mirror what lies at the very ends, and loses half of it; its search ends at a
    # thousandth.
    inside = (p > 0.01) & (p < 0.99)
    p, y = p[inside].astype(np.float64), y[inside]
    assert of_class(p, y)["smece"] == pytest.approx(relplot.smECE(p, y), abs=2e-3)


@pytest.mark.parametrize("n_bins", [15, 50])
def test_top_label_errors_agree_with_fiducio(n_bins) -> None:
    fiducio = pytest.importorskip("fiducio.metrics")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4, 20_000))
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    y = (p**0.5 / (p**0.5).sum(axis=0)).cumsum(axis=0) < rng.random(20_000)
    y = y.sum(axis=0).clip(max=3)
    metrics = of_top_label(p.max(axis=0), p.argmax(axis=0) == y, n_bins)
    curve = fiducio.reliability_curve(p[None], y[None], n_bins=n_bins)
    assert metrics["ece"] == pytest.approx(curve.ece, abs=1e-9)
    assert metrics["ace"] == pytest.approx(curve.ace, abs=1e-9)
    assert metrics["ece"] > 0.05


@given(voxels(coarse), st.integers(1, 20))
def test_metrics_of_ranks_are_exact_where_cells_hold_one_value(data, n_bins) -> None:
    p, y = data
    metrics, p64 = of_class(p, y, n_bins), p.astype(np.float64)
    expected = reference.ece_adaptive(p64, y, n_bins)
    assert metrics["ece_adaptive"] == pytest.approx(expected, abs=1e-12)
    squared = reference.ece_l2_debiased(p64, y, n_bins) ** 2
    assert metrics["ece_l2_debiased"] ** 2 == pytest.approx(squared, abs=1e-12)
    assert of_top_label(p, y, n_bins)["aurc"] == pytest.approx(reference.aurc(p64, y), abs=1e-12)


@pytest.mark.parametrize("name", [*MANY, *FEW, "one cell", "sure of the background"])
@pytest.mark.parametrize("metric", ["ece_adaptive", "ece_l2_debiased"])
def test_equal_mass_errors_of_cells_are_close_to_those_of_voxels(name, metric) -> None:
    p, y = many(name)
    expected = getattr(reference, metric)(p.astype(np.float64), y, 15)
    assert of_class(p, y)[metric] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("make", [overconfident, calibrated])
@pytest.mark.parametrize("n", [300, 2_000, 20_000, 200_000])
@pytest.mark.parametrize("spread", [2, 6])
def test_small_images_are_no_less_exact(make, n, spread) -> None:
    for seed in range(2 if n > 100_000 else 5):
        p, y = make(n, seed, spread)
        ours, p64 = of_class(p, y), p.astype(np.float64)
        for metric in ("ece_adaptive", "ece_l2_debiased"):
            expected = getattr(reference, metric)(p64, y, 15)
            assert ours[metric] == pytest.approx(expected, abs=1e-4)
        confidence, correct = np.maximum(p, 1 - p), (p > 0.5) == y
        expected = reference.aurc(confidence.astype(np.float64), correct)
        assert of_top_label(confidence, correct)["aurc"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", [*MANY, *FEW, "one cell"])
def test_the_smooth_error_of_cells_is_close_to_that_of_voxels(name) -> None:
    p, y = many(name)
    p64, width = p.astype(np.float64), of_class(p, y)["smece"]
    # The error falls as the width grows: the two are equal somewhere in between.
    assert reference.smoothed_error(p64, y, width - 1e-4) > width - 1e-4
    assert reference.smoothed_error(p64, y, width + 1e-4) < width + 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_the_smooth_error_of_few_voxels(seed) -> None:
    p, y = overconfident(500, seed, 4)
    expected = reference.smece(p.astype(np.float64), y)
    assert of_class(p, y)["smece"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", [*MANY, *FEW])
def test_aurc_of_cells_is_close_to_that_of_voxels(name) -> None:
    p, y = many(name)
    confidence, correct = np.maximum(p, 1 - p), (p > 0.5) == y
    expected = reference.aurc(confidence.astype(np.float64), correct)
    assert of_top_label(confidence, correct)["aurc"] == pytest.approx(expected, abs=1e-4)


class TestRiskCoverage:
    """Of voxels in the order of their confidence, the errors among the first ones."""

    @staticmethod
    def of(p, y, *, top_label=True):
        curve = risk_coverage(count_voxels(p, y, y, 15).cells, grid(15), top_label=top_label)
        coverage, risk = np.array(curve["coverage"]), np.array(curve["risk"])
        assert coverage[0] == 0
        assert coverage[-1] == 1
        assert (np.diff(coverage) > 0).all()
        return coverage, risk

    @staticmethod
    def by_voxels(confidence, correct, coverage):
        """Errors among the first n voxels for each n, in between on a line."""
        wrong = ~correct[np.argsort(-confidence, kind="stable")]
        covered = coverage * len(wrong)
        errors = np.interp(covered, np.arange(len(wrong) + 1), [0, *np.cumsum(wrong)])
        return errors[1:] / covered[1:]

    def test_of_the_top_label(self) -> None:
        rng = np.random.default_rng(0)
        p = np.linspace(0.34, 0.99, 500).astype(np.float32)
        rng.shuffle(p)
        correct = rng.random(500) < p
        coverage, risk = self.of(p, correct)
        assert risk[1:] == pytest.approx(self.by_voxels(p, correct, coverage))

    def test_of_a_roi_both_sides_of_one_half_are_sure(self) -> None:
        rng = np.random.default_rng(0)
        # No two at the same distance from 1/2.
        p = np.linspace(0.01, 0.985, 500).astype(np.float32)
        y = rng.random(500) < p
        coverage, risk = self.of(p, y, top_label=False)
        confidence = np.maximum(p, 1 - p)
        assert len(np.unique(confidence)) == 500
        assert risk[1:] == pytest.approx(self.by_voxels(confidence, (p > 0.5) == y, coverage))

    def test_of_many_voxels_in_shared_cells(self) -> None:
        p, y = many(next(iter(MANY)))
        confidence, correct = np.maximum(p, 1 - p), (p > 0.5) == y
        coverage, risk = self.of(confidence, correct)
        expected = self.by_voxels(confidence, correct, coverage)
        assert risk[20:] == pytest.approx(expected[19:], abs=2e-4)
        assert risk[-1] == pytest.approx(1 - correct.mean())

    def test_the_area_below_it_is_the_aurc(self) -> None:
        p, y = overconfident(200_000, 0, 3)
        confidence, correct = np.maximum(p, 1 - p), (p > 0.5) == y
        coverage, risk = self.of(confidence, correct)
        area = trapezoid(risk, coverage)
        assert area == pytest.approx(of_top_label(confidence, correct)["aurc"], rel=0.02)

    def test_equally_sure_voxels_are_wrong_in_random_order(self) -> None:
        correct = np.arange(100) >= 30
        _, risk = self.of(np.full(100, 0.8, np.float32), correct)
        assert risk == pytest.approx(0.3)

    def test_without_voxels(self) -> None:
        _, risk = self.of(np.zeros(0, np.float32), np.zeros(0, bool))
        assert np.isnan(risk).all()


def test_one_cell_is_one_cell() -> None:
    p, y = many("one cell")
    assert len(np.unique(p)) > 1000
    assert len(count_voxels(p, y, y, 15).cells.index) == 1


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_all_errors_of_one_value_are_its_distance(q) -> None:
    y = np.arange(1000) < 300
    metrics = of_class(np.full(1000, q), y)
    for name in ("ece", "mce", "ace", "ece_adaptive", "smece"):
        assert metrics[name] == pytest.approx(abs(q - 0.3), abs=1e-6), name
    squared = (q - 0.3) ** 2 - 0.3 * 0.7 / 999
    assert metrics["ece_l2_debiased"] == pytest.approx(np.sqrt(squared))


def test_the_debiased_square_is_right_on_average_where_the_plain_one_is_too_large() -> None:
    rng = np.random.default_rng(0)
    p = np.repeat(np.linspace(0.2, 0.8, 5), 20)
    squares, plain = [], []
    for _ in range(150):
        y = rng.random(len(p)) < p + 0.15
        squares.append(of_class(p, y, 5)["ece_l2_debiased"] ** 2)
        plain.append(((p - y).reshape(5, 20).mean(axis=1) ** 2).mean())
    assert np.mean(squares) == pytest.approx(0.15**2, rel=0.1)
    assert np.mean(plain) > 1.3 * 0.15**2


def test_no_metric_exists_without_voxels() -> None:
    p, y = np.zeros(0), np.zeros(0, np.bool_)
    for metrics in (of_class(p, y), of_top_label(p, y), of_errors(p, y)):
        assert np.isnan(list(metrics.values())).all()
    bins = reliability_bins(count_voxels(p, y, y, 3).cells, grid(3))
    assert bins["count"] == [0, 0, 0]
    assert np.isnan(bins["mean_p"] + bins["mean_y"]).all()


def test_without_the_class_only_what_needs_it_is_undefined() -> None:
    metrics = of_class(np.zeros(3), np.zeros(3, np.bool_), 5)
    undefined = {
        "dice",
        "precision",
        "recall",
        "dice_expected",
        "dice_expected_error",
        "brier_plus",
    }
    assert {name for name, value in metrics.items() if np.isnan(value)} == undefined
    assert metrics["brier"] == metrics["brier_minus"] == metrics["ece"] == 0


def test_a_perfect_prediction_has_no_error() -> None:
    metrics = of_class(Y.astype(np.float64), Y)
    expected = dict.fromkeys(of_class(P, Y), 0.0) | {"nll": 1e-12}
    expected |= dict.fromkeys(("dice", "precision", "recall", "dice_expected"), 1.0)
    expected |= {f"volume_{which}_ml": 6 for which in ("true", "pred", "expected")}
    assert metrics.pop("smece") == pytest.approx(expected.pop("smece"), abs=1e-6)
    assert metrics == pytest.approx(expected, rel=1e-3, abs=0)


def test_the_worst_prediction_has_all_the_error_there_is() -> None:
    metrics = of_class(1.0 - Y, Y)
    for name in ("brier", "brier_plus", "brier_minus", "ece", "mce", "ace", "ece_adaptive"):
        assert metrics[name] == 1, name
    assert metrics["ece_l2_debiased"] == 1
    assert metrics["dice"] == 0
    assert metrics["nll"] == pytest.approx(-np.log(CLIP))
    assert metrics["smece"] == pytest.approx(reference.smece(1.0 - Y, Y), abs=1e-4)
    all_missed = of_class(np.zeros(9), np.ones(9, np.bool_))
    assert all_missed["smece"] == pytest.approx(1, abs=1e-6)


def test_harmonic_numbers_are_those_of_scipy() -> None:
    n = np.concatenate([np.arange(3000.0), np.geomspace(3e3, 1e12, 200).round()])
    np.testing.assert_allclose(_harmonic(n), digamma(n + 1), rtol=1e-14)


def test_aurc_without_errors_is_zero_and_with_nothing_else_one() -> None:
    confidence = np.linspace(0.3, 1, 50)
    assert of_top_label(confidence, np.ones(50, np.bool_))["aurc"] == 0
    assert of_top_label(confidence, np.zeros(50, np.bool_))["aurc"] == pytest.approx(1)
    assert of_top_label(np.ones(50), np.zeros(50, np.bool_))["aurc"] == pytest.approx(1)


def test_aurc_by_hand() -> None:
    # Error rates among the first 1, 2 and 3: 0, 1/2, 1/3.
    aurc = of_top_label(np.array([0.7, 0.9, 0.8]), np.array([True, True, False]))["aurc"]
    assert aurc == pytest.approx(5 / 18)


def test_aurc_of_equal_confidence_is_the_mean_over_all_orders() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.6, 0.6])
    wrong = np.array([1, 0, 1, 0, 1, 0])
    areas = [
        np.mean(np.cumsum(wrong[list(order)]) / np.arange(1, 7))
        for order in itertools.permutations(range(6))
        if (np.diff(confidence[list(order)]) <= 0).all()
    ]
    assert len(areas) == 12
    assert of_top_label(confidence, wrong == 0)["aurc"] == pytest.approx(np.mean(areas))
    assert reference.aurc(confidence, wrong == 0) == pytest.approx(np.mean(areas))


def test_top_label_accuracy_and_errors() -> None:
    confidence, correct = np.array([0.9, 0.6, 0.45, 1.0]), np.array([True, False, True, True])
    metrics = of_top_label(confidence, correct)
    assert metrics["accuracy"] == 0.75
    assert metrics["error_rate"] == 0.25
    assert metrics["error_rate_expected"] == pytest.approx((0.1 + 0.4 + 0.55 + 0) / 4)
    assert metrics["error_rate_ratio"] == pytest.approx(1.05)


def test_errors_of_a_roi_by_hand() -> None:
    # One half itself is not segmented, and wrongly so.
    p, y = np.array([0.9, 0.6, 0.5, 0.1]), np.array([True, False, True, False])
    metrics = of_errors(p, y)
    assert metrics["error_rate"] == 0.5
    assert metrics["error_rate_expected"] == pytest.approx((0.1 + 0.4 + 0.5 + 0.1) / 4)
    assert metrics["error_rate_ratio"] == pytest.approx(0.55)


@given(voxels(), st.integers(1, 20))
def test_errors_are_those_of_the_equations(data, n_bins) -> None:
    p, y = data
    metrics, p64 = of_errors(p, y, n_bins), p.astype(np.float64)
    assert metrics["error_rate"] == reference.error_rate(p64, y)
    expected = reference.error_rate_expected(p64, y)
    assert metrics["error_rate_expected"] == pytest.approx(expected, abs=1e-12)
    if metrics["error_rate"]:
        ratio = reference.error_rate_ratio(p64, y)
        assert metrics["error_rate_ratio"] == pytest.approx(ratio, abs=1e-10)


def test_the_ratio_of_errors_is_undefined_without_an_error() -> None:
    p, y = np.array([0.9, 0.2]), np.array([True, False])
    assert np.isnan(of_errors(p, y)["error_rate_ratio"])
    assert np.isnan(of_top_label(p, np.ones(2, np.bool_))["error_rate_ratio"])


@pytest.mark.parametrize("name", ["saturated", "calibrated"])
def test_a_calibrated_network_expects_the_errors_it_makes(name) -> None:
    ratio = of_errors(*many(name))["error_rate_ratio"]
    assert ratio == pytest.approx(1, abs=0.03) if name == "calibrated" else ratio < 0.5
    [summary] = over_cases([[1.0, 2.0, np.nan, 6.0]])
    assert summary["mean"] == 3.0
    assert summary["median"] == 2.0
    assert summary["std"] == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert (summary["n"], summary["n_undefined"]) == (3, 1)


@pytest.mark.parametrize(
    ("dice", "brier_plus", "n"),
    [
        ([0, 0, 0], [0.9, 1, 0.8], 3),
        ([0, np.nan, 0], [0.9, np.nan, np.nan], 1),  # in the last case it is segmented, wrongly
        ([0, 1e-6, 0], [0.9, 1, 0.8], 0),
        ([np.nan, 0], [np.nan, np.nan], 0),  # no reference has it
        ([], [], 0),
    ],
)
def test_a_class_is_not_segmented_if_dice_is_0_wherever_the_reference_has_it(
    dice, brier_plus, n
) -> None:
    assert cases_not_segmented(dice, brier_plus) == n


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [5, 20, 60])
def test_bootstrap_interval_of_the_mean_is_that_of_scipy(seed, n) -> None:
    values = np.random.default_rng(seed).gamma(0.5, size=n)
    low, high = over_cases([values.tolist()])[0]["ci95"]
    other = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=seed
    ).confidence_interval
    # So far apart are two runs of scipy's with other resamples.
    width = other.high - other.low
    assert [low, high] == pytest.approx([other.low, other.high], abs=0.06 * width)
    # Skewed to the right: plain percentiles, which do not allow for it, are lower.
    if n == 20:
        plain = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=seed)
        assert high > plain.confidence_interval.high


@pytest.mark.parametrize("seed", range(5))
def test_bca_intervals_are_those_of_scipy_on_the_same_resamples(seed) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 30))
    columns = rng.gamma(0.3, size=(n, 4))
    drawn = rng.integers(0, n, (2_000, n))
    without = np.array([np.delete(columns, i, axis=0).mean(axis=0) for i in range(n)])
    ends = bca_interval(columns.mean(axis=0), columns[drawn].mean(axis=1), without)
    for column, (low, high) in zip(columns.T, ends.T, strict=True):
        same = SimpleNamespace(bootstrap_distribution=column[drawn].mean(axis=1))
        other = bootstrap(
            (column,), np.mean, n_resamples=0, method="BCa", bootstrap_result=same
        ).confidence_interval
        assert [low, high] == pytest.approx([other.low, other.high], rel=1e-3)


def bins_of(count, mean_y):
    return [
        {"count": n.tolist(), "mean_y": y.tolist(), "mean_p": y.tolist()}
        for n, y in zip(count, mean_y, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_band_is_scipys_interval_of_a_ratio_of_sums(seed) -> None:
    rng = np.random.default_rng(seed)
    count, mean_y = rng.integers(1, 200, (12, 3)), rng.random((12, 3)) ** 3
    count[0, 1], mean_y[0, 1] = 0, 0
    low, high = reliability_band(bins_of(count, np.where(count, mean_y, np.nan)))
    for b in range(3):
        other = bootstrap(
            (mean_y[:, b] * count[:, b], count[:, b]),
            lambda y, n, axis=-1: y.sum(axis=axis) / n.sum(axis=axis),
            n_resamples=20_000,
            method="BCa",
            paired=True,
            rng=seed,
        ).confidence_interval
        width = other.high - other.low
        expected = pytest.approx([other.low, other.high], abs=0.06 * width)
        assert [low[b], high[b]] == expected


def test_a_bin_with_voxels_of_one_case_has_no_spread_and_one_without_voxels_no_band() -> None:
    count = np.array([[0, 3, 0], [5, 0, 0], [0, 0, 0]])
    mean_y = np.array([[np.nan, 0.1, np.nan], [0.7, np.nan, np.nan], [np.nan] * 3])
    low, high = reliability_band(bins_of(count, mean_y))
    assert low[:2] == pytest.approx([0.7, 0.1], rel=1e-12)
    assert high[:2].tolist() == low[:2].tolist()
    assert np.isnan([low[2], high[2]]).all()


def test_a_resample_without_a_value_is_left_out() -> None:
    rng = np.random.default_rng(0)
    resampled, jackknife = rng.random((500, 1)), rng.random((9, 1))
    with_nan = np.insert(resampled, [0, 100, 500], np.nan, axis=0)
    without = np.insert(jackknife, 4, np.nan, axis=0)
    ends = bca_interval(np.array([0.5]), resampled, jackknife)
    assert bca_interval(np.array([0.5]), with_nan, without) == pytest.approx(ends, rel=1e-12)


def test_an_estimate_outside_of_all_resamples_has_an_end_among_them() -> None:
    resampled, jackknife = np.linspace(0, 1, 1_000)[:, None], np.array([[0.0], [0.1], [1.0]])
    for estimate, end in ((-0.1, 0.0), (1.1, 1.0)):
        low, high = bca_interval(np.array([estimate]), resampled, jackknife)[:, 0]
        assert 0 <= low < high <= 1
        assert end in (low.round(2), high.round(2))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-9, -7.0, 123.456])
@pytest.mark.parametrize("n", [2, 3, 40])
def test_equal_cases_have_an_interval_without_width(value, n) -> None:
    [summary] = over_cases([[value] * n])
    assert summary["ci95"] == [summary["mean"]] * 2


def test_of_two_cases_the_interval_is_from_one_to_the_other() -> None:
    # Half of all resamples are tied with the mean, and whether they are must not be left to
    # rounding.
    for low, high in np.random.default_rng(0).random((50, 2)).cumsum(axis=1):
        assert over_cases([[high, low]])[0]["ci95"] == pytest.approx([low, high], rel=1e-12)


def test_bootstrap_is_the_same_every_time() -> None:
    values = [0.1, 0.5, 0.7]
    assert over_cases([values]) == over_cases([values])


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_without_cases_nothing_is_defined(values) -> None:
    [summary] = over_cases([values])
    assert summary["n"] == 0
    assert summary["n_undefined"] == len(values)
    assert np.isnan([summary["mean"], summary["std"], summary["median"], *summary["ci95"]]).all()


def test_one_case_has_a_mean_and_no_spread() -> None:
    [summary] = over_cases([[0.25]])
    assert summary["mean"] == summary["median"] == 0.25
    assert np.isnan([summary["std"], *summary["ci95"]]).all()


def test_resamples_are_the_same_in_parts_of_any_size(monkeypatch) -> None:
    for kept in (statistics.KEPT, 0):
        monkeypatch.setattr(statistics, "KEPT", kept)
        times = np.concatenate([*statistics.resamples(7)])
        again = [*statistics.resamples(7, at_once=1000)]
        assert len(again) > 1
        assert np.array_equal(np.concatenate(again), times)


@pytest.mark.parametrize("kept", [statistics.KEPT, 0], ids=["kept", "drawn again"])
def test_each_resample_draws_n_of_n_cases_with_equal_chances(monkeypatch, kept) -> None:
    """As a multinomial distribution has it: variance 1 - 1 / n, covariance -1 / n."""
    monkeypatch.setattr(statistics, "KEPT", kept)
    times = np.concatenate([*statistics.resamples(5)])
    assert times.shape == (statistics.BOOTSTRAP_RESAMPLES, 5)
    assert (times.sum(axis=1) == 5).all()
    assert np.allclose(times.mean(axis=0), 1, atol=0.05)
    assert np.allclose(np.cov(times.T), np.eye(5) - 1 / 5, atol=0.05)


def test_metrics_that_share_resamples_have_the_summaries_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    metrics = rng.normal(size=(4, 9))
    metrics[1, 2], metrics[2, [0, 8]], metrics[3, 1:] = np.nan, np.nan, np.nan
    for values, summary in zip(metrics, over_cases(metrics.tolist()), strict=True):
        [alone] = over_cases([values.tolist()])
        assert summary.pop("ci95") == pytest.approx(alone.pop("ci95"), rel=1e-12, nan_ok=True)
        assert summary == pytest.approx(alone, rel=0, nan_ok=True)


def test_resamples_of_many_cases_need_little_memory() -> None:
    """Of 4,000 cases 10,000 resamples have 40 million numbers, 320 MB as float64."""
    n = 4000
    values = np.random.default_rng(0).normal(size=n)
    tracemalloc.start()
    try:
        low, high = over_cases([values.tolist()])[0]["ci95"]
        dice = np.linspace(0.5, 0.9, n)
        case_ranking(dice.tolist(), (dice**2).tolist())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 80e6
    half = 1.96 * values.std() / math.sqrt(n)
    assert np.allclose([low, high], values.mean() + np.array([-half, half]), atol=0.05 * half)
