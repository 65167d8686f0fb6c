"""The evaluator's metrics for arrays in memory; the same as for files, to the last bit.

In all functions, ``probabilities`` have the shape (K, *shape): classes first, as nnU-Net saves
them, background included, K at least 2, any number of spatial axes; they sum to 1 over the classes.
``labels`` are the reference segmentation, (*shape), with integers from 0 to K - 1 or
``ignore_label``. A list of arrays is a list of cases; results then have a first axis for the cases.
For nnU-Net's overlapping regions, call the function once per region, with two classes each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import MAX_BINS, RoiSums, grid
from nnunet_meep.evaluation.metrics.calibration import (
    binned_metrics,
    equal_mass_metrics,
    reliability_bins,
    smooth_ece,
)
from nnunet_meep.evaluation.metrics.risk_coverage import risk_coverage as risk_coverage_of_cells
from nnunet_meep.evaluation.metrics.scores import class_metrics, top_label_metrics
from nnunet_meep.evaluation.result_format import TOP_LABEL
from nnunet_meep.nnunet_files.labels import Labels, UnknownLabels

Arrays: TypeAlias = "ArrayLike | Sequence[ArrayLike]"
#: Kinds of :func:`calibration_error`; only the first three work with ``top_label``.
KINDS = ("ece", "mce", "ace", "ece_adaptive", "ece_l2_debiased")


def calibration_error(
    probabilities: Arrays,
    labels: Arrays,
    *,
    kind: str = "ece",
    top_label: bool = False,
    n_bins: int = 15,
    ignore_label: int | None = None,
) -> NDArray[np.float64]:
    """The difference between mean predicted probability and observed frequency.

    Args:
        probabilities, labels: see the module docstring.
        kind: a metric of the catalogue: ``ece`` (Naeini et al. 2015), ``mce``, ``ace``,
            ``ece_adaptive`` (Nixon et al. 2019) or ``ece_l2_debiased`` (Kumar et al. 2019).
        top_label: compare the largest probability with whether its label is correct (Guo et al.
            2017; ``ece``, ``mce`` and ``ace`` only), instead of each class against the rest.
        n_bins: number of bins; of equal width for ``ece``, ``mce`` and ``ace``, else of equal mass.
        ignore_label: label of the voxels to leave out.

    Returns:
        (K - 1,), one value per foreground class; with ``top_label`` a scalar array. In [0, 1].

    Raises:
        ValueError: an argument is invalid.

    Example:
        >>> p = np.array([[0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]])
        >>> calibration_error(p, np.array([0, 0, 1, 0])).round(2)  # predicted 0.1, observed 0.25
        array([0.15])
    """
    if kind not in KINDS[: 3 if top_label else None]:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")

    def of(sums: RoiSums) -> Any:
        if top_label and sums.top_label is not None:
            return binned_metrics(sums.top_label, grid(n_bins))[kind]
        if kind in ("ece", "mce", "ace"):
            return [binned_metrics(c.cells, grid(n_bins))[kind] for c in sums.channels[1:]]
        return [equal_mass_metrics(c.cells, n_bins)[kind] for c in sums.channels[1:]]

    return _of_cases(probabilities, labels, of, n_bins, ignore_label)


def smooth_calibration_error(
    probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> NDArray[np.float64]:
    """Smooth calibration error, without bins (Błasiok & Nakkiran 2023).

    Args, Returns, Raises: as for :func:`calibration_error` without ``top_label``.

    Example:
        >>> p, y = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]]), np.array([0, 1, 1])
        >>> smooth_calibration_error(p, y).round(3)
        array([0.267])
    """

    def of(sums: RoiSums) -> Any:
        return [smooth_ece(channel.cells) for channel in sums.channels[1:]]

    return _of_cases(probabilities, labels, of, 15, ignore_label)


def brier_score(
    probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> NDArray[np.float64]:
    """Mean of (p - y)^2 for each foreground class against the rest (Brier 1950).

    Args, Raises: as for :func:`calibration_error`.

    Returns:
        (K - 1,), in [0, 1].

    Example:
        >>> p, y = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]]), np.array([0, 1, 1])
        >>> brier_score(p, y).round(3)
        array([0.153])
    """
    return _scores(probabilities, labels, "brier", ignore_label)


def negative_log_likelihood(
    probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> NDArray[np.float64]:
    """Mean of -log(probability of the truth), for each foreground class against the rest, in nats.

    Probabilities are clipped to [1e-12, 1 - 1e-12].

    Args, Raises: as for :func:`calibration_error`.

    Returns:
        (K - 1,), at least 0.

    Example:
        >>> p, y = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]]), np.array([0, 1, 1])
        >>> negative_log_likelihood(p, y).round(3)
        array([0.459])
    """
    return _scores(probabilities, labels, "nll", ignore_label)


def aurc(
    probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> NDArray[np.float64]:
    """Area under the risk-coverage curve of the predicted label (Geifman & El-Yaniv 2017).

    Args, Raises: as for :func:`calibration_error`.

    Returns:
        A scalar array, in [0, 1].

    Example:
        >>> p, y = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]]), np.array([0, 1, 1])
        >>> float(aurc(p, y).round(3))
        0.111
    """

    def of(sums: RoiSums) -> Any:
        assert sums.top_label is not None
        return top_label_metrics(sums.top_label, grid(15))["aurc"]

    return _of_cases(probabilities, labels, of, 15, ignore_label)


def risk_coverage(
    probabilities: ArrayLike, labels: ArrayLike, *, ignore_label: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """The risk-coverage curve of the predicted label, for one case.

    Args, Raises: as for :func:`calibration_error`.

    Returns:
        ``coverage``: fractions of the voxels, ascending; ``risk``: the error rate among the most
        confident voxels that make up this fraction.

    Example:
        >>> p, y = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]]), np.array([0, 1, 1])
        >>> float(risk_coverage(p, y)["risk"][-1].round(3))  # all voxels: one of three is wrong
        0.333
    """
    sums = _sums(probabilities, labels, 15, ignore_label)
    assert sums.top_label is not None
    curve = risk_coverage_of_cells(sums.top_label, grid(15), top_label=True)
    return {name: np.array(values) for name, values in curve.items()}


def reliability_of_arrays(
    probabilities: Arrays, labels: Arrays, key: str, n_bins: int, ignore_label: int | None
) -> list[dict[str, list[float]]]:
    """The reliability bins of each case: ``edges``, ``count``, ``mean_p``, ``mean_y``.

    Args:
        probabilities, labels: see the module docstring.
        key: a foreground class, ``"1"`` to ``"K - 1"``, or ``"top_label"``.
        n_bins: number of bins, of equal width.
        ignore_label: label of the voxels to leave out.

    Raises:
        ValueError: an argument is invalid.
    """

    def of(sums: RoiSums) -> dict[str, list[float]]:
        keys = [str(i) for i in range(1, len(sums.channels))]
        if key not in (*keys, TOP_LABEL):
            raise InputError(f"key: expected one of {', '.join((*keys, TOP_LABEL))}, got {key!r}")
        top = sums.top_label
        cells = top if key == TOP_LABEL and top else sums.channels[int(key)].cells
        return reliability_bins(cells, grid(n_bins))

    return [of(sums) for sums in _cases(probabilities, labels, n_bins, ignore_label)]


def _scores(
    probabilities: Arrays, labels: Arrays, metric: str, ignore_label: int | None
) -> NDArray[np.float64]:
    def of(sums: RoiSums) -> Any:
        return [class_metrics(channel, grid(15))[metric] for channel in sums.channels[1:]]

    return _of_cases(probabilities, labels, of, 15, ignore_label)


def _of_cases(
    probabilities: Arrays,
    labels: Arrays,
    of: Callable[[RoiSums], Any],
    n_bins: int,
    ignore_label: int | None,
) -> NDArray[np.float64]:
    results = [of(sums) for sums in _cases(probabilities, labels, n_bins, ignore_label)]
    return np.array(results if isinstance(probabilities, list | tuple) else results[0])


def _cases(
    probabilities: Arrays, labels: Arrays, n_bins: int, ignore_label: int | None
) -> Iterator[RoiSums]:
    """The sums of each case."""
    if not 1 <= n_bins <= MAX_BINS:
        raise InputError(f"n_bins: expected a number from 1 to {MAX_BINS}, got {n_bins}")
    for p, y in pairs_of(probabilities, labels):
        yield _sums(p, y, n_bins, ignore_label)


def pairs_of(probabilities: Arrays, labels: Arrays) -> list[tuple[Any, Any]]:
    """Pair the probabilities of each case with its labels."""
    if not isinstance(probabilities, list | tuple):
        return [(probabilities, labels)]
    cases = list(labels) if isinstance(labels, list | tuple) else None
    if not probabilities or cases is None or len(cases) != len(probabilities):
        raise InputError(
            f"labels: expected a list of {len(probabilities) or 'at least 1'} arrays, as of "
            f"probabilities, got {'no list' if cases is None else len(cases)}"
        )
    return list(zip(probabilities, cases, strict=True))


def _sums(probabilities: Any, labels: Any, n_bins: int, ignore_label: int | None) -> RoiSums:
    from nnunet_meep.evaluation.counting.one_pass import sum_array  # compiled loops

    p, codes, known = checked(probabilities, labels, ignore_label)
    return sum_array(p, codes, known, n_bins)


def checked(
    probabilities: Any, labels: Any, ignore_label: int | None
) -> tuple[NDArray[np.floating], NDArray[np.unsignedinteger], Labels]:
    """Check the arrays of a case; return the probabilities, label codes and labels."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    if p.dtype not in (np.float16, np.float32, np.float64) or p.ndim < 2 or len(p) < 2:
        raise InputError(
            f"probabilities: expected floating numbers (K, *shape), K at least 2, got {p.dtype} "
            f"{p.shape}"
        )
    if y.shape != p.shape[1:] or not y.size:
        raise InputError(f"labels: expected an array of shape {p.shape[1:]}, got {y.shape}")
    if ignore_label is not None and ignore_label < len(p):
        raise InputError(f"ignore_label: expected a number from {len(p)} on, got {ignore_label}")
    known = Labels(
        classes=tuple(range(1, len(p))),
        names=tuple(map(str, range(1, len(p)))),
        values=tuple(range(len(p))),
        ignore_label=ignore_label,
        regions_class_order=(),
    )
    try:
        codes = known.encode(y)
    except UnknownLabels as error:
        found = ", ".join(f"{v:g}" for v in error.args[0][:10])
        ignored = f" or {ignore_label}" if ignore_label is not None else ""
        raise InputError(
            f"labels: expected 0 to {len(p) - 1}{ignored}, found also {found}"
        ) from None
    return p, codes, known
