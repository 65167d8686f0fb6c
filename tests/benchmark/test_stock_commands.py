"""The quickstart with nnU-Net's real commands; and these, where it has planned, by themselves."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_quickstart import contents

from nnunet_meep.benchmark import quickstart
from nnunet_meep.benchmark.results import read_results
from nnunet_meep.cli.quickstart import main
from nnunet_meep.datasets import synthetic

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerMEEP_KL_lambda0p2_2epochs_2iters_seed1_fg0p9"
DATASET = "Dataset123_Tiny"
LENGTH = "_2epochs_2iters"


class Quickstart(NamedTuple):
    """What ``meep-quickstart`` has done.

    Attributes:
        code: its exit code.
        said: stdout and stderr.
        out: its working folder.
        names: the files in that folder, as it left them.
        unchanged: are its data, and the user's folders of nnU-Net, as they were?
    """

    code: int
    said: str
    out: Path
    names: set[str]
    unchanged: bool


@pytest.fixture(scope="module")
def real_quickstart(tmp_path_factory) -> Quickstart:
    """On scans of 16 x 16 x 16, with few iterations."""
    folder = tmp_path_factory.mktemp("quickstart")
    data, user, out = folder / "Dataset123_Tiny", folder / "user", folder / "meep_quickstart"
    synthetic.make_dataset(data, n_training=5, n_test=2, shape=(16, 16, 16))
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(folder)
        patch.setenv("nnUNet_def_n_proc", "1")  # each process of a pool takes seconds to start
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (user / name).mkdir(parents=True)
            (user / name / "mine").write_text(name)
            patch.setenv(name, str(user / name))
        patch.setattr(quickstart, "_LENGTH", LENGTH)
        before = contents(data), contents(user)
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        code = main(["--data", str(data), "-device", "cpu"])
        unchanged = (contents(data), contents(user)) == before
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    return Quickstart(code, said.getvalue(), out, names, unchanged)


@pytest.fixture
def folder(real_quickstart, tmp_path):
    """Its data, planned and preprocessed by ``nnUNetv2_plan_and_preprocess``."""
    for name in ("raw", "preprocessed"):
        shutil.copytree(real_quickstart.out / f"nnUNet_{name}", tmp_path / name)
    # A network that a CPU trains in no time.
    plans_file = tmp_path / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [4 for _ in architecture["features_per_stage"]]
    plans_file.write_text(json.dumps(plans))
    (tmp_path / "images").mkdir()
    for image in (tmp_path / "raw" / DATASET / "imagesTs").glob("*_01_0000.*"):
        image.rename(tmp_path / "images" / image.name.replace("LA_test_01", "new"))
    return tmp_path


def environment(folder, training, **others):
    """nnU-Net's three folders, and less work for small machines; none of our own variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNET_"))}
    return {
        **clean,
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_n_proc_DA": "0" if training else "1",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **others,
    }


def command(name, *arguments):
    return [str(Path(sys.executable).with_name(name)), *arguments]


def run(folder, name, *arguments, **others):
    result = subprocess.run(
        command(name, *arguments),
        env=environment(folder, training=name == "nnUNetv2_train", **others),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def train_until_killed(folder, arguments, line):
    """Start a training and kill it as soon as it prints ``line``."""
    with subprocess.Popen(
        command("nnUNetv2_train", *arguments),
        env=environment(folder, training=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        seen = []
        for printed in process.stdout:
            seen.append(printed)
            if printed.rstrip().endswith(line):
                process.kill()
                return
    pytest.fail("the training ended by itself:\n" + "".join(seen)[-3000:])


def test_the_real_commands(real_quickstart):
    code, said, out, names, unchanged = real_quickstart
    assert code == 0, said
    assert unchanged
    results = read_results(out / "report" / "results").trainings
    assert [r.trainer for r in results] == [
        f"nnUNetTrainer{name}{LENGTH}" for name in ("DiceCE", "MEEP_H_lambdaauto")
    ]
    for result in results:
        assert result.seed == 0
        test = result.evaluations["test"]
        assert [case.case for case in test.cases] == ["LA_test_01", "LA_test_02"]
        assert len(result.curves["loss"]) == 2
        assert result.cost["seconds_per_epoch"] > 0
    page = out / "report" / "data" / "report.html"
    assert f"Report: {page}" in said
    assert "DiceCE" in page.read_text()
    assert {"plan.toml", "steps", "logs", "report/results.csv.gz"} <= names


def test_the_stock_commands_train_resume_predict_and_hand_over_with_nothing_exported(folder):
    arguments = ("123", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")
    results = folder / "results" / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres" / "fold_0"

    train_until_killed(folder, arguments, "Epoch 1")
    assert (results / "checkpoint_latest.pth").is_file()
    assert not (results / "checkpoint_final.pth").exists()

    resumed = run(folder, "nnUNetv2_train", *arguments, "--c")
    assert "Epoch 0" not in resumed
    assert "Epoch 1" in resumed
    assert "Epoch 2" not in resumed
    # nnU-Net's own, and with pickled numpy numbers in it
    checkpoint = torch.load(results / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == TRAINER
    assert checkpoint["current_epoch"] == 2
    losses = checkpoint["logging"]["train_losses"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    debug = json.loads((results / "debug.json").read_text())
    assert debug["num_iterations_per_epoch"] == "2"
    assert debug["num_val_iterations_per_epoch"] == "5"
    assert "term=MEEP_KL" in debug["loss"]
    assert "weight=0.2" in debug["loss"]

    single = ("-device", "cpu", "--save_probabilities", "--disable_tta", "-npp", "0", "-nps", "0")
    images = str(folder / "images")
    ours = ("-d", "123", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER)
    run(folder, "nnUNetv2_predict", "-i", images, "-o", str(folder / "predicted"), *ours, *single)
    with np.load(folder / "predicted" / "new.npz") as file:
        probabilities = file["probabilities"]
    assert probabilities.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=1e-2)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(folder / "predicted" / "new.nii.gz"))
    assert labels.shape == (16, 16, 16)

    # Where nobody has our trainers.
    out = folder / "elsewhere" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    run(folder, "meep-export-model", str(results.parent), str(out))
    run(
        folder,
        "nnUNetv2_predict",
        *("-i", images, "-o", str(folder / "again"), "-d", DATASET, "-c", "3d_fullres", "-f", "0"),
        *single,
        NNUNET_MEEP_AUTOLOAD="0",
        nnUNet_results=str(folder / "elsewhere"),
    )
    with np.load(folder / "again" / "new.npz") as file:
        np.testing.assert_array_equal(file["probabilities"], probabilities)
