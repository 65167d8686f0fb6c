"""Metrics of arrays: to the last bit those of the evaluator on the same voxels in files."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import LABELS, softmax_case

import nnunet_meep as nm
from nnunet_meep.evaluation.arrays import KINDS

SHAPE = (30, 40, 50)  # more than one part of the reader
P, Y = softmax_case(np.random.default_rng(0), SHAPE)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Cases of three floating types, one of them with ignored voxels; and what files give."""
    from predictions import PredictionFolder

    rng = np.random.default_rng(1)
    folder = PredictionFolder(tmp_path_factory.mktemp("arrays"), {**LABELS, "ignore": 3})
    cases = {}
    for name, dtype in (("a", np.float32), ("b", np.float64), ("c", np.float16)):
        p, y = softmax_case(rng, (40, 90, 90) if name == "a" else SHAPE)
        y[rng.random(y.shape) < (0.2 if name == "a" else 0)] = 3
        folder.add(name, p.astype(dtype), y)
        cases[name] = p.astype(dtype), y
    evaluation = nm.evaluate(str(folder.gt), str(folder.pred), surface=False)
    return cases, {case.case: case.rois["image"] for case in evaluation.cases}


def of_classes(result, metric):
    return [result.classes[key][metric] for key in ("1", "2")]


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_arrays_give_what_files_give_to_the_last_bit(evaluated, case) -> None:
    cases, results = evaluated
    (p, y), result = cases[case], results[case]
    options = {"ignore_label": 3}
    for kind in KINDS:
        found = nm.calibration_error(p, y, kind=kind, **options)
        assert found.tolist() == of_classes(result, kind)
    for kind in KINDS[:3]:
        found = nm.calibration_error(p, y, kind=kind, top_label=True, **options)
        assert float(found) == result.top_label[kind]
    assert nm.brier_score(p, y, **options).tolist() == of_classes(result, "brier")
    assert nm.negative_log_likelihood(p, y, **options).tolist() == of_classes(result, "nll")
    assert nm.smooth_calibration_error(p, y, **options).tolist() == of_classes(result, "smece")
    assert float(nm.aurc(p, y, **options)) == result.top_label["aurc"]


def test_the_risk_coverage_curve_is_that_of_a_folder_with_this_case_alone(make_folder) -> None:
    folder = make_folder()
    p, y = softmax_case(np.random.default_rng(0), SHAPE)
    folder.add("a", p, y)
    evaluation = nm.evaluate(folder.gt, folder.pred, surface=False)
    curve = {name: values.tolist() for name, values in nm.risk_coverage(p, y).items()}
    assert curve == evaluation.pooled["image"].risk_coverage["top_label"]


def test_a_list_is_a_list_of_cases() -> None:
    p, y = P[:, :3], Y[:3]
    both = nm.brier_score([P, p], [Y, y])
    assert both.tolist() == [nm.brier_score(P, Y).tolist(), nm.brier_score(p, y).tolist()]
    assert nm.aurc([P, p], [Y, y]).shape == (2,)


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (2, 2, 3, 2)])
def test_any_number_of_axes(shape) -> None:
    p, y = P[:, 0, 0, :24], Y[0, 0, :24]
    expected = nm.negative_log_likelihood(p, y)
    assert (nm.negative_log_likelihood(p.reshape(3, *shape), y.reshape(shape)) == expected).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": P[0]}, "labels: expected an array of shape"),
        ({"probabilities": P[:1]}, "probabilities: expected floating numbers"),
        ({"probabilities": P.astype(int)}, "probabilities: expected floating numbers"),
        ({"probabilities": 2 * P}, "probabilities: expected"),
        ({"probabilities": P * np.nan}, "probabilities: expected"),
        ({"labels": Y[:-1]}, "labels: expected an array of shape"),
        ({"labels": Y + 1}, "labels: expected 0 to 2, found also 3"),
        ({"n_bins": 0}, "n_bins: expected a number from 1"),
        ({"kind": "magic"}, "kind: expected one of ece"),
        ({"kind": "ece_adaptive", "top_label": True}, "kind: expected one of ece"),
        ({"ignore_label": 2}, "ignore_label: expected a number from 3"),
        ({"probabilities": [P, P], "labels": [Y]}, "labels: expected a list of 2 arrays"),
    ],
)
def test_what_cannot_be_is_a_value_error_in_one_line(change, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as error:
        nm.calibration_error(**{"probabilities": P, "labels": Y, **change})
    assert "\n" not in str(error.value)
