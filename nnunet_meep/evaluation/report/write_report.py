"""Write the output folder of an evaluation or a comparison."""

from __future__ import annotations

from pathlib import Path

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.report.comparison_report import write_comparison_report
from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.stored_results import StrPath


def write_report(
    result: Evaluation | Comparison,
    folder: StrPath,
    *,
    images: StrPath | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write the same files as ``meep-calib-eval`` or ``meep-calib-compare``.

    Args:
        result: an evaluation or a comparison.
        folder: created if missing; files with the same names in it are replaced once all new ones
            are complete.
        images: folder with ``CASE_0000<file_ending>`` for the slices of a comparison; None: slices
            without images.
        progress: show progress bars on stderr.

    Returns:
        The paths.

    Raises:
        InputError: an argument cannot be used.
        OSError: the folder cannot be written; old results are unchanged.

    Example:
        >>> import nnunet_meep as nm
        >>> evaluation = nm.evaluate("labelsTs", "predictions")
        >>> [path.name for path in nm.write_report(evaluation, "report")]
        ['calibration.json', 'calibration.csv', 'reliability.png', 'reliability.svg']
    """
    if isinstance(result, Comparison):
        of_images = None if images is None else Path(images)
        paths, _ = write_comparison_report(
            result, Path(folder), images=of_images, progress=progress
        )
        return paths
    if images is not None:
        raise InputError(f"images: expected none for an evaluation, got {images}")
    return write_evaluation_report(result, Path(folder))
