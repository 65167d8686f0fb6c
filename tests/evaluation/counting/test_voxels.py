"""The whole pipeline against plain numpy on all voxels, for every kind of label and of reader."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from predictions import softmax_case
from test_evaluate import run

from nnunet_meep.evaluation.counting import class_counts, one_pass
from nnunet_meep.evaluation.counting.bins import FEW_VOXELS
from nnunet_meep.nnunet_files import probabilities as stream

pytestmark = pytest.mark.usefixtures("unrendered")

SHAPE, SPACING_MM = (5, 6, 7), (3.0, 0.75, 1.25)  # exact in the float32 of a header
EXACT = {"rel": 1e-9, "abs": 1e-12}


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch) -> None:
    """As of an image that is much larger: two threads count in compiled loops, and parts end
    anywhere."""
    monkeypatch.setattr(stream, "PART", 41)
    monkeypatch.setattr(one_pass, "usable_cores", lambda: 3)
    monkeypatch.setattr(class_counts, "FEW_VOXELS", 0)


@pytest.fixture
def _few_voxels(monkeypatch) -> None:
    """Count as many voxels as these images really have: in NumPy."""
    monkeypatch.setattr(class_counts, "FEW_VOXELS", FEW_VOXELS)


def softmax_labels(n_classes: int, **more: int) -> dict[str, int]:
    return {"background": 0, **{f"c{i}": i for i in range(1, n_classes)}, **more}


def binned(p: np.ndarray, y: np.ndarray, n_bins: int) -> dict[str, float]:
    """Calibration errors over bins (l, u], p = 0 in the first."""
    edges = np.arange(1, n_bins) / n_bins
    b = np.digitize(p, edges, right=True)
    groups = [b == i for i in range(n_bins) if (b == i).any()]
    gaps = [abs(p[g].mean() - y[g].mean()) for g in groups]
    return {
        "ece": sum(g.mean() * gap for g, gap in zip(groups, gaps, strict=True)),
        "mce": max(gaps),
        "ace": np.mean(gaps),
    }


def class_values(p, y, predicted, voxel_ml: float | None, n_bins: int = 15) -> dict:
    """Metrics of a class over voxels in a row, p in float64."""
    likelihood = np.clip(np.where(y, p, 1 - p), 1e-12, 1 - 1e-12)
    either = predicted.sum() + y.sum()
    volumes = [np.nan if voxel_ml is None else voxel_ml * v.sum() for v in (y, predicted, p)]
    true_ml, pred_ml, expected_ml = volumes
    dice = 2 * (predicted & y).sum() / either if either else np.nan
    dice_expected = np.nan
    if predicted.any() or p.sum() >= 0.5:
        dice_expected = 2 * p[predicted].sum() / (p.sum() + predicted.sum())
    return {
        "dice": dice,
        "precision": y[predicted].mean() if predicted.any() else np.nan,
        "recall": predicted[y].mean() if y.any() else np.nan,
        "dice_expected": dice_expected,
        "dice_expected_error": abs(dice_expected - dice),
        "brier": np.mean((p - y) ** 2),
        "brier_plus": np.mean((p[y] - 1) ** 2) if y.any() else np.nan,
        "brier_minus": np.mean(p[~y] ** 2) if not y.all() else np.nan,
        "nll": -np.mean(np.log(likelihood)),
        **binned(p, y, n_bins),
        "volume_true_ml": true_ml,
        "volume_pred_ml": pred_ml,
        "volume_expected_ml": expected_ml,
        "volume_error_ml": pred_ml - true_ml,
        "volume_error_abs_ml": abs(pred_ml - true_ml),
        "volume_expected_error_abs_ml": abs(expected_ml - true_ml),
    }


def errors(wrong: np.ndarray, confidence: np.ndarray) -> dict:
    rate, expected = wrong.mean(), np.mean(1 - confidence)
    ratio = expected / rate if rate else np.nan
    return {"error_rate": rate, "error_rate_expected": expected, "error_rate_ratio": ratio}


def top_label_values(p, reference, n_bins: int = 15) -> dict:
    """Metrics of the top label, p (K, N) in float64, and the mean ECE of all classes."""
    confidence, correct = p.max(0), p.argmax(0) == reference
    eces = [binned(p[k], reference == k, n_bins)["ece"] for k in range(len(p))]
    return {
        **binned(confidence, correct, n_bins),
        "accuracy": correct.mean(),
        **errors(~correct, confidence),
        "classwise_ece": np.mean(eces),
    }


def assert_values(ours: dict, expected: dict, **tolerance: float) -> None:
    for metric, value in expected.items():
        if np.isnan(value):
            assert ours[metric] is None, metric
        else:
            assert ours[metric] == pytest.approx(value, **(tolerance or EXACT)), metric


def check_softmax(
    result: dict, p: np.ndarray, reference: np.ndarray, spacing_mm=SPACING_MM, n_bins: int = 15
) -> None:
    """Everything of a result with one case, of ``n_classes`` labels; others are ignored."""
    valid = reference < len(p)
    y = reference[valid]
    p = np.clip(p[:, valid].astype(np.float64), 0, 1)
    voxel_ml = spacing_mm and np.prod(spacing_mm) / 1000
    (case,) = result["cases"]
    assert list(case["classes"]) == [str(k) for k in range(1, len(p))]
    for k in range(1, len(p)):
        expected = class_values(p[k], y == k, p.argmax(0) == k, voxel_ml, n_bins)
        pooled = result["classes"][str(k)]["pooled"]
        assert_values(case["classes"][str(k)], expected)
        assert_values(pooled, expected)
        assert sum(pooled["bins"]["count"]) == len(y)
    expected = top_label_values(p, y, n_bins)
    assert_values(case["top_label"], expected)
    classwise = expected.pop("classwise_ece")
    assert_values(result["top_label"]["pooled"], expected)
    assert result["top_label"]["classwise_ece"]["pooled"] == pytest.approx(classwise, **EXACT)


class TestLabels:
    @pytest.mark.usefixtures("_few_voxels")
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_of_few_voxels(self, make_folder, tmp_path, n_classes) -> None:
        self.test_of_few_classes(make_folder, tmp_path, n_classes, seed=0)

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("n_classes", [2, 3, 5])
    def test_of_few_classes(self, make_folder, tmp_path, n_classes, seed) -> None:
        folder = make_folder(softmax_labels(n_classes))
        p, reference = softmax_case(np.random.default_rng(seed), SHAPE, n_classes)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        bins = 15 if seed else 8
        check_softmax(run(folder, tmp_path, "--bins", str(bins)), p, reference, n_bins=bins)

    def test_of_104_classes(self, make_folder, tmp_path) -> None:
        folder = make_folder(softmax_labels(104))
        p, reference = softmax_case(np.random.default_rng(2), SHAPE, 104)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        result = run(folder, tmp_path, "--no-surface")
        check_softmax(result, p, reference)
        # Some classes are nowhere in the reference, and have no Brier+.
        assert None in {c["brier_plus"] for c in result["cases"][0]["classes"].values()}

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_of_any_float_and_order(self, make_folder, tmp_path, dtype, order) -> None:
        folder = make_folder()
        p, reference = softmax_case(np.random.default_rng(3), SHAPE)
        p = np.asarray(p.astype(dtype), order=order)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        check_softmax(run(folder, tmp_path), p, reference)

    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_with_ignored_voxels(self, make_folder, tmp_path, n_classes) -> None:
        folder, rng = (
            make_folder(softmax_labels(n_classes, ignore=n_classes)),
            np.random.default_rng(4),
        )
        p, reference = softmax_case(rng, SHAPE, n_classes)
        reference[rng.random(SHAPE) < 0.3] = n_classes
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        check_softmax(run(folder, tmp_path), p, reference)

    @pytest.mark.parametrize("n_cores", [1, 2, 64])
    def test_with_any_number_of_cores(self, make_folder, tmp_path, monkeypatch, n_cores) -> None:
        folder = make_folder()
        folder.add("a", *softmax_case(np.random.default_rng(8), SHAPE), spacing_mm=SPACING_MM)
        expected = run(folder, tmp_path / "3", "--no-surface")
        monkeypatch.setattr(one_pass, "usable_cores", lambda: n_cores)
        found = run(folder, tmp_path / "n", "--no-surface")
        for part in ("classes", "top_label", "cases"):
            assert found[part] == expected[part]

    @pytest.mark.rendered
    def test_of_a_saturated_network(self, make_folder, tmp_path) -> None:
        folder, rng = make_folder(), np.random.default_rng(5)
        p, reference = softmax_case(rng, SHAPE)
        sure = rng.random(SHAPE) < 0.8
        p[:, sure] = np.eye(3, dtype=np.float32)[rng.integers(0, 3, sure.sum())].T
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        check_softmax(run(folder, tmp_path), p, reference)

    def test_of_several_cases_pooled(self, make_folder, tmp_path) -> None:
        folder, rng = make_folder(), np.random.default_rng(6)
        cases = [softmax_case(rng, shape) for shape in (SHAPE, (2, 3, 4), (7, 1, 9))]
        for name, case in zip("abc", cases, strict=True):
            folder.add(name, *case, spacing_mm=SPACING_MM)
        result = run(folder, tmp_path)
        p = np.concatenate([p.reshape(3, -1) for p, _ in cases], axis=1).astype(np.float64)
        reference = np.concatenate([reference.ravel() for _, reference in cases])
        for k in (1, 2):
            expected = class_values(
                p[k], reference == k, p.argmax(0) == k, np.prod(SPACING_MM) / 1000
            )
            assert_values(result["classes"][str(k)]["pooled"], expected)
        expected = top_label_values(p, reference)
        assert result["top_label"]["classwise_ece"]["pooled"] == pytest.approx(
            expected.pop("classwise_ece"), **EXACT
        )
        assert_values(result["top_label"]["pooled"], expected)


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}
#: The same where the label that is left for the core is not the next one.
KIDNEY = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2}


class TestRois:
    def check(self, result: dict, p: np.ndarray, reference: np.ndarray, order) -> None:
        segmentation = np.zeros(reference.shape, np.uint8)
        for channel, label in zip(p, order, strict=True):
            segmentation[channel > 0.5] = label
        valid = reference < 4
        y, segmentation = reference[valid], segmentation[valid]
        (case,) = result["cases"]
        assert case["top_label"] is result["top_label"] is None
        inner = order[-1]
        keys = {"(1, 2, 3)": (1, 2, 3), "(2, 3)": (2, 3), f"{inner}": (inner,)}
        assert list(case["classes"]) == list(keys)
        for i, (key, members) in enumerate(keys.items()):
            q, of_class = p[i][valid].astype(np.float64), np.isin(y, members)
            expected = class_values(
                q, of_class, np.isin(segmentation, members), np.prod(SPACING_MM) / 1000
            )
            expected |= errors((q > 0.5) != of_class, np.maximum(q, 1 - q))
            assert_values(case["classes"][key], expected)
            assert_values(result["classes"][key]["pooled"], expected)

    @pytest.mark.parametrize(("labels", "order"), [(REGIONS, [1, 2, 3]), (KIDNEY, [1, 3, 2])])
    @pytest.mark.parametrize("memory", ["C", "F"])
    def test_overlapping(self, make_folder, tmp_path, labels, order, memory) -> None:
        folder, rng = make_folder(labels, regions_class_order=order), np.random.default_rng(7)
        p = np.asarray(rng.random((3, *SHAPE)).astype(np.float32), order=memory)
        p[:, 0] = rng.integers(0, 3, p[:, 0].shape) / 2  # exactly 0, 1/2 and 1
        reference = rng.integers(0, 4, SHAPE).astype(np.uint8)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        for flags in ([], ["--segmentation", "argmax"]):  # of nnU-Net's file, and made here
            self.check(run(folder, tmp_path, *flags), p, reference, order)

    @pytest.mark.usefixtures("_few_voxels")
    def test_overlapping_in_few_voxels(self, make_folder, tmp_path) -> None:
        self.test_overlapping(make_folder, tmp_path, REGIONS, [1, 2, 3], "C")

    def test_with_ignored_voxels(self, make_folder, tmp_path) -> None:
        labels = {**REGIONS, "ignore": 4}
        folder = make_folder(labels, regions_class_order=[1, 2, 3])
        rng = np.random.default_rng(8)
        p = rng.random((3, *SHAPE)).astype(np.float32)
        reference = rng.integers(0, 5, SHAPE).astype(np.uint8)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        self.check(run(folder, tmp_path), p, reference, [1, 2, 3])


class TestTopLabel:
    """Where two probabilities are close to one half, or equal."""

    def check(self, make_folder, tmp_path, voxels: list, dtype: str = "float32") -> dict:
        folder, rng = make_folder(softmax_labels(len(voxels[0]))), np.random.default_rng(9)
        p = np.array(voxels, dtype)[rng.integers(0, len(voxels), SHAPE)]
        p = np.ascontiguousarray(np.moveaxis(p, -1, 0))
        reference = rng.integers(0, len(p), SHAPE).astype(np.uint8)
        folder.add("a", p, reference, spacing_mm=SPACING_MM)
        result = run(folder, tmp_path, "--no-surface", "--bins", "10")
        check_softmax(result, p, reference, n_bins=10)
        return result

    def test_the_first_of_equal_ones_is_it(self, make_folder, tmp_path) -> None:
        half, quarter = [0.5, 0.5, 0, 0], [0.25] * 4
        voxels = [half, half[::-1], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], quarter]
        self.check(make_folder, tmp_path, voxels)

    def test_of_two_classes_may_be_a_tie(self, make_folder, tmp_path) -> None:
        self.check(make_folder, tmp_path, [[0.5, 0.5], [0.4, 0.6], [0.7, 0.3]])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_two_above_one_half_by_rounding(self, make_folder, tmp_path, dtype) -> None:
        a, b = 0.5003, 0.5002
        voxels = [[a, b, 0], [b, a, 0], [0, a, b], [0, b, a], [b, 0, a], [a, 0, a], [0, a, a]]
        voxels += [[0.2, 0.3, 0.5], [0.5, b, 0], [b, 0, 0.5], [1, 0, 0]]
        self.check(make_folder, tmp_path, voxels, dtype)

    def test_two_above_one_half_of_two_classes(self, make_folder, tmp_path) -> None:
        voxels = [[0.5003, 0.5002], [0.5002, 0.5003], [0.5002, 0.5002], [0.5, 0.5001]]
        self.check(make_folder, tmp_path, voxels)

    def test_two_above_one_half_in_float16(self, make_folder, tmp_path) -> None:
        voxels = [[0.508, 0.506, 0], [0.506, 0.508, 0], [0, 0.508, 0.508], [0.49, 0, 0.5]]
        self.check(make_folder, tmp_path, voxels, "float16")

    def test_what_leaves_the_interval_is_clipped_and_counted(self, make_folder, tmp_path) -> None:
        above, below = 1 + 1.2e-7, -1e-7
        voxels = [[above, 0, 0], [0, above, below], [below, below, above], [0.3, 0.3, 0.4]]
        result = self.check(make_folder, tmp_path, voxels)
        folder_p = np.load(tmp_path / "pred" / "a.npz")["probabilities"]
        n_outside = int(((folder_p < 0) | (folder_p > 1)).sum())
        assert result["cases"][0]["n_clipped"] == n_outside > 100

    def test_nothing_is_counted_as_clipped_otherwise(self, make_folder, tmp_path) -> None:
        result = self.check(make_folder, tmp_path, [[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5]])
        assert result["cases"][0]["n_clipped"] == 0

    @pytest.mark.usefixtures("_few_voxels")
    def test_risk_coverage_of_distinct_confidences(self, make_folder, tmp_path) -> None:
        folder = make_folder()
        p, reference = softmax_case(np.random.default_rng(10), SHAPE)
        folder.add("a", p, reference)
        wrong = (p.argmax(0) != reference).ravel()[np.argsort(-p.max(0).ravel())]
        expected = np.mean(np.cumsum(wrong) / np.arange(1, wrong.size + 1))
        ours = run(folder, tmp_path)["cases"][0]["top_label"]["aurc"]
        assert ours == pytest.approx(expected, abs=1e-4)


def write_plans(folder, reader: str) -> None:
    (folder.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))


def as_nnunet_reads_it(reader: str, path: Path) -> tuple[np.ndarray, list[float]]:
    segmentation, properties = recursive_find_reader_writer_by_name(reader)().read_seg(str(path))
    return segmentation[0].astype(np.uint8), [float(s) for s in properties["spacing"]]


class TestReaders:
    """Axes and spacing are those of nnU-Net's reader, in which it wrote the probabilities."""

    def check(self, folder, tmp_path, reader: str, path: Path, spacing_mm=None) -> None:
        write_plans(folder, reader)
        reference, spacing = as_nnunet_reads_it(reader, path)
        p, _ = softmax_case(np.random.default_rng(11), reference.shape)
        np.savez_compressed(folder.pred / "a.npz", probabilities=p)
        result = run(folder, tmp_path)
        check_softmax(result, p, reference, spacing_mm or spacing)

    @pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
    def test_that_turns_the_axes(self, make_folder, tmp_path, reader) -> None:
        folder = make_folder()
        labels = np.random.default_rng(12).integers(0, 3, SHAPE).astype(np.uint8)
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(SPACING_MM[::-1])
        image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
        sitk.WriteImage(image, folder.gt / "a.nii.gz")
        turned, _ = as_nnunet_reads_it(reader, folder.gt / "a.nii.gz")
        assert turned.shape != labels.shape
        self.check(folder, tmp_path, reader, folder.gt / "a.nii.gz")

    @pytest.mark.parametrize("reader", ["NibabelIO", "SimpleITKIO"])
    def test_of_nifti_files(self, make_folder, tmp_path, reader) -> None:
        folder = make_folder()
        labels = np.random.default_rng(13).integers(0, 3, (7, 6, 5)).astype(np.uint8)
        affine = np.diag([-1.25, 0.75, 3.0, 1])
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder.gt / "a.nii.gz")
        # x, y, z in the file: the probabilities are z, y, x.
        reference, spacing = as_nnunet_reads_it(reader, folder.gt / "a.nii.gz")
        np.testing.assert_array_equal(reference, labels.T)
        assert spacing == pytest.approx(SPACING_MM)
        self.check(folder, tmp_path, reader, folder.gt / "a.nii.gz")

    @pytest.mark.parametrize("spacing_mm", [SPACING_MM, None])
    def test_of_tiff_files(self, make_folder, tmp_path, spacing_mm) -> None:
        folder = make_folder(file_ending=".tif")
        labels = np.random.default_rng(14).integers(0, 3, SHAPE).astype(np.uint8)
        tifffile.imwrite(folder.gt / "a.tif", labels)
        if spacing_mm:
            (folder.gt / "a.json").write_text(json.dumps({"spacing": spacing_mm}))
        expected = spacing_mm or (1.0, 1.0, 1.0)
        self.check(folder, tmp_path, "Tiff3DIO", folder.gt / "a.tif", expected)

    @pytest.mark.parametrize("file_ending", [".png", ".bmp"])
    def test_of_two_dimensional_images_knows_no_volume(
        self, make_folder, tmp_path, file_ending
    ) -> None:
        folder = make_folder(file_ending=file_ending)
        write_plans(folder, "NaturalImage2DIO")
        p, reference = softmax_case(np.random.default_rng(15), (1, 12, 9))
        np.savez_compressed(folder.pred / "a.npz", probabilities=p)
        sitk.WriteImage(sitk.GetImageFromArray(reference[0]), folder.gt / f"a{file_ending}")
        result = run(folder, tmp_path)
        check_softmax(result, p, reference, spacing_mm=None)
        assert result["classes"]["1"]["per_case"]["volume_true_ml"]["n_undefined"] == 1

    def test_of_a_two_dimensional_mha_knows_no_volume(self, make_folder, tmp_path) -> None:
        folder = make_folder(file_ending=".mha")
        p, reference = softmax_case(np.random.default_rng(16), (1, 12, 9))
        np.savez_compressed(folder.pred / "a.npz", probabilities=p)
        image = sitk.GetImageFromArray(reference[0])
        image.SetSpacing((0.5, 2.0))
        sitk.WriteImage(image, folder.gt / "a.mha")
        check_softmax(run(folder, tmp_path), p, reference, spacing_mm=None)

    def test_of_a_single_slice_of_a_volume_knows_its_volume(self, make_folder, tmp_path) -> None:
        folder = make_folder()
        p, reference = softmax_case(np.random.default_rng(17), (1, 12, 9))
        folder.add("a", p, reference, spacing_mm=(5.0, 1.0, 0.5))
        check_softmax(run(folder, tmp_path), p, reference, spacing_mm=(5.0, 1.0, 0.5))
