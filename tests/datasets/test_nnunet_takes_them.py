"""Real scans, converted, through nnU-Net's own planning, preprocessing and a few iterations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.experiment_planning import verify_dataset_integrity as verify
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_meep import trainers
from nnunet_meep.cli import convert_folder, convert_la, convert_wmh
from nnunet_meep.datasets.left_atrium import TEST_CASES, TRAINING_CASES
from nnunet_meep.datasets.wmh import PUBLISHED

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[3] / "shared" / "data"


def need(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data are not here: {DATA / name}")
    return DATA / name


def few_left_atria(source: Path) -> list[str]:
    real = need("la")
    for case in (*TRAINING_CASES[:2], TEST_CASES[0]):
        part = "Tr" if case in TRAINING_CASES else "Ts"
        for name in (f"images{part}/LA_{case}_0000.nii.gz", f"labels{part}/LA_{case}.nii.gz"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(real / name, source / name)
    return ["la"]


def flair_as_released(source: Path) -> list[str]:
    """Real FLAIR and T1 of another data set, laid out as the challenge lays out its folders."""
    real = need("wmh_flair")
    cases = sorted(path.name[:-12] for path in (real / "imagesTr").glob("*_0001.nii.gz"))
    places = {"Utrecht": "Utrecht", "GE3T": "Amsterdam/GE3T"}
    for case, (site, place) in zip(cases, places.items(), strict=False):
        folder = source / "training" / place / str(PUBLISHED[site][0])
        (folder / "pre").mkdir(parents=True)
        for channel, name in (("0000", "FLAIR"), ("0001", "T1")):
            shutil.copyfile(
                real / "imagesTr" / f"{case}_{channel}.nii.gz", folder / "pre" / f"{name}.nii.gz"
            )
        shutil.copyfile(real / "labelsTr" / f"{case}.nii.gz", folder / "wmh.nii.gz")
    return ["wmh"]


def few_hippocampi(source: Path) -> None:
    real = need("hippocampus")
    for path in sorted((real / "labelsTr").iterdir())[:5]:
        case = path.name.removesuffix(".nii.gz")
        for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(real / name, source / name)


def train(dataset: Path, plans: dict) -> None:
    """As nnUNetv2_train does, without the validation at the end, which takes a minute."""
    trainer = trainers.nnUNetTrainerMEEP_KL_1epochs_3iters(
        {**plans, "continue_training": False},
        "3d_fullres",
        "all",
        json.loads((dataset / "dataset.json").read_text()),
        torch.device("cpu"),
    )
    trainer.disable_checkpointing = True
    trainer.run_training()


#: nnUNetv2_plan_and_preprocess with threads: each of its three pools of processes would load
#: nnU-Net once more, which takes longer than all else here.
PLAN_AND_PREPROCESS = """
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
import multiprocessing
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry
multiprocessing.get_context = lambda _: SimpleNamespace(Pool=ThreadPool)
plan_and_preprocess_entry()
"""


def plan_and_preprocess(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PLAN_AND_PREPROCESS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("make", [few_left_atria, flair_as_released])
def test_plan_preprocess_and_train(
    make, tmp_path, monkeypatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    for name in ("nnUNet_n_proc_DA", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    which, *flags = make(tmp_path / "source")
    command = {"la": convert_la, "wmh": convert_wmh}[which]
    assert command.main([str(tmp_path / "source"), "-d", "777", *flags]) == 0
    # Too few for the splits: said, and not written.
    assert "no splits_final.json" in capfd.readouterr().err
    one = ("-np", "1", "-npfp", "1", "-c", "3d_fullres")
    coarse = ("-overwrite_target_spacing", "5", "5", "5")
    said = plan_and_preprocess(
        *("-d", "777", "--verify_dataset_integrity", "-gpu_memory_target", "1", *one, *coarse),
    )
    assert "verify_dataset_integrity Done" in said
    said = said.split("verify_dataset_integrity Done")[0].replace("any error messages", "")
    for word in ("warning", "error", "mismatch"):
        assert word not in said.lower()
    (dataset,) = (tmp_path / "nnUNet_preprocessed").iterdir()
    plans = json.loads((dataset / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    # Small enough for a test.
    configuration["batch_size"] = 2
    architecture = configuration["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [4] * architecture["n_stages"]
    (dataset / "nnUNetPlans.json").write_text(json.dumps(plans))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # with which nnU-Net's planner does not run
    capfd.readouterr()
    train(dataset, plans)
    said = capfd.readouterr().out
    assert "segmentation_loss" in said
    assert "misclassified" in said


def test_folds_with_test_scans_of_their_own(tmp_path, monkeypatch, capsys) -> None:
    """Five scans in three folds, with labels that have to be numbered anew."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    few_hippocampi(tmp_path / "source")
    labels = ["--name", "Posterior", "--labels", "Posterior=2", "--ignore", "1"]
    arguments = ["-d", "777", *labels, "--folds", "3", "--validation", "1"]
    assert convert_folder.main([str(tmp_path / "source"), *arguments]) == 0
    (raw,) = (tmp_path / "raw").iterdir()
    # In a thread: a process of its own loads nnU-Net once more.
    threads = SimpleNamespace(Pool=ThreadPool)
    monkeypatch.setattr(verify.multiprocessing, "get_context", lambda _: threads)
    capsys.readouterr()
    verify.verify_dataset_integrity(str(raw), 1)
    said = capsys.readouterr().out
    assert "verify_dataset_integrity Done" in said
    assert "warning" not in said.lower()
    (folder,) = {path.parent for path in tmp_path.rglob("splits_final.json")}
    fake = SimpleNamespace(
        fold=1,
        preprocessed_dataset_folder_base=str(folder),
        preprocessed_dataset_folder="",
        folder_with_segs_from_previous_stage=None,
        dataset_class=lambda *_, **__: None,
        print_to_log_file=lambda *_: None,
    )
    training, validation = nnUNetTrainer.do_split(fake)
    assert (len(training), len(validation)) == (2, 1)  # two of the five are for testing
