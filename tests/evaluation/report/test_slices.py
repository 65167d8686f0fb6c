"""Slices of cases: which one is cut, what is in it, and how it lies."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.maps import write_maps
from nnunet_meep.evaluation.report.slice_figures import slices_figure
from nnunet_meep.evaluation.report.slices import Prediction, cut
from nnunet_meep.nnunet_files.cases import Case, read_dataset

#: (z, y, x): z towards the head, y towards the back, x towards the left.
SHAPE = (4, 5, 6)
#: The same patient stored otherwise: columns say where x, y, z of the file point.
DIRECTIONS = {
    "identity": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "mirrored": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "turned": (0, 0, 1, -1, 0, 0, 0, -1, 0),
}


def patient(array, spacing_mm=(1.0, 1.0, 1.0)):
    """An image of an array (z, y, x) with identity direction."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    return image


def stored(image, direction):
    """The same image in space with other array axes."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    return sitk.DICOMOrient(image, code)


class Patient:
    """A reference, an image and predictions, stored in some orientation for some reader."""

    def __init__(self, folder, *, direction="identity", reader="SimpleITKIO", spacing=(1, 1, 1)):
        self.folder, self.direction = folder, DIRECTIONS[direction]
        self.spacing = tuple(map(float, spacing))
        (folder.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
        self.dataset = read_dataset([folder.pred])
        self.images = folder.gt.parent / "images"
        self.images.mkdir()

    def write(self, path, array):
        sitk.WriteImage(stored(patient(array, self.spacing), self.direction), str(path))
        return path

    def reference(self, array):
        self.path = self.write(self.folder.gt / "a.nii.gz", array.astype(np.uint8))

    def image(self, array):
        self.write(self.images / "a_0000.nii.gz", array.astype(np.float32))

    def predicted(self, name, p, segmentation):
        """``p`` (C, z, y, x) in the patient's axes, written with the axes of the reader."""
        from nnunet_meep.nnunet_files.images import read_image

        folder = self.folder.pred.parent / name
        folder.mkdir()
        channels = [
            read_image(self.write(folder / "channel.nii.gz", channel), self.dataset)
            for channel in p
        ]
        (folder / "channel.nii.gz").unlink()
        np.savez_compressed(folder / "a.npz", probabilities=np.stack(channels).astype(np.float32))
        self.write(folder / "a.nii.gz", segmentation.astype(np.uint8))
        case = Case("a", self.path, folder / "a.npz", folder / "a.nii.gz")
        return Prediction(name, case, self.dataset)


def three_classes(rng, shape=SHAPE):
    p = rng.dirichlet(np.ones(3), shape).astype(np.float32)
    return np.moveaxis(p, -1, 0), p.argmax(-1)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
)
def test_a_slice_is_the_same_however_the_patient_is_stored(make_folder, reader, direction) -> None:
    rng = np.random.default_rng(0)
    of = Patient(make_folder(), direction=direction, reader=reader)
    p, segmentation = three_classes(rng)
    reference = segmentation.copy()
    reference[2, 1:3] = (reference[2, 1:3] + 1) % 3  # all errors are in this slice
    image = rng.random(SHAPE)
    of.reference(reference)
    of.image(image)
    prediction = of.predicted("m", p, segmentation)
    found, *_ = cut("2", [prediction], of.images)
    assert found.plane == "axial slice 3 of 4 from the feet"
    assert found.voxel_mm == (1, 1)
    assert (found.case, found.class_name, found.image_name) == ("a", "Posterior", "MRI")
    np.testing.assert_allclose(found.image, image[2].astype(np.float32))
    assert np.array_equal(found.reference, reference[2] == 2)
    (of_model,) = found.models
    assert np.array_equal(of_model.segmented, segmentation[2] == 2)
    assert np.array_equal(of_model.wrong, segmentation[2] != reference[2])
    assert np.array_equal(of_model.probability, p[2, 2])
    entropy = -(p[:, 2].astype(float) * np.log(p[:, 2])).sum(axis=0) / np.log(3)
    np.testing.assert_allclose(of_model.entropy, entropy, atol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "plane", "voxel_mm"),
    [
        ((3, 1, 1), "axial slice 2 of 4 from the feet", (1, 1)),
        ((1, 3, 1.1), "coronal slice 4 of 5 from the front", (1, 1.1)),
        ((1, 1.1, 3), "sagittal slice 6 of 6 from the right", (1, 1.1)),
        ((1, 1.1, 1.1), "axial slice 2 of 4 from the feet", (1.1, 1.1)),
    ],
)
def test_slices_lie_across_the_thickest_voxels_with_the_head_on_top(
    make_folder, spacing, plane, voxel_mm
) -> None:
    of = Patient(make_folder(), spacing=spacing)
    segmentation, reference = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    segmentation[1, 3, 5] = 1
    of.reference(reference)
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    of.image(image)
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    found, *_ = cut("1", [of.predicted("m", p, segmentation)], of.images)
    assert found.plane == plane
    assert found.voxel_mm == pytest.approx(voxel_mm)
    kind = plane.split()[0]
    expected = {"axial": image[1], "coronal": image[::-1, 3], "sagittal": image[::-1, :, 5]}[kind]
    assert np.array_equal(found.image, expected)


def test_the_slice_has_most_errors_of_all_models_together(make_folder) -> None:
    of = Patient(make_folder())
    of.reference(np.zeros(SHAPE, int))
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    predictions = []
    for name, counts in (("a", (3, 2, 0, 0)), ("b", (0, 2, 0, 0))):
        segmentation = np.zeros(SHAPE, int)
        for z, n in enumerate(counts):
            segmentation[z].flat[:n] = 1
        segmentation[3] = 2  # errors, but none of the class that is shown
        predictions.append(of.predicted(name, p, segmentation))
    found, *_ = cut("1", predictions, None)
    assert found.plane == "axial slice 2 of 4 from the feet"
    assert [m.model for m in found.models] == ["a", "b"]
    assert found.image is None


def test_each_plane_has_its_own_slice_with_most_errors(make_folder) -> None:
    of = Patient(make_folder(), spacing=(1, 3, 1.1))
    segmentation = np.zeros(SHAPE, int)
    segmentation[1, 3, 5] = 1
    of.reference(np.zeros(SHAPE, int))
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    of.image(image)
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    planes = cut("1", [of.predicted("m", p, segmentation)], of.images)
    assert [plane.plane for plane in planes] == [
        "coronal slice 4 of 5 from the front",
        "axial slice 2 of 4 from the feet",
        "sagittal slice 6 of 6 from the right",
    ]
    assert [plane.direction for plane in planes] == ["coronal", "axial", "sagittal"]
    for plane, expected in zip(planes, (image[::-1, 3], image[1], image[::-1, :, 5]), strict=True):
        assert np.array_equal(plane.image, expected)
        assert plane.models[0].wrong.sum() == 1


def test_only_errors_in_the_roi_count(make_folder) -> None:
    of = Patient(make_folder())
    segmentation, mask = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    segmentation[3] = 1
    segmentation[1, 2, 3] = 1
    mask[:2] = 1
    of.reference(np.zeros(SHAPE, int))
    (of.folder.gt.parent / "masks").mkdir()
    of.write(of.folder.gt.parent / "masks" / "a.nii.gz", mask.astype(np.uint8))
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    prediction = of.predicted("m", p, segmentation)
    whole, *_ = cut("1", [prediction], None)
    assert whole.plane == "axial slice 4 of 4 from the feet"
    roi = f"mask:{of.folder.gt.parent / 'masks'}"
    found, *_, sagittal = cut("1", [prediction], None, roi)
    said = f"; errors and Dice inside the masks of {of.folder.gt.parent / 'masks'}"
    assert found.plane == f"axial slice 2 of 4 from the feet{said}"
    assert found.models[0].wrong.sum() == 1
    assert sagittal.models[0].segmented.sum() > sagittal.models[0].wrong.sum() == 1


@pytest.mark.parametrize("nowhere", [False, True])
def test_without_errors_the_class_is_shown_where_it_is_largest(make_folder, nowhere) -> None:
    of = Patient(make_folder())
    segmentation = np.zeros(SHAPE, int)
    if not nowhere:
        segmentation[1:3, 2:4, 2] = 1
        segmentation[3, 1:4, 2] = 1
    of.reference(segmentation)
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    planes = cut("1", [of.predicted("m", p, segmentation)], None)
    expected = (3, 3, 4) if nowhere else (4, 3, 3)
    assert [int(re.search(r"slice (\d)", plane.plane)[1]) for plane in planes] == list(expected)


def test_axes_that_are_not_perpendicular_are_those_nearest_to_them(make_folder, tmp_path) -> None:
    """As of a tilted gantry: ITK refuses them, nnU-Net's NibabelIO does not."""
    of = Patient(make_folder(), reader="NibabelIO")
    segmentation = np.zeros(SHAPE, int)
    segmentation[2, 1, 1] = 1
    of.reference(np.zeros(SHAPE, int))
    p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
    prediction = of.predicted("m", p, segmentation)
    straight = cut("1", [prediction], None)
    for path in (of.path, prediction.case.segmentation):
        image = nibabel.load(path)
        affine = image.affine.copy()
        affine[0, 1] = 0.05
        voxels = np.asarray(image.dataobj)
        path.unlink()
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(of.path))
    for before, after in zip(straight, cut("1", [prediction], None), strict=True):
        assert before.plane == after.plane
        assert np.array_equal(before.models[0].wrong, after.models[0].wrong)
    with pytest.raises(InputError, match="expected perpendicular axes for maps"):
        write_maps(prediction.case, of.dataset, tmp_path / "maps")


def test_ignored_voxels_are_no_errors(make_folder) -> None:
    of = Patient(make_folder({"background": 0, "lesion": 1, "ignore": 2}))
    reference = np.zeros(SHAPE, int)
    reference[0] = 2
    segmentation = np.ones(SHAPE, int)
    segmentation[2:] = 0
    of.reference(reference)
    p = np.full((2, *SHAPE), 0.5, np.float32)
    found, *_ = cut("1", [of.predicted("m", p, segmentation)], None)
    assert found.plane == "axial slice 2 of 4 from the feet"
    assert found.models[0].wrong.all()


def test_a_roi_has_errors_and_entropy_of_its_own(make_folder) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    of = Patient(make_folder(labels, regions_class_order=[1, 2]))
    reference = np.ones(SHAPE, int)
    segmentation = reference.copy()
    segmentation[1, 0] = 2  # core is wrong there, whole is right
    segmentation[2, 0, :2] = 0
    of.reference(reference)
    p = np.stack([np.full(SHAPE, 0.5), np.full(SHAPE, 0.9)]).astype(np.float32)
    prediction = of.predicted("m", p, segmentation)
    core, *_ = cut("2", [prediction], None)
    whole, *_ = cut(str((1, 2)), [prediction], None)
    assert core.plane == "axial slice 2 of 4 from the feet"
    assert whole.plane == "axial slice 3 of 4 from the feet"
    assert core.models[0].wrong.sum() == 6
    assert whole.models[0].wrong.sum() == 2
    assert whole.models[0].entropy == pytest.approx(np.ones((5, 6)))
    expected = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert core.models[0].entropy == pytest.approx(np.full((5, 6), expected), abs=1e-6)


def test_a_natural_image(make_folder) -> None:
    folder = make_folder({"background": 0, "cell": 1}, file_ending=".png")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
    rng = np.random.default_rng(0)
    p1 = rng.random((1, 7, 9)).astype(np.float32)
    np.savez_compressed(folder.pred / "a.npz", probabilities=np.stack([1 - p1, p1]))
    reference, image = (rng.integers(0, n, (7, 9)).astype(np.uint8) for n in (2, 256))
    sitk.WriteImage(sitk.GetImageFromArray(reference), str(folder.gt / "a.png"))
    segmentation = (p1[0] > 0.5).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(segmentation), str(folder.pred / "a.png"))
    sitk.WriteImage(sitk.GetImageFromArray(image), str(folder.gt / "a_0000.png"))
    case = Case("a", folder.gt / "a.png", folder.pred / "a.npz")
    (found,) = cut("1", [Prediction("m", case, read_dataset([folder.pred]))], folder.gt)
    assert found.plane == "2D image"
    assert np.array_equal(found.image, image)
    assert np.array_equal(found.reference, reference == 1)
    assert np.array_equal(found.models[0].probability, p1[0])
    assert np.array_equal(found.models[0].wrong, segmentation != reference)


class TestRefused:
    @pytest.fixture
    def of(self, make_folder):
        of = Patient(make_folder())
        of.reference(np.zeros(SHAPE, int))
        p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
        of.prediction = of.predicted("m", p, np.zeros(SHAPE, int))
        return of

    def refused(self, of, images=None):
        with pytest.raises(InputError) as error:
            cut("1", [of.prediction], images)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_no_segmentation(self, of) -> None:
        path = of.prediction.case.probabilities.with_name("a.nii.gz")
        path.unlink()
        assert f"{path}: expected a segmentation, could not read it" in self.refused(of)

    def test_a_segmentation_of_another_shape(self, of) -> None:
        path = of.prediction.case.probabilities.with_name("a.nii.gz")
        of.write(path, np.zeros((4, 5, 7), np.uint8))
        assert "shape 6 x 5 x 4, got 7 x 5 x 4" in self.refused(of)

    def test_unknown_labels(self, of) -> None:
        path = of.prediction.case.probabilities.with_name("a.nii.gz")
        of.write(path, np.full(SHAPE, 7, np.uint8))
        assert self.refused(of).startswith(f"{path}: expected the labels of dataset.json")

    def test_no_image(self, of) -> None:
        assert "a_0000.nii.gz: expected the image of a" in self.refused(of, of.images)

    def test_an_image_of_another_shape(self, of) -> None:
        of.image(np.zeros((4, 5, 7)))
        assert "got (4, 5, 7) (--images)" in self.refused(of, of.images)

    def test_an_image_that_lies_otherwise(self, of) -> None:
        """Of the same shape: it would be shown mirrored under the outlines."""
        other = sitk.GetImageFromArray(np.zeros(SHAPE, np.float32))
        other.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(other, str(of.images / "a_0000.nii.gz"))
        said = self.refused(of, of.images)
        assert "a_0000.nii.gz: expected the voxel grid of" in said
        assert "direction" in said

    def test_an_image_that_is_none(self, of) -> None:
        (of.images / "a_0000.nii.gz").write_bytes(b"nothing")
        assert "a_0000.nii.gz: expected an image, could not read it" in self.refused(of, of.images)

    def test_damaged_probabilities(self, of) -> None:
        path = of.prediction.case.probabilities
        path.write_bytes(path.read_bytes()[:-40])
        assert str(path) in self.refused(of)


class TestFigure:
    def drawn(self, make_folder, *, images):
        rng = np.random.default_rng(0)
        of = Patient(make_folder(), spacing=(3, 1, 0.5))
        p, segmentation = three_classes(rng)
        reference = np.where(rng.random(SHAPE) < 0.5, segmentation, 0)
        of.reference(reference)
        of.image(rng.random(SHAPE))
        predictions = [of.predicted(name, p, segmentation) for name in ("a", "n" * 50)]
        found, *_ = cut("1", predictions, of.images if images else None)
        return found, slices_figure(found, {"a": 0.5, "n" * 50: np.nan})

    def test_a_row_for_each_model_and_a_column_for_each_view(self, make_folder) -> None:
        found, figure = self.drawn(make_folder, images=True)
        figure.canvas.draw()
        panels, bars = figure.axes[:8], figure.axes[8:]
        assert len(bars) == 2
        assert [ax.get_title() for ax in panels[:4]] == [
            "MRI",
            "probability of Anterior",
            "errors",
            "entropy, share of the maximum",
        ]
        assert panels[0].get_ylabel() == "a\nDice of the case 0.500"
        assert panels[4].get_ylabel().replace("\n", "") == "n" * 50
        probability, errors = panels[1].get_images()[0], panels[2].get_images()[0]
        assert np.array_equal(probability.get_array(), found.models[0].probability)
        assert probability.get_clim() == (0, 1)
        kind = errors.get_array()
        of_model = found.models[0]
        assert np.array_equal(kind > 0, of_model.wrong)
        assert np.array_equal(kind == 1, found.reference & ~of_model.segmented)
        assert np.array_equal(kind == 2, of_model.segmented & ~found.reference)
        # In mm: voxels are as wide as they are.
        assert probability.get_extent() == [0, 3, 5, 0]
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "reference",
            "segmentation",
            "missed",
            "wrongly there",
            "other classes mistaken",
        ]
        below = legend.get_window_extent()
        assert all(ax.get_tightbbox().y0 >= below.y1 for ax in figure.axes)
        assert panels[0].get_tightbbox().x0 >= 0

    def test_without_an_image_there_is_no_column_for_it(self, make_folder) -> None:
        _, figure = self.drawn(make_folder, images=False)
        assert len(figure.axes) == 2 * 3 + 2
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "segmentation" not in texts

    def test_a_class_that_is_nowhere(self, make_folder) -> None:
        of = Patient(make_folder())
        of.reference(np.zeros(SHAPE, int))
        of.image(np.zeros(SHAPE))
        p = np.stack([np.full(SHAPE, q, np.float32) for q in (0.5, 0.25, 0.25)])
        prediction = of.predicted("m", p, np.zeros(SHAPE, int))
        figure = slices_figure(cut("1", [prediction], of.images)[0], {})
        figure.canvas.draw()  # no outline, no warning
