"""What is fed with damaged and odd input: each draws its input, and raises unless all is well."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random as Draw
from tempfile import TemporaryDirectory

import mutations
import numpy as np
import plain
from folders import Predictions, predictions

import nnunet_meep as nm
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.evaluation.report import comparison_tables
from nnunet_meep.evaluation.stored_results import write_evaluation
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.fit import fit
from nnunet_meep.posthoc.fit_derived import Goal, fit_derived

Mutation = Callable[[Draw, bytes], bytes]

_NPZ = (mutations.damaged, mutations.zip_structure, mutations.deflate_stream, mutations.npy_header)
_JSON = (mutations.damaged, mutations.json_value, mutations.json_value, mutations.json_text)
_NIFTI = (mutations.damaged, mutations.nifti_header, mutations.gzip_trailer)


def odd_predictions(draw: Draw, folder: Path) -> None:
    """Right folders have to be accepted."""
    given = predictions(draw)
    given.write(folder)
    try:
        _evaluate(given, folder)
    except nm.InputError as error:
        raise AssertionError(f"refused: {error}") from None


def damaged_predictions(draw: Draw, folder: Path) -> None:
    given = predictions(draw)
    given.write(folder)
    _damage(draw, folder / draw.choice(sorted(given.files)))
    _evaluate(given, folder)


def _evaluate(given: Predictions, folder: Path) -> None:
    evaluation = nm.evaluate(folder / "gt", folder / "pred", surface=False)
    (case,) = evaluation.cases
    found = case.rois["image"].classes
    right = plain.metrics(folder, given.case, given.file_ending)
    assert list(found) == list(right), (list(found), list(right))
    for key, metrics in right.items():
        for metric, value in metrics.items():
            same = math.isclose(found[key][metric], value, rel_tol=1e-5, abs_tol=1e-7)
            both_undefined = math.isnan(value) and math.isnan(found[key][metric])
            assert same or both_undefined, (key, metric, found[key][metric], value)


def _damage(draw: Draw, path: Path) -> None:
    content = path.read_bytes()
    mutation = draw.choice(
        _JSON
        if path.suffix == ".json"
        else _NPZ
        if path.suffix == ".npz"
        else _NIFTI
        if path.name.endswith(".nii.gz")
        else (mutations.damaged,)
    )
    path.write_bytes(mutation(draw, content))


#: What one case is enough for.
GOALS = (Goal("volume", 0.5), Goal("threshold", None), Goal("threshold", 0.6))


def damaged_before_calibration(draw: Draw, folder: Path) -> None:
    """A calibrator is fitted to a right folder and applied to it; one file is damaged between."""
    given = predictions(draw)
    given.write(folder)
    calibrator, output = folder / "calibrator.json", folder / "output"
    gt, pred = folder / "gt", folder / "pred"
    try:
        fit(draw.choice(("platt", "isotonic", "temperature")), gt, pred).calibrator.save(calibrator)
        if goal := draw.choice((None, *GOALS)):
            fit_derived(goal, gt, pred, after=calibrator).calibrator.save(calibrator)
    except nm.InputError:  # nothing to learn from a few voxels
        if not calibrator.exists():
            calibrator.write_text("{}")
    _damage(draw, draw.choice([calibrator, *(folder / f for f in given.files if f[:4] == "pred")]))
    try:
        apply(calibrator, folder / "pred", output)
    except nm.InputError:
        assert not [f for f in output.glob("*") if f.suffix == ".npz" or f.name.startswith(".")]
        raise
    (found,) = output.glob("*.npz")
    p = np.load(found, allow_pickle=False)["probabilities"]
    assert p.dtype == np.float32
    assert p.min() >= 0
    assert p.max() <= 1
    n_channels = len(p)
    if "regions_class_order" not in json.loads((folder / "pred/dataset.json").read_bytes()):
        assert n_channels > 1
        assert np.abs(p.sum(axis=0) - 1).max() < 1e-3


def damaged_evaluation(draw: Draw, folder: Path) -> None:
    """``calibration.json``, damaged, is compared with itself."""
    content = draw.choice(_stored())
    result = folder / "calibration.json"
    result.write_bytes(content)
    _damage(draw, result)
    evaluation = nm.read_evaluation(result)
    comparison = nm.compare({"a": evaluation, "b": evaluation})
    for write in (comparison_tables.terminal, comparison_tables.markdown, comparison_tables.latex):
        assert write(comparison)


@cache
def _stored() -> tuple[bytes, ...]:
    """Some evaluations of right folders."""
    found = []
    for number in range(6):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            predictions(Draw(number)).write(root)
            lesions = 0 if number % 3 == 0 else None
            evaluation = nm.evaluate(
                root / "gt", root / "pred", surface=number % 2 == 0, lesions=lesions
            )
            write_evaluation(evaluation, root / "calibration.json", root)
            found.append((root / "calibration.json").read_bytes())
    return tuple(found)


def damaged_plan(draw: Draw, folder: Path) -> None:
    plan = folder / "plan.toml"
    plan.write_bytes(draw.choice((mutations.damaged, mutations.toml_text))(draw, PLAN))
    read_plan(plan)


PLAN = b"""\
[data.la]
dataset = "Dataset501_LA"
folds = [0, 1]
convert = "meep-convert-la {source} -d 501"

[data.la.network]
plans = "nnUNetPlansSmall"
patch_size = [32, 64, 80]
batch_size = 2
features_per_stage = [8, 16, 32]

[[training]]
data = "la"
trainers = ["nnUNetTrainer", "nnUNetTrainerMEEP_KL_lambda{0p1,0p3}"]
seeds = [0, 1]
select = {over = "lambda", by = "validation ece", not_worse = "dice"}

[[training]]
trainers = ["nnUNetTrainerMEEP_H_lambdaauto_2epochs_5iters"]

[calibrate]
methods = ["temperature", "isotonic"]

[evaluate]
roi = ["image", "boundary:5"]
bins = 15

[[compare]]
reference = "nnUNetTrainer + temperature"
"""

#: The first half of the inputs goes where most of the reading is.
TARGETS = (
    *(damaged_predictions,) * 8,
    *(odd_predictions,) * 2,
    *(damaged_before_calibration,) * 2,
    *(damaged_evaluation,) * 2,
    *(damaged_plan,) * 2,
)
