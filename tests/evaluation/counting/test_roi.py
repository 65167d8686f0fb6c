"""Which voxels count: found here a second time with scipy, or by cutting arrays out."""

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import PredictionFolder, softmax_case
from scipy.ndimage import binary_erosion, distance_transform_edt
from test_evaluate import refused, run

from nnunet_meep.evaluation.counting import one_pass
from nnunet_meep.nnunet_files import probabilities as stream

pytestmark = pytest.mark.usefixtures("unrendered")

BOX = (slice(1, 5), slice(2, 7), slice(0, 6))
IN_BOX = (slice(None), *BOX)
SHAPE = (6, 9, 8)
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch) -> None:
    """As of an image that is much larger: both threads count, and parts end anywhere."""
    monkeypatch.setattr(stream, "PART", 37)
    monkeypatch.setattr(one_pass, "usable_cores", lambda: 3)


def near(reference: np.ndarray, classes, margin_mm: float, spacing_mm) -> np.ndarray:
    """Within a distance of a voxel of a class that has a face neighbour outside of the class."""
    surface = np.zeros(reference.shape, dtype=bool)
    for members in classes:
        mask = np.isin(reference, members)
        surface |= mask & ~binary_erosion(mask)
    if not surface.any():
        return surface
    return distance_transform_edt(~surface, sampling=spacing_mm) <= margin_mm


def check(result: dict, p: np.ndarray, reference: np.ndarray, inside: np.ndarray) -> None:
    """Counts, Brier score and accuracy of the only case are those over some voxels."""
    assert 0 < inside.sum() < inside.size
    p, reference = p.astype(np.float64)[:, inside], reference[inside]
    top_label = result["top_label"]["pooled"]
    for label in map(int, result["classes"]):
        pooled = result["classes"][str(label)]["pooled"]
        y = reference == label
        assert sum(pooled["bins"]["count"]) == inside.sum()
        assert pooled["brier"] == pytest.approx(np.mean((p[label] - y) ** 2), abs=1e-12)
        predicted = p.argmax(0) == label
        assert pooled["dice"] == pytest.approx(
            2 * (predicted & y).sum() / (predicted.sum() + y.sum())
        )
    assert sum(top_label["bins"]["count"]) == inside.sum()
    assert top_label["accuracy"] == pytest.approx((p.argmax(0) == reference).mean(), abs=1e-12)
    assert top_label["error_rate_expected"] == pytest.approx(1 - p.max(0).mean(), abs=1e-12)


def same(ours, theirs) -> None:
    """Two results with the same keys and, within 1e-12, the same numbers."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    else:
        assert ours == theirs


class TestCrop:
    def both(self, tmp_path: Path, labels: dict, p, reference, **dataset_json) -> tuple[dict, dict]:
        """The result of ``crop``, and that of the box as files of their own."""
        results = []
        for name, roi, box in (("whole", "crop", ()), ("cut", "image", BOX)):
            root = tmp_path / name
            folder = PredictionFolder(root, labels, **dataset_json)
            cut = np.ascontiguousarray(p[(slice(None), *box)])
            folder.add("a", cut, np.ascontiguousarray(reference[box]), spacing_mm=(3.0, 1.0, 0.5))
            results.append(run(folder, root, "--roi", roi, "--no-surface"))
        return results[0], results[1]

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_is_the_box_of_what_is_not_padding(self, tmp_path, dtype, order) -> None:
        rng = np.random.default_rng(1)
        p = np.zeros((3, *SHAPE))
        p[0] = 1
        p[IN_BOX], _ = softmax_case(rng, p[0][BOX].shape)
        p[:, 2, 3:5, 1:4] = np.array([1, 0, 0])[:, None, None]  # saturated as padding is
        p[:, 3, 3, 1:4] = np.array([0, 1, 0])[:, None]
        p[:, 1, 2:4, :3] = np.array([1, 0, 0])[:, None, None]  # a corner of the box, too
        reference = rng.integers(0, 3, SHAPE).astype(np.uint8)  # everywhere, beyond the box also
        labels = {"background": 0, "a": 1, "b": 2}
        crop, cut = self.both(tmp_path, labels, np.asarray(p.astype(dtype), order=order), reference)
        n = 4 * 5 * 6
        assert sum(crop["classes"]["1"]["pooled"]["bins"]["count"]) == n
        for key in ("classes", "top_label", "cases"):
            same(crop[key], cut[key])
        assert crop["top_label"]["pooled"]["accuracy"] is not None

    def test_of_rois_is_where_not_all_are_zero(self, tmp_path) -> None:
        rng = np.random.default_rng(2)
        p = np.zeros((2, *SHAPE), np.float32)
        p[IN_BOX] = rng.random((2, *p[0][BOX].shape))
        p[:, 2, 3:5, 1:4] = 0
        p[0, 3, 3, 1:4] = 1
        reference = rng.integers(0, 3, SHAPE).astype(np.uint8)
        crop, cut = self.both(tmp_path, REGIONS, p, reference, regions_class_order=[1, 2])
        assert sum(crop["classes"]["(2,)"]["pooled"]["bins"]["count"]) == 4 * 5 * 6
        same(crop["classes"], cut["classes"])
        same(crop["cases"], cut["cases"])
        assert crop["top_label"] is None

    def test_holds_what_is_no_padding_though_saturated(self, tmp_path) -> None:
        p = np.zeros((3, *SHAPE), np.float32)
        p[0] = 1
        for corner in ((1, 2, 0), (4, 6, 5)):  # two voxels, and all between them
            p[(slice(None), *corner)] = [0, 0, 1]
        reference = np.random.default_rng(3).integers(0, 3, SHAPE).astype(np.uint8)
        crop, cut = self.both(tmp_path, {"background": 0, "a": 1, "b": 2}, p, reference)
        assert sum(crop["classes"]["1"]["pooled"]["bins"]["count"]) == 4 * 5 * 6
        same(crop["classes"], cut["classes"])
        same(crop["top_label"], cut["top_label"])

    def test_ignored_voxels_of_the_padding_are_not_subtracted(self, tmp_path) -> None:
        rng = np.random.default_rng(4)
        p = np.zeros((2, *SHAPE), np.float32)
        p[0] = 1
        p[IN_BOX], _ = softmax_case(rng, p[0][BOX].shape, n_classes=2)
        reference = rng.integers(0, 3, SHAPE).astype(np.uint8)
        labels = {"background": 0, "a": 1, "ignore": 2}
        crop, cut = self.both(tmp_path, labels, p, reference)
        assert sum(crop["classes"]["1"]["pooled"]["bins"]["count"]) == (reference[BOX] < 2).sum()
        for key in ("classes", "top_label", "cases"):
            same(crop[key], cut[key])

    def test_almost_padding_is_none(self, make_folder, tmp_path) -> None:
        folder = make_folder()
        p = np.zeros((3, *SHAPE), np.float32)
        p[0] = 1
        p[:, 1, 1, 1] = [1 - 1e-7, 1e-7, 0]
        p[:, 2, 2, 2] = [1, 1e-30, 0]
        folder.add("a", p, np.zeros(SHAPE, np.uint8))
        result = run(folder, tmp_path, "--roi", "crop", "--no-surface")
        assert sum(result["classes"]["1"]["pooled"]["bins"]["count"]) == 8

    def test_nothing_but_padding_has_no_numbers(self, make_folder, tmp_path) -> None:
        folder = make_folder()
        p = np.zeros((3, *SHAPE), np.float32)
        p[0] = 1
        folder.add("a", p, np.ones(SHAPE, np.uint8))
        result = run(folder, tmp_path, "--roi", "image", "crop", "--no-surface")
        crop = result["by_roi"]["crop"]
        (case,) = crop["cases"]
        assert set(case["classes"]["1"].values()) == {None}
        assert set(case["top_label"].values()) == {None}
        assert sum(crop["classes"]["1"]["pooled"]["bins"]["count"]) == 0
        assert crop["classes"]["1"]["per_case"]["brier"]["n_undefined"] == 1
        assert result["classes"]["1"]["pooled"]["brier"] == 1.0
        assert result["top_label"]["pooled"]["accuracy"] == 0.0


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Solid classes 1 and 2 that touch each other, and a lone voxel."""
    at = np.indices(shape).transpose(1, 2, 3, 0)
    reference = np.zeros(shape, np.uint8)
    centre = np.array(shape) / 2
    reference[(np.abs(at - centre) / np.array(shape)).max(-1) < 0.3] = 1
    reference[..., shape[2] // 2 :][reference[..., shape[2] // 2 :] == 1] = 2
    reference[0, 0, 0] = rng.integers(1, 3)
    return reference


class TestBoundary:
    @pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.3)])
    @pytest.mark.parametrize("margin", ["0", "0.75", "1.5", "2.95"])
    def test_is_within_the_distance_of_any_surface(
        self, make_folder, tmp_path, spacing_mm, margin
    ) -> None:
        folder, rng = make_folder(), np.random.default_rng(6)
        reference = blobs(rng, (9, 16, 18))
        p, _ = softmax_case(rng, reference.shape)
        folder.add("a", p, reference, spacing_mm=spacing_mm)
        result = run(folder, tmp_path, "--roi", f"boundary:{margin}", "--no-surface")
        check(result, p, reference, near(reference, (1, 2), float(margin), spacing_mm))

    # In float32 the seventh voxel of 0.3 mm is a little further away than 2.1 mm.
    @pytest.mark.parametrize(("mm", "margin", "n"), [(0.1, "0.3", 7), (0.3, "2.1", 15)])
    def test_a_distance_that_is_met_exactly_counts(
        self, make_folder, tmp_path, mm, margin, n
    ) -> None:
        folder = make_folder()
        reference = np.zeros((5, 5, 17), np.uint8)
        reference[2, 2, 8] = 1
        p, _ = softmax_case(np.random.default_rng(0), reference.shape)
        folder.add("a", p, reference, spacing_mm=(5.0, 5.0, mm))
        result = run(folder, tmp_path, "--roi", f"boundary:{margin}", "--no-surface")
        assert sum(result["classes"]["1"]["pooled"]["bins"]["count"]) == n

    def test_surfaces_between_touching_classes_count(self, make_folder, tmp_path) -> None:
        """Every voxel is of a class: the only inner surface is the one between them."""
        folder, rng = make_folder(), np.random.default_rng(7)
        reference = np.ones((8, 9, 14), np.uint8)
        reference[:, :, 7:] = 2
        p, _ = softmax_case(rng, reference.shape)
        folder.add("a", p, reference)
        result = run(folder, tmp_path, "--roi", "boundary:0", "--no-surface")
        inside = near(reference, (1, 2), 0, (1, 1, 1))
        assert inside[4, 4, 6:8].all()
        assert not inside[4, 4, 3:6].any()
        check(result, p, reference, inside)

    def test_of_one_slice_is_two_dimensional(self, make_folder, tmp_path) -> None:
        folder, rng = make_folder(file_ending=".png"), np.random.default_rng(8)
        (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
        reference = np.zeros((1, 21, 25), np.uint8)
        reference[0, 3:14, 4:16] = 1
        reference[0, 8:20, 10:22] = 2
        p, _ = softmax_case(rng, reference.shape)
        np.savez_compressed(folder.pred / "a.npz", probabilities=p)
        sitk.WriteImage(sitk.GetImageFromArray(reference[0]), folder.gt / "a.png")
        result = run(folder, tmp_path, "--roi", "boundary:1.5", "--no-surface")
        inside = near(reference[0], (1, 2), 1.5, (1, 1))
        assert not inside[6, 7]  # the inside of a class is no surface, as it would be in 3D
        check(result, p, reference, inside[None])

    def test_of_overlapping_regions(self, make_folder, tmp_path) -> None:
        folder, rng = make_folder(REGIONS, regions_class_order=[1, 2]), np.random.default_rng(9)
        reference = blobs(rng, (9, 16, 18))
        reference[4, 8, 5] = 0
        p = rng.random((2, *reference.shape)).astype(np.float32)
        folder.add("a", p, reference)
        result = run(folder, tmp_path, "--roi", "boundary:0.5", "--no-surface")
        inside = near(reference, [(1, 2), (2,)], 0.5, (1, 1, 1))
        # From the whole, 1 and 2 together, the plane between them is seen on the side of 2 alone.
        assert inside.sum() < near(reference, [(1,), (2,)], 0.5, (1, 1, 1)).sum()
        whole = result["classes"]["(1, 2)"]["pooled"]
        assert sum(whole["bins"]["count"]) == inside.sum()
        y = (reference > 0)[inside]
        assert whole["brier"] == pytest.approx(np.mean((p[0][inside].astype(np.float64) - y) ** 2))

    def test_ignored_voxels_are_outside_of_classes_and_never_count(
        self, make_folder, tmp_path
    ) -> None:
        folder = make_folder({"background": 0, "a": 1, "b": 2, "ignore": 3})
        rng = np.random.default_rng(10)
        reference = blobs(rng, (9, 16, 18))
        reference[:, 6:9, 6:12] = 3
        p, _ = softmax_case(rng, reference.shape)
        folder.add("a", p, reference)
        result = run(folder, tmp_path, "--roi", "boundary:1.2", "--no-surface")
        check(result, p, reference, near(reference, (1, 2), 1.2, (1, 1, 1)) & (reference < 3))

    def test_without_any_class_has_no_numbers(self, make_folder, tmp_path) -> None:
        folder, rng = make_folder(), np.random.default_rng(11)
        p, _ = softmax_case(rng, SHAPE)
        folder.add("a", p, np.zeros(SHAPE, np.uint8))
        result = run(folder, tmp_path, "--roi", "image", "boundary:5")
        (case,) = result["by_roi"]["boundary:5"]["cases"]
        assert case["classes"]["1"].pop("nsd") == 0  # of the whole image
        assert set(case["classes"]["1"].values()) == {None}
        assert set(case["top_label"].values()) == {None}


@pytest.mark.parametrize("roi", ["crop", "boundary:5"])
@pytest.mark.rendered
def test_a_first_roi_without_voxels_is_drawn_without_a_warning(make_folder, tmp_path, roi) -> None:
    folder = make_folder()
    p = np.zeros((3, *SHAPE), np.float32)
    p[0] = 1
    folder.add("a", p, np.zeros(SHAPE, np.uint8))
    assert run(folder, tmp_path, "--roi", roi)["classes"]["1"]["pooled"]["ece"] is None


class TestMask:
    @pytest.fixture(autouse=True)
    def _case(self, make_folder, tmp_path) -> None:
        self.folder = make_folder({"background": 0, "a": 1, "b": 2, "ignore": 3})
        rng = np.random.default_rng(12)
        self.p, self.reference = softmax_case(rng, SHAPE)
        self.reference[rng.random(SHAPE) < 0.1] = 3
        self.mask = (rng.random(SHAPE) < 0.4) * rng.integers(1, 9, SHAPE)
        self.folder.add("a", self.p, self.reference)
        self.masks = tmp_path / "masks"
        self.masks.mkdir()
        self.roi = f"mask:{self.masks}"

    def write(self, mask: np.ndarray) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(mask), self.masks / "a.nii.gz")

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
    def test_is_where_the_mask_is_not_zero(self, tmp_path, dtype) -> None:
        mask = self.mask.astype(dtype)
        if dtype is not np.uint8:
            mask = -mask / dtype(4) if dtype is np.float32 else -mask
        self.write(mask)
        result = run(self.folder, tmp_path, "--roi", self.roi, "--no-surface")
        check(result, self.p, self.reference, (self.mask != 0) & (self.reference < 3))

    def test_empty_has_no_numbers(self, tmp_path) -> None:
        self.write(np.zeros(SHAPE, np.uint8))
        result = run(self.folder, tmp_path, "--roi", "image", self.roi, "--no-surface")
        (case,) = result["by_roi"][self.roi]["cases"]
        assert set(case["classes"]["2"].values()) == {None}

    def test_missing_for_a_case(self, tmp_path, capsys) -> None:
        line = refused(capsys, self.folder.gt, self.folder.pred, "-np", 1, "--roi", self.roi)
        assert str(self.masks / "a.nii.gz") in line

    def test_of_another_shape(self, tmp_path, capsys) -> None:
        self.write(np.ones((6, 9, 7), np.uint8))
        line = refused(capsys, self.folder.gt, self.folder.pred, "-np", 1, "--roi", self.roi)
        assert str(self.masks / "a.nii.gz") in line
        assert "shape 8 x 9 x 6, got 7 x 9 x 6" in line

    def test_that_is_no_image(self, capsys) -> None:
        (self.masks / "a.nii.gz").write_bytes(b"no image")
        line = refused(capsys, self.folder.gt, self.folder.pred, "-np", 1, "--roi", self.roi)
        assert str(self.masks / "a.nii.gz") in line

    def test_several_rois_at_once_are_each_as_alone(self, tmp_path, capsys) -> None:
        self.write(self.mask.astype(np.uint8))
        names = ["boundary:1", "crop", self.roi, "image", "boundary:1.5"]
        capsys.readouterr()
        result = run(self.folder, tmp_path, "--roi", *names)
        printed = capsys.readouterr().out
        assert result["settings"]["rois"] == names
        assert list(result["by_roi"]) == names[1:]
        blocks = {names[0]: result, **result["by_roi"]}
        valid = self.reference < 3
        inside = {
            self.roi: (self.mask != 0) & valid,
            "image": valid,
            "crop": valid,
            "boundary:1": near(self.reference, (1, 2), 1, (1, 1, 1)) & valid,
            "boundary:1.5": near(self.reference, (1, 2), 1.5, (1, 1, 1)) & valid,
        }
        for name in names:
            check(blocks[name], self.p, self.reference, inside[name])
            assert [c["case"] for c in blocks[name]["cases"]] == ["a"]
        same(blocks["crop"]["classes"], blocks["image"]["classes"])
        with (tmp_path / "out" / "calibration.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [r["roi"] for r in rows] == [name for name in names for _ in range(3)]
        for row in rows:
            (case,) = blocks[row["roi"]]["cases"]
            values = {**case["classes"], "top_label": case["top_label"]}[row["class"]]
            assert float(row["ece"]) == values["ece"]
        lines = [line for line in printed.splitlines() if line.startswith("ROI: ")]
        words = ["(boundary:1)", "(crop)", str(self.masks), "whole images", "(boundary:1.5)"]
        assert len(lines) == len(words)
        for line, word in zip(lines, words, strict=True):
            assert word in line

    @pytest.mark.slow
    def test_in_several_processes_gives_the_same(self, tmp_path) -> None:
        self.write(self.mask.astype(np.uint8))
        self.folder.add("b", self.p[:, ::-1], self.reference)
        sitk.WriteImage(sitk.GetImageFromArray(self.mask.astype(np.uint8)), self.masks / "b.nii.gz")
        flags = ["--roi", self.roi, "crop", "boundary:1"]
        results = []
        for n in "12":  # each into its own folder: nothing is taken over
            results.append(run(self.folder, tmp_path / n, *flags, "-np", n))
        same(*results)


@pytest.mark.parametrize(
    "roi",
    [
        "boundary:", "boundary", "boundary:-1", "boundary:x", "boundary:nan", "boundary:inf",
        "mask:nowhere", "mask:", "mask", "edge", "image:", "crop:1", "Image",
    ],
)  # fmt: skip
def test_a_name_that_is_no_roi(make_folder, tmp_path, capsys, roi) -> None:
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), (2, 3, 4)))
    line = refused(capsys, folder.gt, folder.pred, "-o", tmp_path / "out", "--roi", roi)
    assert roi in line
    assert ("is image meant?" in line) == (roi == "Image")
    assert not (tmp_path / "out").exists()


def test_the_same_roi_twice(make_folder, tmp_path, capsys) -> None:
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), (2, 3, 4)))
    line = refused(capsys, folder.gt, folder.pred, "--roi", "crop", "image", "crop")
    assert "crop image crop" in line


def test_a_mask_that_is_a_file_is_no_folder(make_folder, tmp_path, capsys) -> None:
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), (2, 3, 4)))
    roi = f"mask:{folder.gt / 'a.nii.gz'}"
    assert roi in refused(capsys, folder.gt, folder.pred, "--roi", roi)
