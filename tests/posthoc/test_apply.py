"""A folder of predictions, calibrated into another one."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import reference
import SimpleITK as sitk
from predictions import PredictionFolder
from too_sure import KINDS

from nnunet_meep.cli.calib_apply import main
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.nnunet_files.labels import read_labels
from nnunet_meep.posthoc import apply as module
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.calibrator import read_calibrator
from nnunet_meep.posthoc.fit import fit


@pytest.fixture
def fitted(make_validation, tmp_path):
    """Fit a method, and make test predictions of the same kind: (calibrator.json, folder)."""

    def make(method: str, kind: str, **dataset_json) -> tuple[Path, PredictionFolder]:
        val = make_validation(kind, name="val")
        path = tmp_path / f"{method}.json"
        fit(method, val.gt, val.pred).calibrator.save(path)
        return path, make_validation(kind, name="test", seed=1, **dataset_json)

    return make


def segmentation(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def test_a_region_with_p_of_a_half_is_not_segmented():
    """As in nnU-Net, which asks for more than 1/2."""
    content = {"labels": {"background": 0, "whole": [1, 2], "core": 2}}
    labels = read_labels({**content, "regions_class_order": [1, 2]}, Path("dataset.json"))
    half, above = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    p = np.array([[half, above, above], [half, half, above]]).reshape(2, 1, 3)
    assert module.segmentation(p, labels).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_one_as_nnunet_writes_it(kind, fitted, tmp_path):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    path, test = fitted("platt", kind)
    (test.pred / "case_0.pkl").write_bytes(b"never opened")
    (test.pred / "predict_from_raw_data_args.json").write_text("{}")
    out = tmp_path / "out"
    applied = apply(path, test.pred, out)
    assert applied.names == ["case_0", "case_1", "case_2"]
    assert applied.not_argmax == {}
    assert sorted(p.name for p in out.iterdir()) == [
        *("calib_apply_args.json", "calibrator.json"),
        *("case_0.nii.gz", "case_0.npz", "case_0.pkl"),
        *("case_1.nii.gz", "case_1.npz", "case_2.nii.gz", "case_2.npz"),
        *("dataset.json", "plans.json", "predict_from_raw_data_args.json"),
    ]
    assert (out / "case_0.pkl").read_bytes() == b"never opened"
    assert (out / "calibrator.json").read_bytes() == path.read_bytes()
    assert (out / "dataset.json").read_bytes() == (test.pred / "dataset.json").read_bytes()
    content = KINDS[kind][0]
    manager = LabelManager(content["labels"], content.get("regions_class_order"))
    calibrator = read_calibrator(path)
    for i in range(3):
        with np.load(out / f"case_{i}.npz") as archive:
            assert archive.files == ["probabilities"]
            p = archive["probabilities"]
        before = np.load(test.pred / f"case_{i}.npz")["probabilities"]
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p, calibrator(before))
        old, new = (sitk.ReadImage(f / f"case_{i}.nii.gz") for f in (test.pred, out))
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(new), manager.convert_probabilities_to_segmentation(p)
        )
        assert new.GetPixelID() == sitk.sitkUInt8
        assert (new.GetSpacing(), new.GetOrigin()) == (old.GetSpacing(), old.GetOrigin())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["platt", "isotonic", "temperature", "vector"])
def test_evaluating_the_folder_is_evaluating_with_the_calibrator_in_memory(
    method, kind, fitted, tmp_path
):
    if method == "vector":
        pytest.importorskip("fiducio")
    path, test = fitted(method, kind)
    apply(path, test.pred, tmp_path / "out")
    found = evaluate(test.gt, tmp_path / "out", surface=False)
    calibrator = read_calibrator(path)
    for case in found.cases:
        p = calibrator(np.load(test.pred / f"{case.case}.npz")["probabilities"])
        y = segmentation(test.gt / f"{case.case}.nii.gz").ravel()
        for i, members in enumerate({"regions": ((1, 2), (2,))}.get(kind, ((1,), (2,)))):
            channel = i if kind == "regions" else i + 1
            if channel >= len(p):
                continue
            q, is_class = p[channel].ravel().astype(np.float64), np.isin(y, members)
            metrics = list(case.rois["image"].classes.values())[i]
            assert metrics["ece"] == pytest.approx(reference.ece(q, is_class, 15), abs=1e-9)
            assert metrics["brier"] == pytest.approx(reference.brier(q, is_class), abs=1e-9)
            assert metrics["nll"] == pytest.approx(reference.nll(q, is_class), abs=1e-6)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("kind", KINDS)
def test_calibration_lowers_ece_and_log_loss_of_other_cases(method, kind, fitted, tmp_path):
    """These networks are far too sure, each validation and test set drawn from the same truth."""
    path, test = fitted(method, kind)
    apply(path, test.pred, tmp_path / "out")
    plain, calibrated = (evaluate(test.gt, f, surface=False) for f in (test.pred, tmp_path / "out"))
    for key in plain.classes:
        before, after = (e.pooled["image"].classes[key] for e in (plain, calibrated))
        assert after["ece"] < 0.5 * before["ece"]
        if method != "isotonic":  # which says 0 and 1, and is wrong for some
            assert after["nll"] < before["nll"]
        if method == "temperature":
            assert after["dice"] == before["dice"]


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_keeps_every_label(kind, fitted, tmp_path):
    path, test = fitted("temperature", kind)
    for i in range(3):  # what nnU-Net wrote beside these probabilities
        p = np.load(test.pred / f"case_{i}.npz")["probabilities"]
        y = p.argmax(axis=0) if kind != "regions" else np.where(p[1] > 0.5, 2, p[0] > 0.5)
        image = sitk.GetImageFromArray(y.astype(np.uint8))
        sitk.WriteImage(image, test.pred / f"case_{i}.nii.gz")
    apply(path, test.pred, tmp_path / "out")
    for i in range(3):
        name = f"case_{i}.nii.gz"
        before, after = segmentation(test.pred / name), segmentation(tmp_path / "out" / name)
        np.testing.assert_array_equal(before, after)


def test_a_case_with_nothing_but_padding_stays_as_it_is(fitted, tmp_path):
    path, test = fitted("platt", "two classes")
    p = np.zeros((2, 4, 5, 6), np.float32)
    p[0] = 1
    test.add("case_0", p, np.zeros((4, 5, 6), np.uint8))
    apply(path, test.pred, tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "case_0.npz")["probabilities"], p)


@pytest.mark.parametrize("kind", KINDS)
def test_the_crop_stays_the_crop(kind, make_validation, tmp_path):
    """Isotonic regression sends its background to exactly 0 and 1, which padding has, too."""
    shape, box = (8, 9, 10), (slice(1, 7), slice(2, 8), slice(0, 9))
    val, test = (make_validation(kind, name=name, seed=i) for i, name in enumerate(("v", "t")))
    p = np.zeros((len(np.load(test.pred / "case_0.npz")["probabilities"]), *shape), np.float32)
    if kind != "regions":
        p[0] = 1
        p[0][box] -= 1e-12
    p[(slice(kind != "regions", None), *box)] = 1e-12
    val.add("nothing", p, np.zeros(shape, np.uint8))
    p[:, 4, 5, 5] = 1 / len(p)
    test.add("case_0", p, np.eye(1, p[0].size, 300, np.uint8).reshape(shape))
    path = tmp_path / "isotonic.json"
    fit("isotonic", val.gt, val.pred).calibrator.save(path)
    apply(path, test.pred, tmp_path / "out")
    after = np.load(tmp_path / "out" / "case_0.npz")["probabilities"]
    assert (after[-1][box] == 0).any()  # the case in question
    for folder in (test.pred, tmp_path / "out"):
        found = evaluate(test.gt, folder, rois=["crop"], surface=False, cases=["case_0"])
        (count,) = {sum(bins["count"]) for bins in found.cases[0].rois["crop"].bins.values()}
        assert count == p[0][box].size


@pytest.mark.parametrize("change", ["float16", "float64", "fortran", "stored"])
def test_other_arrays_are_read_too(change, fitted, tmp_path):
    path, test = fitted("platt", "three classes")
    npz = test.pred / "case_0.npz"
    p = np.load(npz)["probabilities"]
    p = {"float16": p.astype(np.float16), "float64": p.astype(np.float64)}.get(change, p)
    if change == "fortran":
        p = np.asfortranarray(p)
    (np.savez if change == "stored" else np.savez_compressed)(npz, probabilities=p)
    apply(path, test.pred, tmp_path / "out")
    result = np.load(tmp_path / "out" / "case_0.npz")["probabilities"]
    assert result.dtype == np.float32
    expected = read_calibrator(path)(p.astype(np.float32))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("ending", "reader", "shape"),
    [
        (".nii.gz", "SimpleITKIO", (4, 5, 6)),
        (".nii.gz", "NibabelIO", (4, 5, 6)),
        (".nii.gz", "NibabelIOWithReorient", (4, 5, 6)),
        (".mha", "SimpleITKIO", (4, 5, 6)),
        (".tif", "Tiff3DIO", (5, 6, 7)),
        (".png", "NaturalImage2DIO", (1, 5, 6)),
    ],
)
def test_all_of_nnunets_readers(ending, reader, shape, fitted, tmp_path):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    path, test = fitted("platt", "two classes", file_ending=ending)
    for old in test.pred.glob("case_*"):
        old.unlink()
    for old in test.gt.glob("case_*"):
        old.unlink()
    (test.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    io = recursive_find_reader_writer_by_name(reader)()
    p = np.random.default_rng(0).random(shape).astype(np.float32)
    p = np.stack([1 - p, p])
    file = test.pred / f"case{ending}"
    rotated = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
    if len(shape) == 3 and ending != ".tif" and ending != ".png":
        rotated.SetSpacing((1.0, 2.0, 3.0))
        rotated.SetOrigin((-5.0, 7.0, 9.0))
        rotated.SetDirection((0, 0, -1, -1, 0, 0, 0, 1, 0))
        sitk.WriteImage(rotated, file)
        seg, properties = io.read_seg(str(file))
        p = np.random.default_rng(0).random(seg.shape[1:]).astype(np.float32)
        p = np.stack([1 - p, p])
    else:
        properties = {"spacing": (999, 1, 1) if ending == ".png" else (3.0, 2.0, 1.0)}
        io.write_seg(np.zeros(shape, np.uint8), str(file), properties)
    np.savez_compressed(test.pred / "case.npz", probabilities=p)
    out = tmp_path / "out"
    apply(path, test.pred, out)
    seg, after = io.read_seg(str(out / f"case{ending}"))
    np.testing.assert_array_equal(seg[0], np.load(out / "case.npz")["probabilities"].argmax(axis=0))
    assert list(after["spacing"]) == pytest.approx(list(properties["spacing"]))
    if ending in (".nii.gz", ".mha"):
        new = sitk.ReadImage(out / f"case{ending}")
        assert new.GetOrigin() == pytest.approx(rotated.GetOrigin())
        assert new.GetDirection() == pytest.approx(rotated.GetDirection())


def test_nnunets_ensemble_takes_calibrated_folders(fitted, tmp_path):
    from nnunetv2.ensembling.ensemble import merge_files
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    path, test = fitted("platt", "three classes")
    _, properties = SimpleITKIO().read_seg(str(test.pred / "case_0.nii.gz"))
    (test.pred / "case_0.pkl").write_bytes(pickle.dumps(properties))
    apply(path, test.pred, tmp_path / "out")
    files = [str(f / "case_0.npz") for f in (test.pred, tmp_path / "out")]
    manager = LabelManager(KINDS["three classes"][0]["labels"], None)
    merge_files(files, str(tmp_path / "merged"), ".nii.gz", SimpleITKIO(), manager, True)
    merged = np.load(tmp_path / "merged.npz")["probabilities"]
    np.testing.assert_allclose(
        merged, np.mean([np.load(f)["probabilities"] for f in files], axis=0), atol=1e-6
    )


def test_a_run_that_was_stopped_goes_on(fitted, tmp_path, monkeypatch):
    path, test = fitted("platt", "two classes")
    out = tmp_path / "out"
    import nnunet_meep.posthoc.apply as module

    write, seen = module.write_label_map, []

    def stopping(label_map, target, like, dataset):
        seen.append(target.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        write(label_map, target, like, dataset)

    monkeypatch.setattr(module, "write_label_map", stopping)
    with pytest.raises(KeyboardInterrupt):
        apply(path, test.pred, out)
    # Nothing half written: the second case is not there at all.
    assert sorted(p.name for p in out.glob("*case*")) == ["case_0.nii.gz", "case_0.npz"]
    assert not list(out.glob(".tmp*"))
    apply(path, test.pred, out)
    assert seen == [f"case_{i}.nii.gz" for i in (0, 1, 1, 2)]
    # Another prediction is calibrated again, with whatever times; the same one is not.
    prediction, times = test.pred / "case_2.npz", (test.pred / "case_2.npz").stat()
    os.utime(prediction)
    apply(path, test.pred, out)
    assert seen[4:] == []
    shutil.copy(test.pred / "case_0.npz", prediction)
    os.utime(prediction, ns=(times.st_atime_ns, times.st_mtime_ns))
    apply(path, test.pred, out)
    assert seen[4:] == ["case_2.nii.gz"]
    np.testing.assert_array_equal(
        *(np.load(out / f"case_{i}.npz")["probabilities"] for i in (0, 2))
    )
    (out / "case_1.nii.gz").unlink()
    apply(path, test.pred, out)
    assert seen[5:] == ["case_1.nii.gz"]
    # So is one whose place in the world changed, or what nnU-Net keeps beside it.
    image = sitk.ReadImage(test.pred / "case_0.nii.gz")
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, test.pred / "case_0.nii.gz")
    assert apply(path, test.pred, out).n_in_words == "1 case calibrated now"
    assert seen[6:] == ["case_0.nii.gz"]
    assert sitk.ReadImage(out / "case_0.nii.gz").GetSpacing() == (2, 2, 2)
    (test.pred / "case_2.pkl").write_bytes(b"new")
    apply(path, test.pred, out)
    assert seen[7:] == ["case_2.nii.gz"]
    assert (out / "case_2.pkl").read_bytes() == b"new"


def test_a_segmentation_that_is_not_the_argmax_is_said(fitted, tmp_path, capsys):
    path, test = fitted("temperature", "two classes")
    old = sitk.ReadImage(test.pred / "case_1.nii.gz")
    array = sitk.GetArrayFromImage(old)
    array[0, 0, :3] = 1 - array[0, 0, :3]
    sitk.WriteImage(like(array, old), test.pred / "case_1.nii.gz")
    assert apply(path, test.pred, tmp_path / "out").not_argmax == {"case_1": 3}
    assert main([str(path), str(test.pred), "-o", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "in 1 of 3 cases (3 voxels), as after postprocessing" in said
    assert "changed the label" not in said  # temperature does not


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [("two classes", "1", "LA"), ("three classes", "2", "Posterior"), ("regions", "(2,)", "inner")],
)
def test_labels_that_change_and_classes_that_vanish_are_said(
    kind, key, name, fitted, tmp_path, capsys
):
    path, test = fitted("platt", kind)
    content = json.loads(path.read_text())
    content["classes"][key]["parameters"]["intercept"] = -1e3  # the class never occurs
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main([str(path), str(test.pred), "-o", str(tmp_path / "out")]) == 0
    labels = [
        [segmentation(folder / f"case_{i}.nii.gz") for i in range(3)]
        for folder in (test.pred, tmp_path / "out")
    ]
    n = sum(np.count_nonzero(old != new) for old, new in zip(*labels, strict=True))
    said = capsys.readouterr().out
    assert f"Note: the calibration changed the label of {n:,} voxels, in 3 of 3 cases\n" in said
    assert f"Note: in these cases, no voxel has the label of {name} any more\n" in said
    (tmp_path / "out" / "case_1.npz").unlink()
    assert main([str(path), str(test.pred), "-o", str(tmp_path / "out")]) == 0
    assert "voxels, in 1 of 1 case calibrated now\n" in capsys.readouterr().out


def like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    return new


def test_files_of_others_are_left_alone(fitted, tmp_path):
    path, test = fitted("platt", "two classes")
    out = tmp_path / "out"
    out.mkdir()
    (out / "case_0.npz").write_text("mine")
    with pytest.raises(InputError, match="out: expected an empty folder"):
        apply(path, test.pred, out)
    assert (out / "case_0.npz").read_text() == "mine"
    with pytest.raises(InputError, match="expected another folder than the one that is read"):
        apply(path, test.pred, test.pred)
    with pytest.raises(InputError, match="expected a folder to write into, found a file"):
        apply(path, test.pred, path)
    # Begun with another calibrator.
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace('"n_cases": 3', '"n_cases": 4'))
    apply(path, test.pred, tmp_path / "new")
    with pytest.raises(InputError, match="a run with the same calibrator, network and pred"):
        apply(other, test.pred, tmp_path / "new")
    # Begun with other predictions, which may have the same case names.
    shutil.copytree(test.pred, tmp_path / "others")
    with pytest.raises(InputError, match="a run with the same calibrator, network and pred"):
        apply(path, tmp_path / "others", tmp_path / "new")
    # A user's own folder with a calibrator in it.
    shutil.copy(path, tmp_path / "others" / "calibrator.json")
    with pytest.raises(InputError, match="expected an empty folder"):
        apply(path, test.pred, tmp_path / "others")


def test_nothing_is_calibrated_twice(fitted, tmp_path):
    path, test = fitted("platt", "two classes")
    apply(path, test.pred, tmp_path / "once")
    with pytest.raises(InputError, match="once: expected predictions as nnU-Net wrote them"):
        apply(path, tmp_path / "once", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_other_labels_are_refused(fitted, make_validation, tmp_path):
    path, test = fitted("platt", "three classes")
    other = make_validation("two classes", name="other")
    for folder, got in ((other, "got 1 LA"), (test, "got 1 Anterior, 2 tail")):
        if folder is test:
            content = json.loads((test.pred / "dataset.json").read_text())
            content["labels"] = {"background": 0, "Anterior": 1, "tail": 2}
            (test.pred / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputError) as caught:
            apply(path, folder.pred, tmp_path / "out")
        message = str(caught.value)
        assert message.startswith(f"{folder.pred / 'dataset.json'}: expected the labels that the")
        assert message.endswith(f"fitted for, 1 Anterior, 2 Posterior, {got}")
        assert not (tmp_path / "out").exists()


def test_the_ignore_label_is_no_other_label(fitted, make_validation, tmp_path):
    path, _ = fitted("platt", "two classes")
    test = make_validation("two classes", name="ignoring", more_labels={"ignore": 2})
    assert len(apply(path, test.pred, tmp_path / "out").names) == 3


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def save(name: str, **arrays: np.ndarray):
    return lambda folder: np.savez_compressed(folder / name, **arrays)


def declare(name: str, shape: tuple[int, ...]):
    """A file of a few bytes that says it holds an array of this shape."""

    def make(folder: Path) -> None:
        header = io.BytesIO()
        entries = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, entries)
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("probabilities.npy", header.getvalue())
            archive.infolist()[0].file_size = len(header.getvalue()) + 4 * math.prod(shape)

    return make


BAD = {
    "no segmentation": (remove("case_1.nii.gz"), "case_1.npz: expected case_1.nii.gz beside it"),
    "no probabilities": (remove("case_1.npz"), "case_1.nii.gz: expected case_1.npz beside it"),
    "no dataset.json": (remove("dataset.json"), "expected dataset.json in it or two folders up"),
    "no npz": (write("case_1.npz", b"x"), "case_1.npz: expected an npz file"),
    "no image": (write("case_1.nii.gz", b"x"), "case_1.nii.gz: expected a segmentation"),
    "pickled": (
        save("case_1.npz", probabilities=np.array([None, "x"])),
        "case_1.npz: expected an npz file with probabilities, could not read it: it holds pickled",
    ),
    "channels": (
        save("case_1.npz", probabilities=np.zeros((3, 6, 9, 10), np.float32)),
        "case_1.npz: expected probabilities of shape (2, 6, 9, 10) (classes or regions of ",
    ),
    "shape": (
        save("case_1.npz", probabilities=np.full((2, 6, 9, 11), 0.5, np.float32)),
        "case_1.npz: expected probabilities of shape (2, 6, 9, 10) (classes or regions of ",
    ),
    "no axes": (
        save("case_1.npz", probabilities=np.full((2, 540), 0.5, np.float32)),
        "case_1.npz: expected probabilities of shape (2, 6, 9, 10) (classes or regions of ",
    ),
    "more voxels than any memory holds": (
        declare("case_1.npz", (2, 10**4, 10**4, 10**4)),
        "case_1.npz: expected probabilities of shape (2, 6, 9, 10) (classes or regions of ",
    ),
    "NaN": (
        save("case_1.npz", probabilities=np.full((2, 6, 9, 10), np.nan, np.float32)),
        "case_1.npz: expected probabilities, found 1080 values NaN or infinite",
    ),
    "sums": (
        save("case_1.npz", probabilities=np.full((2, 6, 9, 10), 0.4, np.float32)),
        "case_1.npz: expected probabilities that sum to 1 over the classes within 0.001, found",
    ),
    "logits": (
        save("case_1.npz", probabilities=np.full((2, 6, 9, 10), 4, np.float32)),
        "case_1.npz: expected probabilities in [0, 1], got 0 to 4",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_files_are_one_clear_line(bad, fitted, tmp_path):
    path, test = fitted("platt", "two classes")
    break_it, message = BAD[bad]
    break_it(test.pred)
    with pytest.raises(InputError) as caught:
        apply(path, test.pred, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*case_1*"))
    assert not list(tmp_path.glob("out/.tmp*"))


@pytest.mark.parametrize("which", ["predictions", "output"])
def test_a_folder_that_is_not_utf8_is_refused_before_anything_is_written(which, fitted, tmp_path):
    """SimpleITK would abort the process when it gets such a path."""
    path, test = fitted("platt", "two classes")
    other = tmp_path / os.fsdecode(b"caf\xe9")
    pred, out = test.pred, tmp_path / "out"
    if which == "predictions":
        try:
            pred = test.pred.rename(other)
        except OSError:
            pytest.skip("this file system has no such names")
    else:
        out = other
    with pytest.raises(InputError, match=r"caf\\udce9: expected a path in UTF-8"):
        apply(path, pred, out)
    assert not out.exists()
