"""The choice of thresholds, against every threshold tried on every case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from sklearn.metrics import f1_score, recall_score
from too_sure import KINDS, overconfident, overconfident_regions

import nnunet_meep as nm
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.nnunet_files.derived import Thresholds
from nnunet_meep.nnunet_files.labels import Labels, read_labels
from nnunet_meep.posthoc.segmentation import thresholded
from nnunet_meep.posthoc.thresholds import HALF, THRESHOLDS, learn_thresholds
from nnunet_meep.posthoc.voxels import ArrayVoxels

WHOLE = parse_roi("image")
SHAPE = (3, 4, 5)


def labels_of(kind: str, **more: int) -> Labels:
    content = KINDS[kind][0]
    return read_labels({**content, "labels": {**content["labels"], **more}}, Path("dataset.json"))


def cases_of(kind: str, n: int, seed: int = 0) -> list[ArrayVoxels]:
    rng, n_classes = np.random.default_rng(seed), KINDS[kind][1]
    cases = []
    for _ in range(n):
        p, y = (
            overconfident(rng, n_classes, SHAPE) if n_classes else overconfident_regions(rng, SHAPE)
        )
        cases.append(ArrayVoxels(p, y, labels_of(kind), WHOLE))
    return cases


def rates(case: ArrayVoxels, of_class: dict[str, float], key: str) -> tuple[float, float]:
    """Dice and false-negative rate of a class in the segmentation of a case."""
    members = case.labels.members(case.labels.keys.index(key))
    counted = case.codes != case.labels.ignored_code
    mine = np.isin(thresholded(case.probabilities, case.labels, Thresholds(of_class)), members)
    true = np.isin(case.codes, members) & counted
    mine &= counted
    n_true, n_both = true.sum(), (true & mine).sum()
    return 2 * n_both / (mine.sum() + n_true), 1 - n_both / n_true


#: Some of the thresholds, which trying them all on every case would take long.
TRIED = np.arange(0, len(THRESHOLDS), 61)


@pytest.mark.parametrize("kind", ["two classes", "regions"])
def test_the_curves_are_those_of_the_segmentations(kind):
    """Of the inner region; the outer one also has what is written as the inner one."""
    cases = cases_of(kind, 3)
    key = cases[0].labels.keys[-1]
    _, fits, _ = learn_thresholds(cases, cases[0].labels, None)
    others = dict.fromkeys(cases[0].labels.keys, 0.5)
    found = np.array(
        [
            np.mean([rates(case, {**others, key: t}, key) for case in cases], axis=0)
            for t in THRESHOLDS[TRIED]
        ]
    )
    np.testing.assert_allclose(fits[key].dice[TRIED], found[:, 0], atol=1e-12)
    np.testing.assert_allclose(fits[key].fnr[TRIED], found[:, 1], atol=1e-12)
    assert fits[key].dice[fits[key].chosen] >= found[:, 0].max()
    assert fits[key].threshold == THRESHOLDS[fits[key].chosen]


def test_one_threshold_of_classes_that_compete_keeps_the_rate_of_each():
    """The largest common one, and the next larger one would not do; alpha = 0.45."""
    cases = cases_of("three classes", 12)
    thresholds, fits, _ = learn_thresholds(cases, cases[0].labels, 0.45)
    chosen = fits["1"].chosen
    assert len(set(thresholds.of_class.values())) == 1

    def bounds(index: int) -> list[float]:
        common = dict.fromkeys(("1", "2"), float(THRESHOLDS[index]))
        means = [np.mean([rates(case, common, k)[1] for case in cases]) for k in ("1", "2")]
        return [12 / 13 * mean + 1 / 13 for mean in means]

    assert max(bounds(chosen)) <= 0.45 < max(bounds(chosen + 1))
    for key in ("1", "2"):  # what is reported is of the segmentation
        common = dict.fromkeys(("1", "2"), fits[key].threshold)
        found = np.mean([rates(case, common, key) for case in cases], axis=0)
        assert [fits[key].dice[chosen], fits[key].fnr[chosen]] == pytest.approx(found)


@pytest.mark.parametrize("kind", ["two classes", "regions"])
def test_the_largest_threshold_of_each_class_that_keeps_the_rate(kind):
    cases = cases_of(kind, 9)
    thresholds, fits, _ = learn_thresholds(cases, cases[0].labels, 0.4)
    for key, t in thresholds.of_class.items():
        kept = (9 / 10 * fits[key].fnr + 1 / 10 <= 0.4 + 1e-12).nonzero()[0]
        assert t == THRESHOLDS[kept.max()]
        means = [rates(case, thresholds.of_class, key)[1] for case in cases]
        assert 9 / 10 * np.mean(means) + 1 / 10 <= 0.4 + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_beside_the_thresholds_stands_what_nnunet_segments(kind):
    """scikit-learn's Dice and recall of the labels that nnU-Net's own label manager writes."""
    cases, content = cases_of(kind, 3), KINDS[kind][0]
    manager = LabelManager(content["labels"], content.get("regions_class_order"))
    _, fits, _ = learn_thresholds(cases, cases[0].labels, None)
    for i, fit in enumerate(fits.values()):
        found = []
        for case in cases:
            written = manager.convert_probabilities_to_segmentation(case.probabilities)
            members = case.labels.members(i)
            true, mine = np.isin(case.codes, members).ravel(), np.isin(written, members).ravel()
            found.append([f1_score(true, mine), 1 - recall_score(true, mine)])
        assert [fit.nnunet_dice, fit.nnunet_fnr] == pytest.approx(np.mean(found, axis=0))


def of_two(foreground: list[float], y: list[int]) -> tuple[np.ndarray, np.ndarray]:
    p = np.array(foreground, np.float32)
    return np.stack([1 - p, p]), np.array(y)


def test_dice_by_hand():
    """0.3 and below segments both voxels: 4/5; above 0.4 one: 2/3; between: 4/4."""
    p, y = of_two([0.1, 0.3, 0.6, 0.4], [0, 0, 1, 1])
    found = nm.fit_thresholds(p, y).thresholds
    assert found.of_class["1"] == pytest.approx(0.4, rel=0.003)  # the nearest to 1/2
    assert found.of_class["1"] < np.float32(0.4)
    assert found.fnr is None


def test_where_all_do_as_well_it_stays_at_a_half():
    p, y = of_two([0.1, 0.2, 0.9, 0.8], [0, 0, 1, 1])
    assert nm.fit_thresholds(p, y).thresholds.of_class == {"1": 0.5}


def test_a_probability_of_a_half_is_not_above_a_half():
    p, y = of_two([0.5, 0.2], [1, 0])
    found = nm.fit_thresholds(p, y)
    assert found.fitted_on["classes"]["1"]["dice_at_half"] == 0
    assert found.thresholds.of_class["1"] == THRESHOLDS[HALF - 1]


def test_the_rate_by_hand():
    """Four voxels in each of four cases; one may be missed of 16, and more not: alpha = 0.3.

    (1/4 + 1) / 5 = 0.25 and (2/4 + 1) / 5 = 0.3; one of three would be 0.35.
    """
    p, y = of_two([0.2, 0.9, 0.9, 0.9], [1, 1, 1, 1])
    q, _ = of_two([0.3, 0.9, 0.9, 0.9], [1, 1, 1, 1])
    r, _ = of_two([0.4, 0.9, 0.9, 0.9], [1, 1, 1, 1])
    s, _ = of_two([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 1])
    found = nm.fit_thresholds([p, q, r, s], [y] * 4, fnr=0.3).thresholds
    assert found.of_class["1"] == pytest.approx(0.4, rel=0.003)
    assert found.of_class["1"] < np.float32(0.4)
    assert found.fnr == 0.3
    assert nm.fit_thresholds([p, q, r, s], [y] * 4, fnr=0.25).thresholds.of_class["1"] < 0.3


@pytest.mark.parametrize("fnr", [None, 0.6])
def test_cases_without_a_class_do_not_count(fnr):
    """They would let one that has it miss all of it."""
    p, y = of_two([0.3, 0.9], [1, 1])
    empty = [p] * 9, [np.zeros_like(y)] * 9
    alone = nm.fit_thresholds([p] * 4, [y] * 4, fnr=fnr)
    found = nm.fit_thresholds([*[p] * 4, *empty[0]], [*[y] * 4, *empty[1]], fnr=fnr)
    assert found.thresholds == alone.thresholds
    assert found.fitted_on["classes"] == alone.fitted_on["classes"]
    assert found.fitted_on["classes"]["1"]["n_cases"] == 4


def known(kind: str, code: int) -> ArrayVoxels:
    """A case with the labels 0, 1 and ``code``, which are what the network finds."""
    labels, codes = labels_of(kind), np.array([[[0, 0, 1, 1, code, code]]], np.uint8)
    members = [labels.members(i) for i in range(len(labels.classes))]
    p = np.array([np.where(np.isin(codes, m), 0.9, 0.05) for m in members], np.float32)
    if kind != "regions":
        p = np.concatenate([1 - p.sum(axis=0, keepdims=True), p])
    return ArrayVoxels(p, codes, labels, WHOLE)


@pytest.mark.parametrize("kind", ["three classes", "regions"])
def test_a_class_in_too_few_cases_has_no_limit(kind):
    """And changes nothing for the others: it is in three cases, and a rate of 0.2 needs four."""
    cases = [known(kind, 2 if i < 3 else 1) for i in range(10)]
    common, rare = cases[0].labels.keys
    thresholds, fits, reasons = learn_thresholds(cases, cases[0].labels, 0.2)
    assert reasons == {rare: "only 3 cases with it, of 4 that the rate needs"}
    assert (fits[common].n_with, fits[rare].n_with) == (10, 3)
    assert 0.5 < thresholds.of_class[common] < 0.9
    expected = 0.5 if kind == "regions" else thresholds.of_class[common]
    assert thresholds.of_class[rare] == expected
    with pytest.raises(InputError, match=r"expected 4 cases at least that have .* got 3"):
        learn_thresholds(cases[:3], cases[0].labels, 0.2)


def test_a_case_in_which_nothing_is_predicted_has_a_dice_of_0_and_misses_all():
    p, y = of_two([0.2, 0.9], [0, 1])
    nothing, _ = of_two([0.0, 0.0], [0, 1])
    about = nm.fit_thresholds([p, nothing], [y, y]).fitted_on["classes"]["1"]
    assert (about["dice_at_threshold"], about["fnr_at_threshold"]) == (0.5, 0.5)


def test_ignored_voxels_do_not_count():
    p, y = of_two([0.1, 0.3, 0.6, 0.4, 0.99, 0.01], [0, 0, 1, 1, 9, 9])
    found = nm.fit_thresholds(p, y, ignore_label=9).thresholds
    assert found == nm.fit_thresholds(p[:, :4], y[:4]).thresholds


def test_a_class_that_no_reference_has_stays_at_a_half():
    cases = cases_of("regions", 9)
    cases = [replace(case, codes=np.minimum(case.codes, 1)) for case in cases]
    for fnr in (None, 0.3):
        thresholds, fits, reasons = learn_thresholds(cases, cases[0].labels, fnr)
        assert thresholds.of_class["(2,)"] == 0.5
        assert fits["(2,)"].chosen == HALF
        assert reasons == {"(2,)": "no voxels of it in the references"}
    cases = [replace(case, codes=np.zeros_like(case.codes)) for case in cases]
    with pytest.raises(InputError, match="nothing to learn: the references have none"):
        learn_thresholds(cases, cases[0].labels, None)


def test_what_cannot_be_kept_is_refused():
    p, y = of_two([0.0, 0.9], [1, 1])
    with pytest.raises(InputError, match=r"expected 9 cases at least that have .* 10 %, got 3"):
        nm.fit_thresholds([p] * 3, [y] * 3, fnr=0.1)
    least = r"found none for 1: the lowest one misses 50\.0% .* a rate of 0\.55 at least"
    with pytest.raises(InputError, match=least):  # (9 / 2 + 1) / 10
        nm.fit_thresholds([p] * 9, [y] * 9, fnr=0.2)
    assert nm.fit_thresholds([p] * 9, [y] * 9, fnr=0.55).thresholds.of_class["1"] < 0.9
    for wrong in (0.0, 1.0, 90.0, float("nan")):
        with pytest.raises(InputError, match="fnr: expected a share above 0 and below 1"):
            nm.fit_thresholds(p, y, fnr=wrong)


def test_the_rate_that_can_be_kept_is_that_of_the_worst_class():
    y = np.array([1, 1, 2, 2, 2, 2])
    found = {1: [0], 2: [2]}  # half of the one, a quarter of the other
    p = np.zeros((3, 6))
    for label, voxels in found.items():
        p[label, voxels] = 0.9
    p[0] = 1 - p.sum(axis=0)
    with pytest.raises(InputError, match=r"for 2: .* misses 75\.0% .* a rate of 0\.775 at least"):
        nm.fit_thresholds([p] * 9, [y] * 9, fnr=0.2)
    assert nm.fit_thresholds([p] * 9, [y] * 9, fnr=0.775).thresholds.fnr == 0.775
    p[:, 2] = 1, 0, 0
    with pytest.raises(InputError, match=r"found none for 2: .*; no rate can be kept, the network"):
        nm.fit_thresholds([p] * 9, [y] * 9, fnr=0.9)


def test_after_another_calibrator():
    """Of the probabilities that it gives; a threshold moves with them and segments the same."""
    rng = np.random.default_rng(0)
    pairs = [overconfident(rng, 2, (4, 5, 6)) for _ in range(10)]
    p, y = [p for p, _ in pairs], [y for _, y in pairs]
    temperature = nm.fit_calibrator("temperature", p, y)
    plain = nm.fit_thresholds(p, y, fnr=0.3)
    after = nm.fit_thresholds(p, y, fnr=0.3, after=temperature)
    (of_plain,), (of_after,) = (c.thresholds.of_class.values() for c in (plain, after))
    expected = temperature.binary["1"](np.array([of_plain]))[0]
    assert of_after == pytest.approx(expected, rel=0.02)
    np.testing.assert_array_equal(after(p[0]), temperature(p[0]))
    # nnU-Net's own Dice and rate are of the probabilities as they were.
    platt = nm.fit_thresholds(p, y, fnr=0.3, after=nm.fit_calibrator("platt", p, y))
    for key in ("dice_of_nnunet", "fnr_of_nnunet"):
        of_nnunet = {c.fitted_on["classes"]["1"][key] for c in (plain, after, platt)}
        assert len(of_nnunet) == 1
    with pytest.raises(InputError, match="after: expected a calibrator without threshold"):
        nm.fit_thresholds(p, y, after=after)
