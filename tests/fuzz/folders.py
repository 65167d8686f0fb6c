"""Small folders of predictions that are right, and odd where nnU-Net's may be odd."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random as Draw
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from mutations import npz

#: Names of cases as users have them.
_NAMES = ("case_01", "a b", "1", "ü-é", "a.b", "%d", "$x$", "<b>&amp;", "x" * 100, "-o", "a'b\"")
_CLASSES = ("left", "a b", "<script>alert(1)</script>", "$\\frac{$", "%s", "\\alpha_1", "&", "ä")


@dataclass(frozen=True)
class Predictions:
    """A folder ``gt`` and a folder ``pred`` with one case.

    Attributes:
        case: its name.
        file_ending: of its label maps.
        files: {path: content}, relative to their common folder.
    """

    case: str
    file_ending: str
    files: dict[str, bytes]

    def write(self, root: Path) -> None:
        for path, content in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def predictions(draw: Draw) -> Predictions:
    """Draw labels or regions, an ignore label, dtypes, orders, shapes, geometry, names."""
    rng = np.random.default_rng(draw.randrange(2**32))
    n_labels = draw.choice((2, 2, 3, 3, 4, 7))
    shape = tuple(draw.choice((1, 2, 3, 4, 5)) for _ in range(3))
    names = draw.sample(_CLASSES, n_labels - 1)
    labels: dict[str, Any] = {"background": 0, **{n: i + 1 for i, n in enumerate(names)}}
    content: dict[str, Any] = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1}
    regions = n_labels > 2 and draw.random() < 0.25
    if regions:
        labels[names[0]] = list(range(1, n_labels))
        content["regions_class_order"] = list(range(1, n_labels))
    reference = rng.integers(0, n_labels, shape)
    if draw.random() < 0.25:
        labels["ignore"] = n_labels
        reference[rng.random(shape) < 0.2] = n_labels
    elif draw.random() < 0.1:
        reference[:] = draw.randrange(n_labels)
    n_channels = n_labels - regions
    p = rng.random((n_channels, *shape)) ** draw.choice((1, 4, 20)) + 1e-9
    if not regions:
        p /= p.sum(axis=0)
    if draw.random() < 0.1:
        p = np.round(p) if regions else np.eye(n_channels)[p.argmax(0)].transpose(3, 0, 1, 2)
    p = np.asarray(p, draw.choice(("<f4", "<f4", "<f2", "<f8", ">f4", ">f8")))
    if draw.random() < 0.25:
        p = np.asfortranarray(p)
    predicted = (
        np.where((p > 0.5).any(0), n_channels - (p > 0.5)[::-1].argmax(0), 0)
        if regions
        else p.argmax(0)
    )
    ending = draw.choice((".nii.gz", ".nii.gz", ".nii", ".mha", ".nrrd"))
    content["file_ending"] = ending
    case = draw.choice(_NAMES)
    dtype = draw.choice(("u1", "u1", "i2", "i4", "f4"))
    spacing = [draw.choice((1.0, 0.5, 3.3)) for _ in range(3)]
    turned = draw.random() < 0.3
    return Predictions(
        case,
        ending,
        {
            f"gt/{case}{ending}": _image(reference.astype(dtype), ending, spacing, turned),
            f"pred/{case}{ending}": _image(predicted.astype("u1"), ending, spacing, turned),
            f"pred/{case}.npz": npz({"probabilities.npy": _npy(p)}, draw.choice((0, 8, 8))),
            "pred/dataset.json": json.dumps(content).encode(),
            "pred/plans.json": json.dumps({"image_reader_writer": "SimpleITKIO"}).encode(),
        },
    )


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _image(labels: np.ndarray, ending: str, spacing: list[float], turned: bool) -> bytes:
    """A label map as a file; SimpleITK writes only to disk."""
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing)
    if turned:
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        image.SetOrigin((-3.5, 2, 1))
    with TemporaryDirectory(dir=memory()) as folder:
        path = Path(folder) / f"labels{ending}"
        sitk.WriteImage(image, str(path), ending != ".nrrd")
        return path.read_bytes()


def memory() -> str | None:
    """A file system in memory, if there is one: most of the time would go to the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
