"""Calibrators fitted to folders, kept and read again."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from too_sure import KINDS, SHAPE, overconfident, softmax

from nnunet_meep.errors import InputError
from nnunet_meep.posthoc.calibrator import METHODS, read_calibrator
from nnunet_meep.posthoc.fit import fit
from nnunet_meep.posthoc.maps import LOGIT_FLOOR, Temperature, logit
from nnunet_meep.posthoc.report import table

NAN = math.nan


def everything(folder) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (C, N) and labels (N,) of all cases."""
    p, y = [], []
    for npz in sorted(folder.pred.glob("*.npz")):
        q = np.load(npz)["probabilities"]
        p.append(q.reshape(len(q), -1))
        image = sitk.ReadImage(folder.gt / f"{npz.stem}{folder.file_ending}")
        y.append(sitk.GetArrayFromImage(image).ravel())
    return np.concatenate(p, axis=1).astype(np.float64), np.concatenate(y)


def half_masks(root: Path) -> Path:
    """Masks of the first half of each of three cases."""
    folder = root / "masks"
    folder.mkdir()
    mask = np.zeros(SHAPE, np.uint8)
    mask[: SHAPE[0] // 2] = 1
    for i in range(3):
        sitk.WriteImage(sitk.GetImageFromArray(mask), folder / f"case_{i}.nii.gz")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_calibrates_and_comes_back_from_its_file(
    method, kind, make_validation, tmp_path
):
    pytest.importorskip("fiducio")
    folder = make_validation(kind)
    found = fit(method, folder.gt, folder.pred)
    path = tmp_path / "calibrator.json"
    found.calibrator.save(path)
    again = read_calibrator(path)
    p = np.load(folder.pred / "case_0.npz")["probabilities"]
    calibrated = found.calibrator(p)
    np.testing.assert_array_equal(again(p), calibrated)
    assert calibrated.dtype == np.float32
    if kind != "regions":
        np.testing.assert_allclose(calibrated.sum(axis=0), 1, atol=1e-6)
    for c in found.classes.values():
        assert c.log_loss_after < c.log_loss_before
        assert sum(c.before["count"]) == pytest.approx(3 * p[0].size)


def test_the_file_says_what_it_was_fitted_on(make_validation, tmp_path):
    folder = make_validation("regions")
    roi = f"mask:{half_masks(tmp_path)}"
    fit("platt", folder.gt, folder.pred, roi=roi).calibrator.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["format"] == 3
    assert content["method"] == "platt"
    assert content["labels"] == KINDS["regions"][0]["labels"]
    assert content["regions_class_order"] == [1, 2]
    assert content["logit_floor"] == LOGIT_FLOOR
    assert set(content["classes"]) == {"(1, 2)", "(2,)"}
    fitted_on = content["fitted_on"]
    assert fitted_on["roi"] == roi
    assert [case["case"] for case in fitted_on["cases"]] == ["case_0", "case_1", "case_2"]
    for case in fitted_on["cases"]:
        reference = (folder.gt / f"{case['case']}.nii.gz").read_bytes()
        assert case["reference"] == f"sha256:{hashlib.sha256(reference).hexdigest()}"
        with zipfile.ZipFile(folder.pred / f"{case['case']}.npz") as archive:
            content = archive.read("probabilities.npy")
        assert case["probabilities"] == f"crc32:{zlib.crc32(content):08x}:{len(content)}"
    assert fitted_on["n_cases"] == 3
    assert fitted_on["n_voxels"] == 3 * 270
    _, y = everything(folder)
    assert fitted_on["classes"]["(2,)"]["n_voxels"] == (y.reshape(3, 2, 270)[:, 0] == 2).sum()


def test_what_takes_a_sample_says_so(make_validation, tmp_path):
    folder = make_validation("three classes")
    fit("temperature", folder.gt, folder.pred).calibrator.save(tmp_path / "c.json")
    fitted_on = json.loads((tmp_path / "c.json").read_text())["fitted_on"]
    assert fitted_on["n_voxels"] == 3 * 540
    assert fitted_on["sample"]["seed"] == 0
    assert fitted_on["sample"]["n_voxels"] == 3 * 540
    assert fitted_on["log_loss_after"] < fitted_on["log_loss_before"]


def test_the_temperature_of_several_classes_is_that_on_all_voxels(make_validation):
    folder = make_validation("three classes")
    p, y = everything(folder)

    def loss(t: float) -> float:
        q = softmax(np.log(p) / t)
        return -np.log(q[y, np.arange(len(y))]).mean()

    best = minimize_scalar(loss, bounds=(0.1, 20), method="bounded").x
    calibrator = fit("temperature", folder.gt, folder.pred).calibrator
    assert calibrator.joint.temperature == pytest.approx(best, rel=1e-4)
    assert best == pytest.approx(3, rel=0.15)  # how much too large the logits were made


@pytest.mark.slow
def test_a_sample_finds_the_temperature_of_all_voxels(make_validation, monkeypatch):
    """30 times fewer voxels than there are, in strata: within 2 %."""
    folder = make_validation("three classes", n_cases=0)
    rng = np.random.default_rng(1)
    for i in range(4):
        folder.add(f"case_{i}", *overconfident(rng, 3, (20, 30, 40)))
    everywhere = fit("temperature", folder.gt, folder.pred).calibrator
    monkeypatch.setattr("nnunet_meep.posthoc.sample.MAX_VALUES", 3 * 3200)
    sampled = fit("temperature", folder.gt, folder.pred).calibrator
    assert sampled.fitted_on["sample"]["n_voxels"] == 3200
    assert sampled.fitted_on["n_voxels"] == 4 * 24_000
    assert sampled.joint.temperature == pytest.approx(everywhere.joint.temperature, rel=0.02)


def test_ignored_voxels_are_not_learnt_from(make_validation):
    folder = make_validation("two classes", n_cases=1, more_labels={"ignore": 2})
    p = np.load(folder.pred / "case_0.npz")["probabilities"]
    before = fit("platt", folder.gt, folder.pred).calibrator.binary["1"]
    image = sitk.ReadImage(folder.gt / "case_0.nii.gz")
    y = sitk.GetArrayFromImage(image)
    y[p[1] > 0.9] = 2
    folder.add("case_0", p, y)
    after = fit("platt", folder.gt, folder.pred)
    assert after.calibrator.fitted_on["n_voxels"] == (y != 2).sum()
    assert after.calibrator.binary["1"] != before


def test_an_roi_changes_what_is_learnt(make_validation, tmp_path):
    folder = make_validation("two classes")
    slopes = [
        fit("platt", folder.gt, folder.pred, roi=roi).calibrator.binary["1"].slope
        for roi in ("image", "crop", f"mask:{half_masks(tmp_path)}")
    ]
    assert slopes[0] == slopes[1]  # nothing is padding here
    assert slopes[0] != slopes[2]


def test_each_region_is_calibrated_on_its_own(make_validation):
    folder = make_validation("regions")
    p, y = everything(folder)
    found = fit("temperature", folder.gt, folder.pred).calibrator
    for i, (key, members) in enumerate({"(1, 2)": (1, 2), "(2,)": (2,)}.items()):
        margin = np.where(np.isin(y, members), 1, -1) * logit(p[i])
        best = minimize_scalar(
            lambda t, m=margin: np.logaddexp(0, -m / t).mean(), bounds=(0.1, 20), method="bounded"
        ).x
        assert isinstance(found.binary[key], Temperature)
        assert found.binary[key].temperature == pytest.approx(best, rel=1e-3)
        np.testing.assert_array_equal(
            found(p.reshape(2, 1, 1, -1))[i].ravel(), found.binary[key](p[i]).astype(np.float32)
        )


@pytest.mark.parametrize("kind", ["two classes", "three classes"])
def test_isotonic_is_scikit_learns_fit_to_all_voxels(kind, make_validation, tmp_path):
    folder = make_validation(kind)
    fit("isotonic", folder.gt, folder.pred).calibrator.save(tmp_path / "calibrator.json")
    found = read_calibrator(tmp_path / "calibrator.json")
    p, y = everything(folder)
    for key, function in found.binary.items():
        mine = p[int(key)]
        expected = IsotonicRegression().fit(mine, y == int(key)).predict(mine)
        np.testing.assert_allclose(function(mine), expected, atol=1e-12)


def test_one_against_the_rest_then_a_sum_of_one(make_validation):
    folder = make_validation("three classes")
    p, _ = everything(folder)
    found = fit("isotonic", folder.gt, folder.pred).calibrator
    each = np.stack([found.binary[str(k)](p[k]) for k in range(3)])
    # Where no class is left, the probabilities stay as they were.
    sums = each.sum(axis=0)
    expected = np.where(sums > 0, each / np.where(sums > 0, sums, 1), p)
    np.testing.assert_allclose(found.of_voxels(p), expected)


def test_a_class_that_is_nowhere_stays_as_it_is(make_validation, tmp_path):
    folder = make_validation("three classes", n_cases=0)
    p, y = overconfident(np.random.default_rng(0), 3)
    folder.add("case_0", p, np.where(y == 2, 1, y).astype(np.uint8))
    found = fit("platt", folder.gt, folder.pred).calibrator
    found.save(tmp_path / "c.json")
    entry = json.loads((tmp_path / "c.json").read_text())["classes"]["2"]
    assert entry == {"parameters": None, "reason": "no voxels of it in the references"}
    read = read_calibrator(tmp_path / "c.json")
    assert read.binary["2"] is None
    np.testing.assert_array_equal(read(p), found(p))


def test_if_there_is_nothing_at_all_to_learn_that_is_said(make_validation):
    folder = make_validation("two classes", n_cases=0)
    p, y = overconfident(np.random.default_rng(0), 2)
    folder.add("case_0", p, np.zeros_like(y))
    with pytest.raises(InputError, match=r"^platt: nothing to learn .* LA: no voxels of it in the"):
        fit("platt", folder.gt, folder.pred)
    three = make_validation("three classes", n_cases=0, name="three")
    p, y = overconfident(np.random.default_rng(0), 3)
    three.add("case_0", p, p.argmax(axis=0).astype(np.uint8))
    with pytest.raises(InputError, match=r"^temperature: .* none of the predicted labels is wrong"):
        fit("temperature", three.gt, three.pred)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_where_all_voxels_are_ignored_that_is_said(method, make_validation):
    folder = make_validation("two classes", n_cases=0, more_labels={"ignore": 2})
    p, y = overconfident(np.random.default_rng(0), 2)
    folder.add("case_0", p, np.full_like(y, 2))
    with pytest.raises(InputError, match="nothing to learn: all voxels are ignored or padding"):
        fit(method, folder.gt, folder.pred)


def test_padding_is_no_prediction(make_validation):
    folder = make_validation("two classes")
    found = fit("platt", folder.gt, folder.pred).calibrator
    p = np.load(folder.pred / "case_0.npz")["probabilities"].copy()
    p[:, :, -2:] = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
    p[:, 2, 3, 4] = [1, 0]  # inside: a voxel that looks the same is one like others
    calibrated = found(p)
    np.testing.assert_array_equal(calibrated[:, :, -2:], p[:, :, -2:])
    assert calibrated[1, 2, 3, 4] == np.float32(found.binary["1"](np.zeros(1))[0])
    assert calibrated[1, 2, 3, 4] > 0
    nothing = np.zeros_like(p)
    nothing[0] = 1
    np.testing.assert_array_equal(found(nothing), nothing)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("roi", ["image", "crop", "mask"])
@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_nothing_is_learnt_from_padding(method, roi, kind, make_validation, tmp_path):
    plain = make_validation(kind)
    padded = make_validation(kind, n_cases=0, name="padded")
    masks = {name: tmp_path / f"masks_{name}" for name in ("plain", "padded")}
    for folder in masks.values():
        folder.mkdir()
    for i in range(3):
        p = np.load(plain.pred / f"case_{i}.npz")["probabilities"]
        y = sitk.GetArrayFromImage(sitk.ReadImage(plain.gt / f"case_{i}.nii.gz"))
        mask = (np.random.default_rng(i).random(y.shape) < 0.7).astype(np.uint8)
        width = ((2, 3), (0, 4), (5, 0))
        around = np.pad(p, ((0, 0), *width))
        if kind != "regions":
            around[0] = np.pad(p[0], width, constant_values=1)
        padded.add(f"case_{i}", around, np.pad(y, width))
        for name, image in (("plain", mask), ("padded", np.pad(mask, width, constant_values=1))):
            sitk.WriteImage(sitk.GetImageFromArray(image), masks[name] / f"case_{i}.nii.gz")
    found = [
        fit(
            method,
            folder.gt,
            folder.pred,
            roi=f"mask:{masks[name]}" if roi == "mask" else roi,
        ).calibrator
        for name, folder in (("plain", plain), ("padded", padded))
    ]
    assert found[0].fitted_on["n_voxels"] == found[1].fitted_on["n_voxels"]
    p = np.load(plain.pred / "case_0.npz")["probabilities"]
    np.testing.assert_allclose(found[0](p), found[1](p), atol=1e-6)


@pytest.mark.parametrize("method", ["vector", "class-conditional"])
def test_a_scaling_does_not_learn_that_a_class_never_occurs(method, make_validation):
    pytest.importorskip("fiducio")
    folder = make_validation("three classes", n_cases=0)
    p, y = overconfident(np.random.default_rng(0), 3)
    folder.add("case_0", p, np.where(y == 2, 1, y).astype(np.uint8))
    with pytest.raises(InputError, match=f"^{method}: .* found none of Posterior"):
        fit(method, folder.gt, folder.pred)
    fit("temperature", folder.gt, folder.pred)


@pytest.mark.parametrize(
    ("method", "doubt"),
    [
        ("platt", "the slope is not positive"),
        ("isotonic", "one step"),
        ("temperature", "its limit"),
    ],
)
def test_what_a_fit_should_not_look_like_is_said(method, doubt, make_validation):
    folder = make_validation("two classes")
    assert "Warning" not in table(fit(method, folder.gt, folder.pred))
    for npz in folder.pred.glob("*.npz"):  # channels in the wrong order
        np.savez_compressed(npz, probabilities=np.load(npz)["probabilities"][::-1])
    assert f"Warning: LA: {doubt}" in table(fit(method, folder.gt, folder.pred)).replace(
        "the temperature is at ", ""
    )


def test_the_same_probability_everywhere_is_nothing_to_learn_from(make_validation):
    folder = make_validation("two classes", n_cases=0)
    _, y = overconfident(np.random.default_rng(0), 2)
    folder.add("case_0", np.full((2, *y.shape), 0.5, np.float32), y)
    with pytest.raises(InputError, match="its probabilities are all the same"):
        fit("platt", folder.gt, folder.pred)


def test_blocks_make_no_difference(make_validation, monkeypatch):
    found = fit("platt", *(lambda f: (f.gt, f.pred))(make_validation("three classes"))).calibrator
    p, _ = overconfident(np.random.default_rng(5), 3, (7, 11, 13))
    whole = found(p)
    for n in (1, 13, 40, 150, 300):
        monkeypatch.setattr("nnunet_meep.posthoc.blocks._BLOCK", n)
        np.testing.assert_array_equal(found(p), whole)
    flat = p.reshape(3, 1, -1)
    np.testing.assert_array_equal(found(flat).ravel(), whole.ravel())
    assert found(p, out=p) is p
    np.testing.assert_array_equal(p, whole)


def test_other_shapes_are_refused(make_validation):
    folder = make_validation("two classes")
    found = fit("platt", folder.gt, folder.pred).calibrator
    with pytest.raises(ValueError, match="expected the shape"):
        found(np.zeros((3, 4, 4), np.float32))


def test_a_method_or_folder_that_is_none_is_refused(make_validation):
    folder = make_validation("two classes")
    with pytest.raises(
        InputError, match=r"^method: is platt meant\? expected one of platt, .*, got plat$"
    ):
        fit("plat", folder.gt, folder.pred)
    with pytest.raises(InputError, match="expected an ROI"):
        fit("platt", folder.gt, folder.pred, roi="brain")
    (folder.gt / "case_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_1.npz: expected a reference .*, found none"):
        fit("platt", folder.gt, folder.pred)


def test_what_takes_fiducio_says_so_where_it_is_not(make_validation, monkeypatch):
    folder = make_validation("two classes")
    monkeypatch.setitem(__import__("sys").modules, "fiducio.registry", None)
    with pytest.raises(InputError, match=r"^vector: expected fiducio, .*pip install 'fiducio"):
        fit("vector", folder.gt, folder.pred)


DAMAGE = {
    "no JSON": (lambda c: "{", "expected a calibrator in JSON"),
    "a list": (lambda c: [1], "got another file"),
    "another file": (lambda c: {"schema": 1}, "got another file"),
    "too deep": (lambda c: "[" * 100_000, "expected a calibrator in JSON"),
    "a later format": (lambda c: {**c, "format": 4}, "in format 3, got format 4"),
    "another method": (lambda c: {**c, "method": "magic"}, "expected a method of .*, got 'magic'"),
    "another floor": (lambda c: {**c, "logit_floor": 1e-3}, "expected the logit floor"),
    "no labels": (lambda c: {**c, "labels": None}, "expected \"labels\""),
    "no classes": (lambda c: {k: v for k, v in c.items() if k != "classes"}, "fit it again"),
    "a class missing": (lambda c: {**c, "classes": {}}, "fit it again"),
    "no number": (
        lambda c: {**c, "classes": {"1": {"parameters": {"slope": "x", "intercept": 0}}}},
        "fit it again",
    ),
    "too large": (
        lambda c: {**c, "classes": {"1": {"parameters": {"slope": 10**400, "intercept": 0}}}},
        "fit it again",
    ),
    "not finite": (
        lambda c: {**c, "classes": {"1": {"parameters": {"slope": math.inf, "intercept": 0}}}},
        "fit it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_clear_line(damage, make_validation, tmp_path):
    folder = make_validation("two classes")
    path = tmp_path / "c.json"
    fit("platt", folder.gt, folder.pred).calibrator.save(path)
    change, message = DAMAGE[damage]
    content = change(json.loads(path.read_text()))
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_calibrator(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("temperature", {"temperature": 0}),
        ("temperature", {"temperature": None}),
        ("isotonic", {"borders": [0.5, 0.4], "steps": [0.1, 0.2, 0.3]}),
        ("isotonic", {"borders": [0.5], "steps": [0.1, 0.2, 0.3]}),
        ("isotonic", {"borders": [0.5], "steps": [0.1, 1.2]}),
        ("temperature", {"temperature": 1e-320}),
        ("vector", {"fiducio": "os.system"}),
        ("vector", {"fiducio": "vector_scaling", "state": {}}),
        ("vector", {"fiducio": "vector_scaling", "state": []}),
        ("vector", {"fiducio": "vector_scaling", "state": {"weight": [1, 1], "bias": [0, NAN]}}),
        ("vector", {"fiducio": "vector_scaling", "state": {"weight": [1], "bias": [0, 0, 0]}}),
    ],
)
def test_parameters_that_cannot_be_are_refused(method, parameters, make_validation, tmp_path):
    pytest.importorskip("fiducio")
    folder = make_validation("two classes")
    path = tmp_path / "c.json"
    fit(method, folder.gt, folder.pred).calibrator.save(path)
    content = json.loads(path.read_text())
    content["classes"]["1"]["parameters"] = parameters
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="fit it again"):
        read_calibrator(path)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(
        InputError, match=r"c.json: expected a calibrator of meep-calib-fit: No such file"
    ):
        read_calibrator(tmp_path / "c.json")
