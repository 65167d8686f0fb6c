"""What data sets of scans with labels share that come without a division and with labels to name.

Files that are as nnU-Net needs them are copied. A mask is written anew if its labels change or its
header differs from the image's by rounding, channels if they are in one 4D file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_meep.datasets.division import Division, divide
from nnunet_meep.datasets.raw_folder import RawDataset, Scan, Volume, shown
from nnunet_meep.datasets.volumes import read_scan, recoded
from nnunet_meep.errors import InputError

ENDING = ".nii.gz"


def numbered(
    classes: Sequence[tuple[str, int]], ignored: Collection[int], where: str
) -> tuple[dict[str, int], dict[int, int]]:
    """Number labels as nnU-Net needs them: 0, 1, 2, ..., the ignore label last.

    Args:
        classes: name and value of each label but the background.
        ignored: values of the labels that shall be ignored.
        where: the argument or file to name in errors.

    Returns:
        ``labels`` of ``dataset.json``, and {value in the files: value to write}.

    Raises:
        InputError: a name or a value is there twice or has another meaning, or there is no label.
    """
    names, values = [name for name, _ in classes], [*(value for _, value in classes), *ignored]
    if not classes:
        raise InputError(f"{where}: expected at least one label beside the background, got none")
    for name in names:
        if name in ("background", "ignore"):
            raise InputError(f"{where}: expected another name than {name!r}, which nnU-Net uses")
    for what, given in (("name", names), ("value", values)):
        if twice := [item for item, n in Counter(map(str, given)).items() if n > 1]:
            raise InputError(f"{where}: expected each {what} once, got {shown(twice)} twice")
    if min(values) < 1:
        raise InputError(f"{where}: expected values from 1 (0 is background), got {min(values)}")
    in_order = sorted(classes, key=lambda item: item[1])
    labels = {"background": 0} | {name: i for i, (name, _) in enumerate(in_order, start=1)}
    become = {0: 0} | {value: labels[name] for name, value in in_order}
    if ignored:
        labels["ignore"] = len(labels)
        become |= dict.fromkeys(ignored, labels["ignore"])
    return labels, become


def nifti_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The ``.nii.gz`` files in a folder, and its other and hidden files; both sorted."""
    files = sorted(path for path in folder.iterdir() if not path.is_dir())
    # macOS leaves a hidden ._CASE.nii.gz beside each file that it archives.
    fits = [path.name.endswith(ENDING) and not path.name.startswith(".") for path in files]
    return (
        [path for path, fit in zip(files, fits, strict=True) if fit],
        [path for path, fit in zip(files, fits, strict=True) if not fit],
    )


def make_dataset(
    source: Path,
    name: str,
    images: Mapping[str, Sequence[Path]],
    masks: Mapping[str, Sequence[Path]],
    *,
    layout: str,
    channel_names: Sequence[str],
    labels: dict[str, int],
    become: Mapping[int, int],
    division: Division,
    notes: list[str],
    warnings: Sequence[str] = (),
    to_do: str = "",
) -> RawDataset:
    """Pair images with masks and divide the cases.

    Args:
        source: the folder to name in errors.
        name: the data set's name.
        images: {case: its image files}.
        masks: {case: its files with labels}.
        layout: description of the file layout.
        channel_names: names of the channels; several are the 4th axis of an image file.
        labels: ``labels`` of ``dataset.json``.
        become: {value in the masks: value to write}.
        division: how many cases are for what.
        notes, warnings: see :class:`RawDataset`.
        to_do: see :func:`.read_scan`.

    Raises:
        InputError: there are too few cases for the division.
    """
    images, left_out = _labelled(images, masks)
    notes = notes + left_out
    files, problems = _pairs(images, masks)
    try:
        divided = divide(files, division, source)
    except InputError as error:  # perhaps because of the problems
        raise InputError(*problems, *error.args) from error
    scans = [
        Scan(case, case in divided.test, (files[case][0],), files[case][1])
        for case in divided.cases
    ]
    return RawDataset(
        name=name,
        layout=layout,
        scans=tuple(scans),
        channel_names=tuple(channel_names),
        labels=labels,
        read=lambda scan: _read(scan, become, len(channel_names), to_do),
        splits=divided.splits,
        folds=divided.folds,
        problems=problems,
        notes=notes,
        warnings=list(warnings),
    )


def _labelled(
    images: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, Sequence[Path]], list[str]]:
    """The images without those of folders in which none has a label, such as a usual imagesTs.

    Also a note about each such folder.
    """
    with_label = {path.parent for case in masks for path in images.get(case, ())}
    if not with_label:
        return dict(images), []  # something else is wrong
    without = Counter(
        path.parent for paths in images.values() for path in paths if path.parent not in with_label
    )
    kept = {case: [p for p in paths if p.parent in with_label] for case, paths in images.items()}
    notes = [f"Left out {folder}: {n} images without labels" for folder, n in without.items()]
    return {case: paths for case, paths in kept.items() if paths}, notes


def _pairs(
    images: Mapping[str, Sequence[Path]], masks: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """The image and the mask of each case that has exactly one of both, and other problems."""
    files, problems = {}, []
    for case in sorted({*images, *masks}):
        both = {"image": images.get(case, ()), "label": masks.get(case, ())}
        here = next(path for paths in both.values() for path in paths)
        for part, paths in both.items():
            if not paths:
                problems.append(f"{here}: the {part} of this case is missing")
            if len(paths) > 1:
                problems.append(f"{case}: more than one {part}: {', '.join(map(str, paths))}")
        if all(len(paths) == 1 for paths in both.values()):
            files[case] = (both["image"][0], both["label"][0])
    return files, problems


def _read(
    scan: Scan, become: Mapping[int, int], n_channels: int, to_do: str
) -> tuple[Sequence[Volume], Volume]:
    """Check a scan; its files if they can be copied, else images to write."""
    channels, mask = read_scan(scan, become, n_channels=n_channels, to_do=to_do)
    (image_file,) = scan.channels
    keeps_labels = all(old == new for old, new in become.items())
    keeps_geometry = all(
        getattr(channels[0], get)() == getattr(mask, get)()
        for get in ("GetSpacing", "GetOrigin", "GetDirection")
    )
    copy_mask = keeps_labels and keeps_geometry and _is_3d_file(mask)
    return (
        [image_file] if n_channels == 1 and _is_3d_file(channels[0]) else channels,
        scan.mask if copy_mask else recoded(mask, become, channels[0]),
    )


def _is_3d_file(image: sitk.Image) -> bool:
    """Whether the file of a 3D image has no further axes (of length 1), which ITK drops."""
    axes: str = image.GetMetaData("dim[0]")
    return axes == "3"
