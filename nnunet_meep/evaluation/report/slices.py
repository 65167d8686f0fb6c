"""Extract slices of a case that show where models are wrong and how confident they are.

One slice for each plane, at the position where the models together have most errors in the ROI; if
there are none, where the class is largest. The main plane is perpendicular to the axis with the
largest spacing (axial if voxels are nearly isotropic). Orientation: radiological; axial slices have
anterior at the top and the patient's right on the left, other slices have the head at the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.reference import ARGMAX, FILE, read_reference
from nnunet_meep.evaluation.counting.roi import describe, parse_roi
from nnunet_meep.evaluation.report.maps import minus_p_log_p
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.geometry import geometry, turn
from nnunet_meep.nnunet_files.headers import read_grid, refuse_other_grid
from nnunet_meep.nnunet_files.images import read_codes, read_image
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import read_channels

#: Where the slices of each plane are counted from.
_FROM = {"axial": "feet", "coronal": "front", "sagittal": "right"}
_PLANES = tuple(_FROM)


@dataclass(frozen=True)
class Prediction:
    """The prediction of one model for a case.

    Attributes:
        model: its name.
        case: the files of the case.
        dataset: the data set that they belong to.
        segmentation: which segmentation to show, as for :func:`.evaluate`.
    """

    model: str
    case: Case
    dataset: Dataset
    segmentation: str = FILE


@dataclass(frozen=True)
class ModelSlice:
    """The prediction of one model in a slice; arrays are (H, W).

    Attributes:
        model: its name.
        probability: of the shown class, in [0, 1].
        segmented: whether the segmentation has the class in each voxel.
        wrong: whether the label of each voxel is wrong; for regions, which overlap, whether the
            shown region is.
        entropy: over all classes, or of the region against the rest, divided by its maximum; in
            [0, 1].
    """

    model: str
    probability: NDArray[np.float32]
    segmented: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    entropy: NDArray[np.float32]


@dataclass(frozen=True)
class CaseSlice:
    """A slice of a case; arrays are (H, W).

    Attributes:
        case: its name.
        class_name: the class that is shown.
        plane: which slice this is, in words, and where errors count unless that is everywhere.
        direction: ``axial``, ``coronal`` or ``sagittal``; ``2D image`` if there is one slice.
        voxel_mm: height and width of a voxel, in mm.
        image: intensities; None without an image.
        image_name: name of its channel in ``dataset.json``.
        reference: whether the reference has the class in each voxel.
        models: the prediction of each model.
    """

    case: str
    class_name: str
    plane: str
    direction: str
    voxel_mm: tuple[float, float]
    image: NDArray[Any] | None
    image_name: str
    reference: NDArray[np.bool_]
    models: tuple[ModelSlice, ...]


def cut(
    key: str, predictions: Sequence[Prediction], images: Path | None, roi: str = "image"
) -> list[CaseSlice]:
    """Extract the slices of a case where the models make most errors in a class.

    Args:
        key: key of the class to show.
        predictions: those of each model for the same case.
        images: folder with ``CASE_0000<file_ending>``; None: no image.
        roi: name of the ROI; voxels outside of it are not wrong.

    Returns:
        A slice for each plane, the main one first; of a 2D image only that one.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    case, dataset = predictions[0].case, predictions[0].dataset
    labels = dataset.labels
    class_index = labels.keys.index(key)
    members = labels.y_of_code(labels.members(class_index))
    whole = read_reference(case, dataset, [parse_roi(roi)])
    codes, spacing_mm = whole.codes, whole.spacing_mm
    reference = members[codes] == 1
    counts = next(iter(whole.restricted.values()), codes) != labels.ignored_code
    axes, mirrored = _anatomical(case, dataset, spacing_mm)

    segmented, wrong = [], []
    for prediction in predictions:
        mine = _segmentation(prediction, codes.shape)
        segmented.append(members[mine] == 1)
        differs = segmented[-1] != reference if labels.is_region_based else mine != codes
        wrong.append(differs & counts)
    of_class = sum(
        ((s != reference) & counts).astype(np.uint8) for s in segmented
    )  # (*shape), the number of models that are wrong

    turned_mm = [spacing_mm[axis] for axis in axes]
    turned_shape = [codes.shape[axis] for axis in axes]

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        return np.flip(array.transpose(axes), mirrored)

    errors = turned(np.asarray(of_class))
    if not errors.any():
        errors = turned(np.any([reference, *segmented], axis=0))
    planes = {}  # the axis to cut across: the index of the slice
    for across in _across(turned_shape, turned_mm):
        others = tuple(axis for axis in range(3) if axis != across)
        n = errors.sum(axis=others)
        planes[across] = int(np.argmax(n)) if n.any() else len(n) // 2

    def slices_of(array: NDArray[Any]) -> list[NDArray[Any]]:
        """A copy of the slice of each plane, so that the array itself need not be kept."""
        taken = ((a, turned(array).take(i, axis=a)) for a, i in planes.items())
        # Rows run from feet to head if not axial: turned, so that the head is on top.
        return [part if across == 0 else part[::-1] for across, part in taken]

    image = None if images is None else slices_of(_image(images, case, dataset, codes.shape))
    names = dataset.dataset_json.get("channel_names", {})
    image_name = str(names.get("0", "image")) if isinstance(names, dict) else "image"
    of_models = []  # for each model, its slice in each plane
    for prediction, mine, differs in zip(predictions, segmented, wrong, strict=True):
        probability, entropy = _probability_and_entropy(prediction, class_index, codes.shape)
        parts = zip(*map(slices_of, (probability, mine, differs, entropy)), strict=True)
        of_models.append([ModelSlice(prediction.model, *arrays) for arrays in parts])
    found, where = [], f"; errors and Dice {describe(roi)}" if whole.restricted else ""
    for i, (across, index) in enumerate(planes.items()):
        n_slices = turned_shape[across]
        direction = _PLANES[across] if n_slices > 1 else "2D image"
        height_mm, width_mm = (mm for axis, mm in enumerate(turned_mm) if axis != across)
        found.append(
            CaseSlice(
                case=case.name,
                class_name=labels.names[class_index],
                plane=_in_words(direction, index, n_slices) + where,
                direction=direction,
                voxel_mm=(height_mm, width_mm),
                image=None if image is None else image[i],
                image_name=image_name,
                reference=slices_of(reference)[i],
                models=tuple(of_model[i] for of_model in of_models),
            )
        )
    return found


def error_kinds(reference: NDArray[np.bool_], of_model: ModelSlice) -> NDArray[np.int64]:
    """0 where a voxel is right, 1 missed, 2 wrongly there, 3 if other classes are mistaken."""
    missed = of_model.wrong & reference & ~of_model.segmented
    added = of_model.wrong & of_model.segmented & ~reference
    return np.where(missed, 1, np.where(added, 2, np.where(of_model.wrong, 3, 0)))


def _in_words(direction: str, index: int, n_slices: int) -> str:
    if n_slices == 1:
        return direction
    return f"{direction} slice {index + 1} of {n_slices} from the {_FROM[direction]}"


def _across(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """The axes to cut across, that of the main plane first; a 2D image has one."""
    if 1 in shape:
        return [shape.index(1)]
    main = int(np.argmax(spacing_mm)) if max(spacing_mm) > 1.2 * spacing_mm[0] else 0
    return [main, *(axis for axis in range(3) if axis != main)]


def _segmentation(
    prediction: Prediction, shape: tuple[int, ...]
) -> NDArray[np.unsignedinteger[Any]]:
    case, dataset = prediction.case, prediction.dataset
    path = case.segmentation
    if path is None or prediction.segmentation == ARGMAX:
        return _argmax(case, dataset.labels, shape)
    codes, _, _ = read_codes(path, dataset)
    if codes.shape != shape:
        raise InputError(f"{path}: expected the shape of the reference, {shape}, got {codes.shape}")
    return codes


def _argmax(case: Case, labels: Labels, shape: tuple[int, ...]) -> NDArray[np.unsignedinteger[Any]]:
    """Codes of the segmentation that nnU-Net's rule derives from the probabilities, (*shape)."""
    label_map: NDArray[np.uint16] = np.zeros(shape, np.uint16)
    largest = np.full(shape, -1, np.float32)
    for channel, p in read_channels(case.probabilities, (labels.n_channels, *shape)):
        if labels.is_region_based:
            label_map[p > 0.5] = labels.regions_class_order[channel]
        else:
            label_map[p > largest] = labels.values[channel]
            np.maximum(largest, p, out=largest)
    return labels.encode(label_map)


def _image(folder: Path, case: Case, dataset: Dataset, shape: tuple[int, ...]) -> NDArray[Any]:
    path = folder / f"{case.name}_0000{dataset.file_ending}"
    if not path.is_file():
        raise InputError(f"{path}: expected the image of {case.name}, found none (--images)")
    image = read_image(path, dataset)
    if image.shape != shape:
        raise InputError(
            f"{path}: expected the shape of the reference, {shape}, got {image.shape} (--images)"
        )
    expected = read_grid(case.reference, dataset.reader)
    refuse_other_grid(path, read_grid(path, dataset.reader), case.reference, expected)
    return image


def _anatomical(
    case: Case, dataset: Dataset, spacing_mm: tuple[float, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axis order, then the axes to flip, for (z, y, x) to run to the head, back and left."""
    numbers: NDArray[np.float32] = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    image = geometry(case, dataset, spacing_mm)(numbers)
    if image.GetDimension() < 3:
        return (0, 1, 2), ()
    return turn(numbers, sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")))


def _probability_and_entropy(
    prediction: Prediction, class_index: int, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probability of a class, and entropy over all classes, or of the region alone; (*shape)."""
    labels = prediction.dataset.labels
    n, shown = labels.n_channels, labels.channel(class_index)
    probability, entropy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for channel, p in read_channels(prediction.case.probabilities, (n, *shape)):
        if channel == shown:
            probability[:] = p
        if not labels.is_region_based:
            entropy += minus_p_log_p(p) / np.float32(np.log(n))
        elif channel == shown:
            entropy += (minus_p_log_p(p) + minus_p_log_p(1 - p)) / np.float32(np.log(2))
    return probability, np.clip(entropy, 0, 1)
