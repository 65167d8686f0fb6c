"""``fit_calibrator`` on arrays: the calibrator that ``fit`` learns from the same files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import PredictionFolder
from too_sure import overconfident

import nnunet_meep as nm
from nnunet_meep.evaluation.notes import notes
from nnunet_meep.nnunet_files.calibrated import applied_calibrator
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.calibrator import METHODS
from nnunet_meep.posthoc.fit import fit


def of(folder):
    """Probabilities and labels of each case."""
    cases = sorted(folder.pred.glob("*.npz"))
    references = [folder.gt / f"{npz.stem}.nii.gz" for npz in cases]
    return (
        [np.load(npz)["probabilities"] for npz in cases],
        [sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in references],
    )


@pytest.mark.parametrize("kind", ["two classes", "three classes"])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_calibrator_of_the_files_to_the_last_bit(method, kind, make_validation) -> None:
    pytest.importorskip("fiducio")
    folder = make_validation(kind)
    probabilities, labels = of(folder)
    of_arrays = nm.fit_calibrator(method, probabilities, labels)
    of_files = fit(method, folder.gt, folder.pred).calibrator
    for p in probabilities:
        np.testing.assert_array_equal(of_arrays(p), of_files(p))
    same = {"n_voxels", "classes", "roi", "n_cases"}
    learnt = {
        name: of_arrays.fitted_on[name]["1"] if name == "classes" else value
        for name, value in of_arrays.fitted_on.items()
        if name in same
    }
    learnt["classes"] = {**learnt["classes"], "name": of_files.fitted_on["classes"]["1"]["name"]}
    expected = {name: of_files.fitted_on[name] for name in same}
    assert learnt == {**expected, "classes": expected["classes"]["1"]}


def test_padding_and_ignored_voxels_teach_nothing() -> None:
    p, y = overconfident(np.random.default_rng(0), 2)
    ignored = np.pad(y, 1, constant_values=1)  # the reference has the class in the padding
    padded = np.pad(p, [(0, 0), (1, 1), (1, 1), (1, 1)])
    padded[0][padded.sum(axis=0) == 0] = 1
    expected = nm.fit_calibrator("platt", p, y)
    assert nm.fit_calibrator("platt", padded, ignored).binary == expected.binary
    wrong = np.concatenate([p, 1 - p], axis=1), np.concatenate([y, np.full_like(y, 9)])
    assert nm.fit_calibrator("platt", *wrong, ignore_label=9).binary == expected.binary


def test_it_comes_back_from_its_file_and_says_that_it_knows_no_cases(tmp_path) -> None:
    folder = PredictionFolder(tmp_path, {"background": 0, "1": 1})
    p, y = overconfident(np.random.default_rng(0), 2)
    folder.add("a", p, y)
    calibrator = nm.fit_calibrator("temperature", p, y)
    calibrator.save(tmp_path / "c.json")
    np.testing.assert_array_equal(nm.read_calibrator(tmp_path / "c.json")(p), calibrator(p))
    apply(tmp_path / "c.json", folder.pred, tmp_path / "calibrated")
    assert applied_calibrator(tmp_path / "calibrated").cases == ()
    evaluation = nm.evaluate(folder.gt, tmp_path / "calibrated", surface=False)
    (line,) = [line for line in notes(evaluation) if "calibrator" in line]
    assert line == (
        "1 case calibrated, with a calibrator that was fitted to arrays; it is unknown whether it "
        "was fitted to these cases"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "magic"}, "method: expected one of platt"),
        ({"labels": [np.zeros(4, int)]}, "labels: expected an array of shape"),
        ({"probabilities": [], "labels": []}, "labels: expected a list of at least 1 arrays"),
        ({"labels": [np.zeros(3, int)]}, "temperature: nothing to learn"),
    ],
)
def test_what_cannot_be_is_a_value_error_in_one_line(change, said) -> None:
    p = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    arguments = {"method": "temperature", "probabilities": [p], "labels": [np.array([0, 1, 0])]}
    with pytest.raises(ValueError, match=f"^{said}") as error:
        nm.fit_calibrator(**{**arguments, **change})
    assert "\n" not in str(error.value)


def test_cases_of_other_classes_are_refused() -> None:
    two, three = np.full((2, 4), 0.5), np.full((3, 4), 1 / 3)
    with pytest.raises(ValueError, match="as many classes in each case, got 2 and 3"):
        nm.fit_calibrator("platt", [two, three], [np.zeros(4, int)] * 2)
