"""Fits a calibrator to arrays in memory, as ``meep-calib-fit`` does for files."""

from __future__ import annotations

from dataclasses import replace

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.arrays import Arrays, checked, pairs_of
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.posthoc.calibrator import Calibrator
from nnunet_meep.posthoc.fit import check_method, learn
from nnunet_meep.posthoc.voxels import ArrayVoxels


def fit_calibrator(
    method: str, probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> Calibrator:
    """Learn a calibrator from probabilities and reference labels.

    Args:
        method: ``platt``, ``isotonic``, ``temperature``, or one of fiducio's scalings:
            ``vector``, ``matrix``, ``dirichlet``, ``class-conditional``,
            ``class-conditional-argmax``, ``class-conditional-order``; see
            :mod:`nnunet_meep.posthoc.maps` and :mod:`nnunet_meep.posthoc.scalings`.
        probabilities: (K, *shape), classes first as nnU-Net saves them, including background; or a
            list of such arrays, one per case. nnU-Net's padding around an image (background 1, all
            else 0) is left out.
        labels: (*shape), integers from 0 to K - 1 or ``ignore_label``; or a list of such arrays.
        ignore_label: voxels with this label are left out.

    Returns:
        A calibrator, to be called with probabilities (K, *shape). It can be saved and read again.
        Unlike one from ``meep-calib-fit``, which is made for folders of predictions, it stores
        neither the names of the classes nor the cases it was fitted to.

    Raises:
        ValueError: an argument is invalid, or there is nothing to learn.

    Example:
        >>> import nnunet_meep as nm
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.9, 0.9, 0.2, 0.2], [0.1, 0.1, 0.1, 0.8, 0.8]])
        >>> calibrator = nm.fit_calibrator("platt", p, np.array([0, 0, 1, 1, 0]))
        >>> calibrator(p)[1].round(2)  # one of three, one of two
        array([0.33, 0.33, 0.33, 0.5 , 0.5 ], dtype=float32)
    """
    check_method(method)
    roi = replace(parse_roi("image"), without_padding=True)
    cases: list[ArrayVoxels] = []
    for p, y in pairs_of(probabilities, labels):
        p, codes, known = checked(p, y, ignore_label)
        if cases and known != cases[0].labels:
            raise InputError(
                f"probabilities: expected as many classes in each case, got "
                f"{cases[0].labels.n_channels} and {known.n_channels}"
            )
        cases.append(ArrayVoxels(p, codes, known, roi))
    known = cases[0].labels
    learnt = learn(method, cases, len(cases), known, roi)
    ignored = {} if ignore_label is None else {"ignore": ignore_label}
    entries = {"background": 0, **dict(zip(known.names, known.classes, strict=True)), **ignored}
    fitted_on = {"arrays": True, "n_cases": len(cases), "cases": [], "roi": roi.name, **learnt.on}
    return Calibrator(method, known, {"labels": entries}, fitted_on=fitted_on, **learnt.maps)
