"""What a comparison is about: data set, models, cases, dates, versions, folders, settings."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from nnunet_meep import __version__
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.volume_coverage import coverage_lines

#: Titles name at most this many models.
_MOST_NAMED = 3
#: Settings that :func:`provenance` lists as folders.
_FOLDERS = ("gt_folder", "pred_folder")
#: How the page calls the settings.
_WORDS = {
    "rois": "voxels",
    "bins": "bins of reliability and ECE",
    "segmentation": "Dice, distances and volumes are of",
    "surface": "surface distances",
    "tolerance_mm": "tolerance of the NSD, mm",
    "lesions": "lesions (--lesions), at least mm^3 (2D: mm^2)",
    "cases": "chosen cases (--cases)",
    "chill": "cases that cannot be evaluated",
    "reader": "image reader",
    "dataset_json": "dataset.json",
    "plans_json": "plans.json",
    "bootstrap": "intervals over cases",
    "bootstrap_resamples": "resamples of the bootstrap",
    "bootstrap_seed": "seed of the bootstrap",
    "nll_clip": "smallest p in the NLL",
    "version": "evaluated with nnunet-meep",
}
#: How it says some of their values.
_SAID = {
    ("cases", "null"): "all",
    ("chill", "true"): "are left out",
    ("chill", "false"): "are an error",
    ("segmentation", "file"): "the segmentation files",
    ("segmentation", "argmax"): "the argmax of the probabilities",
    ("bootstrap", "BCa"): "BCa bootstrap",
}
_SAID_OF_ANY = {"null": "-", "true": "yes", "false": "no"}


def page_title(comparison: Comparison) -> str:
    """The models and the data set, as far as it is known."""
    models = comparison.models
    named = counted(len(models), "model")
    if len(models) <= _MOST_NAMED:
        named = " and ".join(filter(None, [", ".join(models[:-1]), models[-1]]))
    on = " and ".join(_datasets(comparison))
    return f"Calibration of {named}" + f" on {on}" * bool(on)


def provenance(comparison: Comparison) -> dict[str, Any]:
    """``facts``, pairs of a name and a text; ``models`` in words; ``folders`` as pairs."""
    trainings = [t for ts in comparison.evaluations.values() for t in ts]
    days = sorted({t.written[:10] for t in trainings if t.written})
    evaluated = "" if not days else f"; evaluated {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    versions = _distinct(t.settings["version"] for t in trainings)
    return {
        "facts": [
            ("Data set", ", ".join(_datasets(comparison)) or "not named in the results"),
            ("Cases", f"{len(comparison.cases)}, {describe(comparison.roi)}"),
            ("Trainings", _counted_once(trainings)),
            ("Date", f"compared {datetime.date.today().isoformat()}{evaluated}"),
            ("Versions", f"nnunet-meep {__version__}, evaluated with {', '.join(versions)}"),
            *_coverage(comparison),
        ],
        "models": [
            "; ".join([counted(len(ts), "training"), *_networks(ts)])
            for ts in comparison.evaluations.values()
        ],
        "folders": [
            ("references", text) for text in _distinct(t.sources.gt_folder for t in trainings)
        ]
        + [
            (model, str(folder))
            for model, ts in comparison.evaluations.items()
            for t in ts
            for folder in t.sources.pred_folders
        ],
    }


def _counted_once(trainings: Sequence[Evaluation]) -> str:
    """The number of trainings: several calibrations of one, and the one without, are one."""
    seen: set[tuple[str, str]] = set()
    n = 0
    for t in trainings:
        made = {(case, f.get("uncalibrated", f["probabilities"])) for case, f in t.files.items()}
        n += not seen & made
        seen |= made
    return str(n) if n == len(trainings) else f"{n}; rows with a calibration are of the same ones"


def _coverage(comparison: Comparison) -> list[tuple[str, str]]:
    """How many volumes the intervals of calibrators contain, if there are any."""
    lines = [
        f"{model}: {line.removeprefix('Volume intervals ')}"
        for model, trainings in comparison.evaluations.items()
        for training in trainings
        for line in coverage_lines(training)
    ]
    return [("Volume intervals", "; ".join(lines))] * bool(lines)


def training_names(trainings: Sequence[Evaluation]) -> list[str]:
    """What tells trainings of a model apart: seeds and folds, or else parts of their folders."""
    parts = [[p for f in t.sources.pred_folders for p in f.parts] for t in trainings]
    common = set(parts[0]).intersection(*parts[1:])
    names = ["/".join(p for p in of_one if p not in common) for of_one in parts]
    of_numbers = [re.findall(r"_?(seed|fold)_?(\d+)", name) for name in names]
    in_words = [", ".join(" ".join(pair) for pair in pairs) for pairs in of_numbers]
    if len(set(in_words)) == len(in_words) and all(in_words):
        return in_words
    if len(set(names)) < len(names) or not all(names):
        return [f"training {i}" for i in range(1, len(trainings) + 1)]
    return names


def settings_tables(comparison: Comparison) -> dict[str, Any]:
    """Settings that are the same for all trainings, and a table of those that differ, in words.

    Folders are not among them.

    Returns:
        ``same``, pairs of a name and a text; ``head`` and ``rows`` (model, training, texts).
    """
    trainings = [
        (model, name, {"evaluated cases": len(t.cases), **t.settings})
        for model, ts in comparison.evaluations.items()
        for name, t in zip(training_names(ts), ts, strict=True)
    ]
    every = dict.fromkeys(name for *_, settings in trainings for name in settings)
    names = [name for name in every if name not in _FOLDERS]
    texts = {
        name: [_text(name, settings.get(name)) for *_, settings in trainings] for name in names
    }
    differ = [name for name in names if len(set(texts[name])) > 1]
    return {
        "same": [(_WORDS.get(n, n), texts[n][0]) for n in names if n not in differ],
        "head": [_WORDS.get(name, name) for name in differ],
        "rows": [
            (model, training, [texts[name][i] for name in differ])
            for i, (model, training, _) in enumerate(trainings)
        ]
        * bool(differ),
    }


def _text(name: str, setting: Any) -> str:
    if isinstance(setting, list):
        return ", ".join(describe(roi) if name == "rois" else str(roi) for roi in setting)
    text = json.dumps(setting).strip('"')
    return _SAID.get((name, text), _SAID_OF_ANY.get(text, text))


def _datasets(comparison: Comparison) -> list[str]:
    """Names of the data sets: of the network, or else in the path of references or predictions."""
    found = []
    for trainings in comparison.evaluations.values():
        for t in trainings:
            paths = " ".join(map(str, (t.sources.gt_folder, *t.sources.pred_folders)))
            in_path = re.search(r"\bDataset\d{3}_\w+", paths)
            found.append(t.network.dataset or (in_path[0] if in_path else None))
    return _distinct(found)


def _networks(trainings: Sequence[Evaluation]) -> list[str]:
    """Trainers (of the network, or else in the path of the predictions) and configurations.

    Trainers that differ only in their seed are named once.
    """
    trainers = []
    for t in trainings:
        paths = " ".join(map(str, t.sources.pred_folders))
        in_path = re.search(r"\bnnUNetTrainer\w*?(?=__|\b)", paths)
        name = t.network.trainer or (in_path[0] if in_path else "")
        trainers.append(re.sub(r"_seed\d+", "", name))
    names = [_distinct(trainers), _distinct(t.network.configuration for t in trainings)]
    return [", ".join(texts) for texts in names if texts]


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))
