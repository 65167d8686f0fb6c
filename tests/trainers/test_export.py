"""``meep-export-model``: the same model under nnU-Net's own trainer, and what is refused."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_meep import trainers
from nnunet_meep.cli.export_model import main
from nnunet_meep.trainers import export
from nnunet_meep.trainers.export import export_model, nnunets_trainer
from nnunet_meep.trainers.logs import read_log
from nnunet_meep.trainers.progress import KEYS

TRAINER = "nnUNetTrainerDiceMEEP_KL_lambda0p2_5epochs"
MODEL = f"{TRAINER}__nnUNetPlans__3d_fullres"
CHECKPOINTS = [
    f"fold_{fold}/checkpoint_{name}.pth" for fold in (0, 1) for name in ("best", "final")
]
#: What a training leaves beside them, and nnU-Net's search for the best configuration.
COPIED = [
    "dataset.json",
    "plans.json",
    "dataset_fingerprint.json",
    "fold_0/progress.png",
    "fold_0/network_architecture.pdf",
    "fold_0/validation/summary.json",
    "crossval_results_folds_0_1/summary.json",
    "crossval_results_folds_0_1/postprocessing.json",
    "crossval_results_folds_0_1/postprocessing.pkl",
]
LEFT = [
    "fold_0/debug.json",
    "fold_0/training_log_2026_1_1_00_00_00.txt",
    "fold_0/validation/case_1.nii.gz",
    "fold_0/validation/case_1.npz",
    "fold_0/validation/case_1.pkl",
    "crossval_results_folds_0_1/case_1.nii.gz",
    "fold_0/wandb/run",
]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trainer(build, tmp_path):
    """As at the end of a training, on a GPU; only that it took one step, and one epoch."""
    data = tmp_path / "preprocessed" / "Dataset999_Tiny" / "nnUNetPlans_3d"
    data.mkdir(parents=True)
    (data / "case_1.b2nd").touch()  # nnU-Net reads the format of the data off the names
    trainer = build(getattr(trainers, TRAINER))
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    torch.manual_seed(0)
    for parameter in trainer.network.parameters():
        parameter.grad = torch.randn_like(parameter)
    trainer.optimizer.step()
    for key in set(trainer.logger.local_logger.my_fantastic_logging) - {"ema_fg_dice"}:
        value = [np.float64(0.5), np.float32(0.25)] if "per_class" in key else np.float32(0.75)
        trainer.logger.log(key, 0.125 if key in KEYS else value, 0)
    trainer._best_ema = np.float64(0.5)
    trainer.my_init_kwargs["device"] = torch.device("cuda")
    return trainer


@pytest.fixture
def model(trainer, tmp_path):
    """The folder that it leaves, with a second fold; all other files are there."""
    folder = Path(trainer.output_folder_base)
    assert folder == tmp_path / "results" / "Dataset999_Tiny" / MODEL
    for name in CHECKPOINTS:
        (folder / name).parent.mkdir(exist_ok=True)
        trainer.save_checkpoint(str(folder / name))
        with torch.no_grad():  # each has other weights
            for parameter in trainer.network.parameters():
                parameter += 0.01
    for name in [*COPIED, *LEFT]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "bomb")) + name.encode())
    plans = trainer.plans_manager.plans
    # More than one voxel is left at the lowest resolution: instance normalisation needs two.
    plans["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    yield folder
    assert not (tmp_path / "bomb").exists()


def files(folder):
    """{relative path: content} of all files, and None for folders; without Python's own."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def change(model, **values):
    """Other values in all checkpoints of a model."""
    for name in CHECKPOINTS:
        torch.save({**load(model / name), **values}, model / name)


def assert_same(first, second):
    """To the last bit and the last type, in the same order."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        assert_same(list(first.values()), list(second.values()))
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def logits(folder, folds, image):
    """What nnU-Net predicts with a model's folder."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    return predictor.predict_logits_from_preprocessed_data(image)


# The copy


def test_in_a_checkpoint_nothing_changes_but_the_trainers_name_and_our_log(model, tmp_path):
    export_model(model, tmp_path / "out")
    weights = set()
    for name in CHECKPOINTS:
        expected = load(model / name)
        assert expected["trainer_name"] == TRAINER
        expected["trainer_name"] = "nnUNetTrainer"
        for key in KEYS:
            del expected["logging"][key]
        copied = load(tmp_path / "out" / name)
        assert_same(copied, expected)
        assert copied["optimizer_state"]["state"]
        weights.add(float(next(iter(copied["network_weights"].values())).sum()))
    assert len(weights) == len(CHECKPOINTS)


def test_all_other_files_that_nnunet_exports_are_copied_as_they_are_and_no_more(model, tmp_path):
    before = files(model)
    export_model(model, tmp_path / "out")
    assert files(model) == before
    written = {name: content for name, content in files(tmp_path / "out").items() if content}
    assert set(written) == {*COPIED, *CHECKPOINTS}
    for name in COPIED:
        assert written[name] == before[name]
    assert sorted(tmp_path.iterdir()) == [tmp_path / n for n in ("out", "preprocessed", "results")]


def test_without_files_that_not_every_model_has(model, tmp_path):
    for name in COPIED[2:]:
        (model / name).unlink()
    export_model(model, tmp_path / "out")
    assert {n for n, c in files(tmp_path / "out").items() if c} == {*COPIED[:2], *CHECKPOINTS}


def test_a_fold_of_all_cases_is_taken_and_a_folder_that_is_no_fold_is_not(model, tmp_path):
    (model / "fold_1").rename(model / "fold_all")
    shutil.copytree(model / "fold_0", model / "fold_0_old")
    done = export_model(model, tmp_path / "out")
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {"fold_0", "fold_all", "crossval_results_folds_0_1"}
    assert done.folds == ["0", "all"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nnUNetTrainerMEEP_KL_1epochs_2iters", "labels"),
        ("nnUNetTrainerFocalCP_1epochs_2iters_seed1_paper_fg0p5", "regions+ignore"),
    ],
)
def test_what_a_training_leaves_holds_nothing_that_is_refused(balls, tmp_path, name, kind):
    trainer = balls(kind).trainer(name)
    trainer.run_training()
    done = export_model(Path(trainer.output_folder_base), tmp_path / "out")
    assert (done.dataset, done.folds) == ("Dataset901_Balls", ["0"])
    assert (done.checkpoint, done.n_checkpoints) == ("checkpoint_final.pth", 2)
    copied = load(tmp_path / "out/fold_0/checkpoint_final.pth")
    assert_same(copied["network_weights"], trainer.network.state_dict())
    # Its log is safe to read as well, with ours and, from the copy, without.
    logs = [
        read_log(folder / "fold_0/checkpoint_final.pth")
        for folder in (Path(trainer.output_folder_base), tmp_path / "out")
    ]
    assert logs[1] == replace(logs[0], trainer="nnUNetTrainer", calibration={})
    assert logs[0].calibration["misclassified"]
    assert logs[0].seconds_per_epoch > 0


def test_nnunet_builds_its_own_trainers_network_from_the_copy(model, trainer, tmp_path):
    trainer.load_checkpoint(str(model / CHECKPOINTS[1]))
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    export_model(model, tmp_path / "out")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path / "out"), (0,))
    assert predictor.trainer_name == "nnUNetTrainer"
    assert predictor.allowed_mirroring_axes == (0, 1, 2)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(predictor.network.eval()(image), trainer.network(image))


def test_nnunets_own_trainer_goes_on_from_the_copy(model, build, tmp_path):
    export_model(model, tmp_path / "out")
    resumed = build(nnUNetTrainer)
    fresh = set(resumed.logger.local_logger.my_fantastic_logging)
    resumed.load_checkpoint(str(tmp_path / "out" / CHECKPOINTS[0]))
    assert resumed.current_epoch == 1
    assert set(resumed.logger.local_logger.my_fantastic_logging) == fresh


SCRIPT = """
import sys

if sys.argv[1] == "without":
    sys.modules["nnunet_meep"] = None  # any import of it raises
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

{logits}
image = torch.from_numpy(np.load(sys.argv[3]))
np.save(sys.argv[4], logits(sys.argv[2], (0, 1), image).numpy())
"""


@pytest.mark.slow  # two processes, and one looks through all of nnU-Net's trainers for ours
def test_the_copy_predicts_the_same_where_this_package_is_not(model, tmp_path):
    export_model(model, tmp_path / "out")
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((1, 33, 32, 32), np.float32))
    script = SCRIPT.format(logits=inspect.getsource(logits))
    predictions = []
    for how, folder, switch in (("with", model, "1"), ("without", tmp_path / "out", "0")):
        result = tmp_path / f"{how}.npy"
        subprocess.run(
            [sys.executable, "-c", script, how, folder, tmp_path / "image.npy", result],
            env={**os.environ, "NNUNET_MEEP_AUTOLOAD": switch, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=600,
        )
        predictions.append(np.load(result))
    assert predictions[0].shape == (3, 33, 32, 32)
    assert len(np.unique(predictions[0])) > 1
    np.testing.assert_array_equal(*predictions)


# The trainer that it names

USERS_MODULE = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import (
    nnUNetTrainerBN,
)

from nnunet_meep.trainers import MEEPMixin, parse


class nnUNetTrainerDA5_MEEP(MEEPMixin, nnUNetTrainerDA5):
    experiment = parse("nnUNetTrainerMEEP_KL")


class nnUNetTrainerBN_mine(nnUNetTrainerDA5_MEEP, nnUNetTrainerBN):
    pass


class nnUNetTrainerOwnNetwork(MEEPMixin, nnUNetTrainer):
    experiment = parse("nnUNetTrainerMEEP_KL")

    @staticmethod
    def build_network_architecture(*args, **kwargs):
        return nnUNetTrainer.build_network_architecture(*args, **kwargs)
"""


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """In front of ours, as when Python starts with it."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "mine.py").write_text(USERS_MODULE)
    ours = Path(trainers.__file__).parent / "extension"
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(folder), str(ours)]))
    nnunets_trainer.cache_clear()


@pytest.mark.parametrize("name", [TRAINER, "nnUNetTrainerDiceCE", "nnUNetTrainerFocal_seed1_paper"])
def test_a_trainer_of_the_grammar_is_nnunets_default_trainer_with_no_search_for_it(
    name, monkeypatch
):
    monkeypatch.setattr(export, "recursive_find_trainer_class_by_name", None)
    assert nnunets_trainer(name) == "nnUNetTrainer"


@pytest.mark.usefixtures("users_folder")
def test_a_users_own_trainer_is_the_one_of_nnunets_that_builds_its_network(model, tmp_path, capfd):
    assert nnunets_trainer("nnUNetTrainerDA5_MEEP") == "nnUNetTrainerDA5"
    assert nnunets_trainer("nnUNetTrainerBN_mine") == "nnUNetTrainerBN"
    assert capfd.readouterr().out == ""

    change(model, trainer_name="nnUNetTrainerDA5_MEEP")
    assert main([str(model), str(tmp_path / "out")]) == 0
    assert {load(tmp_path / "out" / n)["trainer_name"] for n in CHECKPOINTS} == {"nnUNetTrainerDA5"}
    assert "-tr nnUNetTrainerDA5\n" in capfd.readouterr().out

    last = load(model / CHECKPOINTS[-1])
    torch.save({**last, "trainer_name": "nnUNetTrainerBN_mine"}, model / CHECKPOINTS[-1])
    line = refusal(model, tmp_path / "mixed", capfd)
    assert CHECKPOINTS[-1] in line
    assert "nnUNetTrainerBN and some on nnUNetTrainerDA5" in line


@pytest.mark.usefixtures("users_folder")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nnUNetTrainerOwnNetwork", "build_network_architecture"),
        ("nnUNetTrainerDA5", "nothing to export"),
        ("nnUNetTrainerMine", "nnUNet_extTrainer"),
        ("nnUNetTrainerMEEP_KL_lambda0p30", "nnUNetTrainerMEEP_KL_lambda0p3"),
        ("os", "must be a class"),
    ],
)
def test_a_trainer_that_none_of_nnunets_can_replace_is_refused(
    model, tmp_path, capfd, name, expected
):
    change(model, trainer_name=name)
    line = refusal(model, tmp_path / "out", capfd)
    assert name in line
    assert expected in line


def test_a_model_of_nnunets_default_trainer_needs_no_export(model, tmp_path, capfd):
    change(model, trainer_name="nnUNetTrainer")
    assert "nothing to export" in refusal(model, tmp_path / "out", capfd)


# What is refused


def refusal(model, out, capfd):
    """The one line of an export that fails; it leaves nothing and touches nothing."""
    before = files(out.parent)
    assert main([str(model), str(out)]) == 1
    assert files(out.parent) == before
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize(
    "where", ["network_weights", "logging", "init_args", "trainer_name", "something else"]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    model, tmp_path, capfd, where, protocol
):
    bad = model / CHECKPOINTS[1]
    content = {**load(bad), where: Bomb(tmp_path / "bomb")}  # the fixture looks for its folder
    torch.save(content, bad, pickle_protocol=protocol)
    line = refusal(model, tmp_path / "out", capfd)
    assert str(bad) in line
    if protocol == 2:
        assert "not run" in line
        assert "mkdir" in line


def test_a_plain_pickle_is_refused_and_not_run(model, tmp_path, capfd):
    bad = model / CHECKPOINTS[1]
    bad.write_bytes(pickle.dumps(Bomb(tmp_path / "bomb")))
    assert str(bad) in refusal(model, tmp_path / "out", capfd)


@pytest.mark.parametrize("value", [np.zeros(3), np.int64(1), np.complex64(1)])
def test_what_is_no_number_of_nnunets_log_is_refused_and_named(model, tmp_path, capfd, value):
    change(model, logging={"mine": value})
    line = refusal(model, tmp_path / "out", capfd)
    assert str(model / CHECKPOINTS[0]) in line
    assert "numpy" in line


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.1, 0.5, 0.9, 0.9999])
def test_a_checkpoint_that_is_cut_short_is_refused(model, tmp_path, capfd, kept):
    bad = model / CHECKPOINTS[2]
    content = bad.read_bytes()
    bad.write_bytes(content[: int(kept * len(content))])
    line = refusal(model, tmp_path / "out", capfd)
    assert f"{bad}: not a checkpoint of nnU-Net, or cut short" in line


@pytest.mark.parametrize(
    "content",
    [
        {},
        torch.zeros(3),
        {"state_dict": {"weight": torch.zeros(3)}},
        {"network_weights": {}, "logging": {}, "init_args": {}, "trainer_name": torch.zeros(3)},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(model, tmp_path, capfd, content):
    torch.save(content, model / CHECKPOINTS[2])
    line = refusal(model, tmp_path / "out", capfd)
    assert f"{model / CHECKPOINTS[2]}: not a checkpoint of nnU-Net" in line


def test_a_text_and_an_archive_that_are_called_checkpoints_are_refused(model, tmp_path, capfd):
    bad = model / CHECKPOINTS[2]
    for write in (
        lambda: bad.write_text("version https://git-lfs.github.com/spec/v1"),
        lambda: zipfile.ZipFile(bad, "w").writestr("a", b"b"),
    ):
        write()
        assert str(bad) in refusal(model, tmp_path / "out", capfd)


def test_numbers_of_either_numpy_are_read(model, tmp_path):
    """numpy 1 and 2 write the module of the same function under different names."""
    path = model / CHECKPOINTS[0]
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    new, old = b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar"
    for written_by in (old, new):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part.replace(new, written_by).replace(old, written_by))
        assert written_by in path.read_bytes()
        out = tmp_path / written_by.decode()[1:10].strip("._")
        export_model(model, out)
        assert load(out / CHECKPOINTS[0])["_best_ema"] == np.float64(0.5)


@pytest.mark.parametrize(
    "missing", [["plans.json"], ["dataset.json"], ["plans.json", "dataset.json"]]
)
def test_a_folder_without_plans_or_dataset_json_is_refused(model, tmp_path, capfd, missing):
    for name in missing:
        (model / name).unlink()
    line = refusal(model, tmp_path / "out", capfd)
    assert f"{model}: expected the folder of a trained model" in line
    assert line.endswith("got no " + " and no ".join(missing))


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", ["", '{"labels": {"background": 0', "[]", "{}", "\udcff"])
def test_a_broken_json_file_is_refused(model, tmp_path, capfd, name, content):
    (model / name).write_text(content, errors="surrogateescape")
    assert str(model / name) in refusal(model, tmp_path / "out", capfd)


def test_of_a_folder_above_or_below_a_model_it_is_said_which_one_the_model_is(
    model, tmp_path, capfd, monkeypatch
):
    for wrong in (model / "fold_0", model.parent):
        assert f"is it {model}?" in refusal(wrong, tmp_path / "out", capfd)
    monkeypatch.chdir(model / "fold_0")
    assert f"is it {model}?" in refusal(Path("."), tmp_path / "out", capfd)
    assert "is it" not in refusal(tmp_path, tmp_path / "out", capfd)


def test_what_is_no_folder_or_has_no_checkpoint_is_refused(model, tmp_path, capfd):
    line = refusal(tmp_path / "nowhere", tmp_path / "out", capfd)
    assert "TRAINER__PLANS__CONFIGURATION" in line
    assert line.endswith("got nothing")
    line = refusal(model / CHECKPOINTS[0], tmp_path / "out", capfd)
    assert line.endswith("got a file")
    for name in CHECKPOINTS:
        (model / name).unlink()
    assert refusal(model, tmp_path / "out", capfd).endswith("got no checkpoint")


def test_what_exists_is_never_written_to(model, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "empty", tmp_path / "file", model):
        assert f"{out} exists: remove it" in refusal(model, out, capfd)


@pytest.mark.parametrize("inside", ["exported", "fold_0/validation/exported", "../link/exported"])
def test_a_model_is_never_exported_into_itself(model, tmp_path, capfd, inside):
    (model.parent / "link").symlink_to(model)
    out = model / inside
    assert f"{out}: expected a folder outside of the model" in refusal(model, out, capfd)


def test_a_full_disk_leaves_nothing_behind(model, tmp_path, monkeypatch, capfd):
    save, saved = torch.save, []

    def full(content, file):
        save(content, file)
        saved.append(content)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left on device" in refusal(model, tmp_path / "out", capfd)


# What the command says


def test_the_commands_to_predict_with_are_printed(model, tmp_path, capfd):
    out = tmp_path / "for others"
    assert main([str(model), str(out)]) == 0
    stdout, stderr = capfd.readouterr()
    assert stderr == ""
    assert f"Wrote {out}: 4 checkpoints name nnU-Net's own nnUNetTrainer\n" in stdout
    from_folder, with_names = [
        shlex.split(line) for line in stdout.splitlines() if line.startswith("  nnUNetv2_")
    ]
    data = ["-i", "IMAGES", "-o", "PREDICTIONS", "-f", "0", "1"]
    assert from_folder == ["nnUNetv2_predict_from_modelfolder", *data, "-m", str(out)]
    assert with_names == [
        *("nnUNetv2_predict", *data, "-d", "Dataset999_Tiny", "-c", "3d_fullres"),
        *("-p", "nnUNetPlans", "-tr", "nnUNetTrainer"),
    ]
    assert "$nnUNet_results/Dataset999_Tiny/nnUNetTrainer__nnUNetPlans__3d_fullres:" in stdout


def test_the_commands_name_folds_that_have_ended_or_another_checkpoint(model, tmp_path, capfd):
    (model / "fold_1/checkpoint_final.pth").unlink()
    assert main([str(model), str(tmp_path / "one")]) == 0
    assert capfd.readouterr().out.count(" -f 0 -") == 2
    (model / "fold_0/checkpoint_final.pth").unlink()
    assert main([str(model), str(tmp_path / "none")]) == 0
    assert capfd.readouterr().out.count(" -f 0 1 -chk checkpoint_best.pth ") == 2
