"""Benchmarks whose commands need not run: the files that they leave are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from predictions import LABELS, PredictionFolder

import nnunet_meep as nm
from nnunet_meep.benchmark.running.inputs import look_at
from nnunet_meep.benchmark.running.records import DONE, Record, new_identity
from nnunet_meep.benchmark.running.state import State, words
from nnunet_meep.evaluation.result_format import nan_to_none
from nnunet_meep.evaluation.results import Evaluation

DATASET = "Dataset004_Hippocampus"
TRAINERS = ("nnUNetTrainerDiceCE_2epochs", "nnUNetTrainerMEEP_H_lambda0p1_2epochs")
PLAN = f"""\
[data.hip]
dataset = "{DATASET}"

[[training]]
trainers = {json.dumps(TRAINERS)}
seeds = [0, 1]

[calibrate]
methods = ["temperature"]
"""


def raw_data(raw: Path, *, n_training: int = 10, n_test: int = 3) -> Path:
    """A data set of which only the names of the files matter."""
    folder = raw / DATASET
    for part, case, n in (("Tr", "c", n_training), ("Ts", "t", n_test)):
        for i in range(n):
            for name in (f"images{part}/{case}{i}_0000.nii.gz", f"labels{part}/{case}{i}.nii.gz"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
    (folder / "dataset.json").write_text(
        json.dumps({"file_ending": ".nii.gz", "channel_names": {"0": "MRI"}})
    )
    return folder


def prepared(work: Path, *, n_test: int = 3) -> None:
    """nnU-Net's folders inside ``work``, with a data set planned, preprocessed and split."""
    raw_data(work / "nnUNet_raw", n_test=n_test)
    folder = work / "nnUNet_preprocessed" / DATASET
    data = folder / "nnUNetPlans_3d_fullres"
    data.mkdir(parents=True)
    cases = [f"c{i}" for i in range(10)]
    for path in (folder / "dataset_fingerprint.json", *(data / f"{case}.pkl" for case in cases)):
        path.touch()
    configurations = {"3d_fullres": {"data_identifier": data.name}}
    (folder / "nnUNetPlans.json").write_text(json.dumps({"configurations": configurations}))
    folds = [
        {"train": [c for c in cases if c not in val], "val": val}
        for val in ([f"c{2 * i}", f"c{2 * i + 1}"] for i in range(5))
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))


@cache
def evaluation(cases: tuple[str, ...], sharpness: float, seed: int = 0) -> Evaluation:
    """Of scans with the two parts of a hippocampus, overconfident if ``sharpness`` is over 1."""
    with TemporaryDirectory() as root:
        folder = PredictionFolder(Path(root), LABELS)
        for i, case in enumerate(cases):
            rng = np.random.default_rng(i)  # the same reference whatever predicts it
            logits = rng.normal(size=(3, 4, 5, 6))
            p = np.exp(logits) / np.exp(logits).sum(0)
            reference = (rng.random(p.shape[1:]) > p.cumsum(0)[:2]).sum(0).astype(np.uint8)
            noise = np.random.default_rng([i, seed]).normal(size=p.shape)
            sharp = np.exp(sharpness * (logits + 0.1 * noise))
            folder.add(case, (sharp / sharp.sum(0)).astype(np.float32), reference)
        return nm.evaluate(folder.gt, folder.pred)


def finish(state: State, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Leave behind what steps leave that ended well, those of which ``wanted`` says so."""
    for step in list(state.steps.values()):
        if not wanted(step.key) or state.is_done(step):
            continue
        cases = ("c0", "c1") if step.key.endswith("validation") else ("t0", "t1", "t2")
        sharpness = 3.0 - ("MEEP" in step.key) - 0.9 * ("+" in step.key)
        for text in step.outputs:
            path = state.folders.path(text)
            path.parent.mkdir(parents=True, exist_ok=True)
            content: Any = "made up"
            if path.name == "calibration.json":
                made = evaluation(cases, sharpness, "seed1" in step.key)
                content = nan_to_none(made.to_dict())
            if not path.exists():
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        needs, sizes = state.identities(step), state.sizes(step)
        read, fold = look_at(step.inputs, state.folders), dict(step.fold)
        command = list(words(step))
        record = Record(DONE, new_identity(), command, needs, sizes, read, fold, seconds=60.0)
        state.records.write(step.key, record)
