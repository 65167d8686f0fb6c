"""The results of a benchmark: evaluations, curves and costs of each training, stored compactly."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_meep.atomic import replacing_file
from nnunet_meep.benchmark.plans.plan import THEN
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.steps import TEST, VALIDATION
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.result_format import (
    in_current_format,
    malformed,
    nan_to_none,
    none_to_nan,
)
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.json_file import parse_json

if TYPE_CHECKING:
    import pandas

#: Version of the format of the stored results.
SCHEMA = 1
_DAMAGED = (
    *(OSError, EOFError, lzma.LZMAError),
    *(ValueError, LookupError, TypeError, AttributeError),
)
#: Types of the entries of a stored result, and of a curve in it.
_KINDS: dict[str, Any] = {
    **{"data": str, "trainer": str, "seed": (int, type(None)), "fold": int},
    **{"cost": dict, "versions": dict, "evaluations": dict},
    "temperature": (int, float, type(None)),
    "network": (str, type(None)),
}
#: What earlier versions did not keep.
_KEPT_SINCE = ("temperature", "network")
_CURVE = [(int, float, type(None))]
#: Digits that are kept of each number; tables show three.
_DIGITS, _FEW_DIGITS = 6, 4
#: Columns of :meth:`Results.rows`.
COLUMNS = (
    *("data", "trainer", "seed", "fold", "scans", "calibrator"),
    *("roi", "case", "class", "name", "metric", "value"),
)


@dataclass(frozen=True)
class TrainingResult:
    """What came out of one training.

    Attributes:
        data: the plan's name of the data set.
        trainer: its name without a seed.
        seed: None without one.
        fold: of the data set.
        evaluations: by part: ``validation``; ``test`` and ``test+METHOD`` if there are test scans.
        curves: what nnU-Net logged, by name: a number for each epoch.
        cost: ``seconds_per_epoch``, ``memory_mb``, ``gpu_memory_mb``, ``device``, as far as known.
        versions: of the packages that trained.
        temperature: that its validation scans ask for, 1 if none; None if none was fitted, and of
            regions, which have one each.
        network: nnU-Net's plans and configuration, ``nnUNetPlans__3d_fullres``; None if not kept.
    """

    data: str
    trainer: str
    seed: int | None
    fold: int
    evaluations: Mapping[str, Evaluation]
    curves: Mapping[str, list[float]] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None
    network: str | None = None

    @property
    def has_test_scans(self) -> bool:
        return TEST in self.evaluations

    @property
    def name(self) -> str:
        """The seed and the fold in words, to tell apart the trainings of one trainer."""
        seed = "" if self.seed is None else f"seed {self.seed}, "
        return f"{seed}fold {self.fold}"

    def models(self) -> dict[str, Evaluation]:
        """The evaluations that are compared, by the name of the model.

        Those of the test scans, with each calibration after the trainer; or of the validation
        scans, if there are no test scans.
        """
        if not self.has_test_scans:
            return {self.trainer: self.evaluations[VALIDATION]}
        return {
            self.trainer + part.removeprefix(TEST).replace("+", THEN): evaluation
            for part, evaluation in self.evaluations.items()
            if part != VALIDATION
        }


@dataclass(frozen=True)
class Results:
    """The results of the trainings of a benchmark, in the order of its plan.

    Example:
        >>> from nnunet_meep.benchmark.results import Results
        >>> Results(()).to_dataframe().columns[-2:].tolist()
        ['metric', 'value']
    """

    trainings: tuple[TrainingResult, ...]

    def of(self, data: str) -> list[TrainingResult]:
        """Those on one data set."""
        return [training for training in self.trainings if training.data == data]

    def rows(self) -> Iterator[list[Any]]:
        """A row for each training, part, ROI, case, class and metric; see ``COLUMNS``."""
        for t in self.trainings:
            for part, evaluation in t.evaluations.items():
                scans, _, method = part.partition("+")
                seed = "" if t.seed is None else t.seed
                start = [t.data, t.trainer, seed, t.fold, scans, method]
                for case, roi, key, name, *values in evaluation.rows():
                    for metric, value in zip(evaluation.columns[4:], values, strict=True):
                        yield [*start, roi, case, key, name, metric, value]

    def to_dataframe(self) -> pandas.DataFrame:
        """:meth:`rows` with ``COLUMNS``, as in ``results.csv.gz``."""
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=list(COLUMNS))


def write_result(result: TrainingResult, folder: Path, folders: Folders) -> Path:
    """Write the result of a training into ``folder``, without anything that names the machine.

    Returns:
        Its path, ``DATA/TRAINER_seedS_fold_F.json.xz``.
    """
    seed = "" if result.seed is None else f"_seed{result.seed}"
    path = folder / result.data / f"{result.trainer}{seed}_fold_{result.fold}.json.xz"
    content = {
        "schema": SCHEMA,
        **{name: getattr(result, name) for name in ("data", "trainer", "seed", "fold")},
        **{name: dict(getattr(result, name)) for name in ("curves", "cost", "versions")},
        "temperature": result.temperature,
        "network": result.network,
        "evaluations": {part: _compact(e, folders) for part, e in result.evaluations.items()},
    }
    text = json.dumps(nan_to_none(_rounded(content)), separators=(",", ":"), allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode(), preset=9))
    return path


def read_result(path: Path, folders: Folders | None = None) -> TrainingResult:
    """Read what :func:`write_result` wrote.

    Args:
        folders: where the files that were evaluated are now; None: nowhere.

    Raises:
        InputError: it is something else, or damaged.
    """
    try:
        content = parse_json(lzma.decompress(path.read_bytes()))
        if content["schema"] != SCHEMA:
            raise InputError(f"expected schema {SCHEMA}, got {content['schema']}")
        content = {**dict.fromkeys(_KEPT_SINCE), **content}
        if malformed(content, {**_KINDS, "curves": dict.fromkeys(content["curves"], _CURVE)}, ""):
            raise ValueError
        content["curves"] = none_to_nan(content["curves"])
        evaluations = {
            part: replace(
                Evaluation.from_dict(_located(in_current_format(entry), folders)),
                written=str(entry["written"]),
            )
            for part, entry in content["evaluations"].items()
        }
        names = ("data", "trainer", "seed", "fold", "curves", "cost", "versions", *_KEPT_SINCE)
        result = TrainingResult(evaluations=evaluations, **{name: content[name] for name in names})
        if VALIDATION not in evaluations and TEST not in evaluations:
            raise KeyError(TEST)
        return result
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGED:
        raise InputError(
            f"{path}: expected the result of a training from meep-benchmark, found something else"
        ) from None


def read_results(folder: Path, folders: Folders | None = None) -> Results:
    """All results in a folder, sorted by name.

    Raises:
        InputError: there are none, one cannot be read, or those of a data set are of different
            networks.
    """
    paths = sorted(folder.glob("*/*.json.xz"))
    if not paths:
        raise InputError(f"{folder}: expected results of meep-benchmark, found none")
    results = [read_result(path, folders) for path in paths]
    first: dict[str, tuple[Path, str]] = {}
    for path, result in zip(paths, results, strict=True):
        if result.network is None:
            continue
        other, network = first.setdefault(result.data, (path, result.network))
        if network != result.network:  # the plan was changed, and not all is trained again yet
            raise InputError(
                f"{path}: expected a result of {network}, as {other.name}, got one of "
                f"{result.network}; remove the results of one of both networks"
            )
    return Results(tuple(results))


def in_order(results: Iterable[TrainingResult], order: Iterable[str]) -> Results:
    """Results in the order of a plan's trainings, given by their keys."""
    place = {key: i for i, key in enumerate(order)}

    def key(result: TrainingResult) -> str:
        return f"{result.data}/{result.trainer}/{result.seed}/{result.fold}"

    return Results(tuple(sorted(results, key=lambda r: place.get(key(r), len(place)))))


def _compact(evaluation: Evaluation, folders: Folders) -> dict[str, Any]:
    """The content of ``calibration.json`` without what follows from the rest."""
    content = evaluation.to_dict()
    for part in (content, *content["by_roi"].values()):
        top_label = part["top_label"] or {}
        for entry in (*part["classes"].values(), top_label, top_label.get("classwise_ece", {})):
            for name in ("per_case", "ranking"):
                entry.pop(name, None)
    for part in (content, *content["by_roi"].values()):
        for case in part["cases"]:  # these are for pictures: few digits will do
            case["bins"] = _rounded(case["bins"], _FEW_DIGITS)
    settings = {name: _placed(value, folders) for name, value in content["settings"].items()}
    content["settings"] = settings
    content["written"] = evaluation.written
    renamed = {roi: name for roi in settings["rois"] if (name := _without_folder(roi)) != roi}
    if renamed:
        settings["rois"] = [renamed.get(roi, roi) for roi in settings["rois"]]
        content["by_roi"] = {renamed.get(r, r): of_roi for r, of_roi in content["by_roi"].items()}
        files = content["files"]["cases"].items()
        renamed_files = {case: {renamed.get(k, k): v for k, v in f.items()} for case, f in files}
        content["files"] = {**content["files"], "cases": renamed_files}
    return content


def _without_folder(roi: str) -> str:
    """``mask:/data/masks`` as ``mask:masks``."""
    kind, _, folder = roi.partition(":")
    return f"{kind}:{Path(folder).name}" if kind == "mask" else roi


def _placed(value: Any, folders: Folders) -> Any:
    """A setting with placeholders in place of folders; a path elsewhere keeps only its name."""
    if isinstance(value, list):
        return [_placed(v, folders) for v in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    placed = folders.place(value)
    return placed if placed != value else Path(value).name


def _located(content: dict[str, Any], folders: Folders | None) -> dict[str, Any]:
    if folders is None:
        return content

    def located(value: Any) -> Any:
        if isinstance(value, list):
            return [located(v) for v in value]
        return folders.fill(value) if isinstance(value, str) else value

    return {**content, "settings": {k: located(v) for k, v in content["settings"].items()}}


def _rounded(value: Any, digits: int = _DIGITS) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v, digits) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(np.format_float_positional(value, digits, fractional=False))
    return value
