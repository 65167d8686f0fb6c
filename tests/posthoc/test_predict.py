"""``meep-predict``: what nnU-Net predicts, calibrated; folds, averaged and compared."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from too_sure import overconfident

import nnunet_meep as nm
from nnunet_meep.cli.predict import main
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.cases import ARGUMENTS
from nnunet_meep.posthoc import predict as module
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.calibrator import read_calibrator
from nnunet_meep.posthoc.fit import fit
from nnunet_meep.posthoc.fit_derived import Goal, fit_derived

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "benchmarks" / "models" / "Dataset004_Hippocampus"
SCANS = ROOT.parent / "shared" / "data" / "hippocampus"
TRAINER = "nnUNetTrainerDiceCE_50epochs_50iters"
MODEL = f"{TRAINER}__nnUNetPlansSmall__3d_fullres"
ASKED = ["-d", "Dataset004_Hippocampus", "-c", "3d_fullres", "-p", "nnUNetPlansSmall"]
ASKED += ["-tr", TRAINER, "-device", "cpu"]


@pytest.fixture
def project(tmp_path):
    """A trained model of two folds and two scans to predict."""
    if not MODELS.is_dir():
        pytest.skip(f"no trained models in {MODELS}")
    model = tmp_path / "results" / "Dataset004_Hippocampus" / MODEL
    shutil.copytree(MODELS / MODEL, model)
    other = MODEL.replace("DiceCE", "MEEP_KL")
    shutil.copytree(MODELS / other / "fold_0", model / "fold_1")
    images = tmp_path / "images"
    images.mkdir()
    scans = sorted(SCANS.glob("imagesTr/*.nii.gz"))[160:162]
    rng = np.random.default_rng(0)
    for i in range(2):
        target = images / f"case_{i}_0000.nii.gz"
        if scans:
            shutil.copyfile(scans[i], target)
            labels = SCANS / "labelsTr" / scans[i].name.replace("_0000", "")
            (tmp_path / "labels").mkdir(exist_ok=True)
            shutil.copyfile(labels, tmp_path / "labels" / f"case_{i}.nii.gz")
        else:  # any image will do
            noise = sitk.GetImageFromArray(rng.normal(size=(34, 50, 36)).astype(np.float32))
            sitk.WriteImage(sitk.DiscreteGaussian(noise, 4.0), target)
    return tmp_path


@pytest.fixture
def calibrator(make_validation, tmp_path):
    """calibrator.json for the labels of the model."""
    val = make_validation("three classes")
    path = tmp_path / "calibrator.json"
    fit("platt", val.gt, val.pred).calibrator.save(path)
    return path


@pytest.mark.slow
def test_it_is_predicting_and_then_applying(project, calibrator):
    environment = {**os.environ, "nnUNet_results": str(project / "results")}
    environment |= {"nnUNet_raw": str(project), "nnUNet_preprocessed": str(project)}
    asked = ["-i", "images", *ASKED, "-f", "0", "1", "--disable_tta", "-npp", "0", "-nps", "0"]
    for command in (
        ["meep-predict", *asked, "-o", "out", "--calibrator", "calibrator.json"],
        ["nnUNetv2_predict", *asked, "-o", "plain", "--save_probabilities"],
    ):
        # Without worker processes nnU-Net does not make its folder.
        Path(project / command[command.index("-o") + 1]).mkdir()
        subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:]],
            cwd=project,
            env=environment,
            check=True,
            timeout=600,
            stdout=subprocess.DEVNULL,
        )
    names = apply(calibrator, project / "plain", project / "applied").names
    assert names == ["case_0", "case_1"]
    out, applied = project / "out", project / "applied"
    assert {p.name for p in out.iterdir()} - {p.name for p in applied.iterdir()} == {"triage.csv"}
    for name in names:
        arrays = [np.load(f / f"{name}.npz")["probabilities"] for f in (out, applied)]
        assert arrays[0].tobytes() == arrays[1].tobytes()
        assert arrays[0].shape == arrays[1].shape
        plain = np.load(project / "plain" / f"{name}.npz")["probabilities"]
        assert np.abs(arrays[0] - plain).max() > 0.01
        segmentations = [(f / f"{name}.nii.gz").read_bytes() for f in (out, applied)]
        assert segmentations[0] == segmentations[1]
        assert (out / f"{name}.pkl").read_bytes() == (applied / f"{name}.pkl").read_bytes()
    if (project / "labels").is_dir():
        check_fits_to_real_voxels(project / "labels", project / "plain")


def check_fits_to_real_voxels(gt: Path, pred: Path) -> None:
    """Fits to counts against scikit-learn's on each voxel of real scans."""
    names = sorted(p.stem for p in pred.glob("*.npz"))
    p = [np.load(pred / f"{name}.npz")["probabilities"].reshape(3, -1) for name in names]
    y = [sitk.GetArrayFromImage(sitk.ReadImage(gt / f"{n}.nii.gz")).ravel() for n in names]
    p, y = np.concatenate(p, axis=1).astype(np.float64), np.concatenate(y)
    platt, isotonic = (fit(m, gt, pred).calibrator.binary for m in ("platt", "isotonic"))
    for k in range(3):
        x = np.clip(np.log(p[k].clip(1e-30)) - np.log((1 - p[k]).clip(1e-30)), -24, 24)[:, None]
        regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
        expected = regression.fit(x, y == k).predict_proba(x)[:, 1]
        assert np.abs(platt[str(k)](p[k]) - expected).mean() < 1e-4
        rank = np.unique(p[k], return_inverse=True)[1]
        expected = IsotonicRegression().fit_transform(rank, y == k)
        assert np.abs(isotonic[str(k)](p[k]) - expected).mean() < 1e-9


class FakeNnunet:
    """Writes what ``nnUNetv2_predict`` would, and can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.predicted, self.stop_after = folder, [], None
        self.seed = 0
        self.arguments: list[str] = []
        self.runs: list[tuple[str, ...]] = []

    def __call__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        output = Path(arguments[arguments.index("-o") + 1])
        folds = tuple(itertools.takewhile(str.isdigit, arguments[arguments.index("-f") + 1 :]))
        self.runs.append(folds)
        assert "--save_probabilities" in arguments
        for name in ("dataset.json", "plans.json"):
            shutil.copyfile(MODELS / MODEL / name, output / name)
        (output / ARGUMENTS).write_text("{}")
        for i in range(2):
            npz = output / f"case_{i}.npz"
            if "--continue_prediction" in arguments and npz.exists():
                continue
            if self.stop_after == len(self.predicted):
                raise KeyboardInterrupt
            p = self.prediction(i, folds)
            np.savez_compressed(npz, probabilities=p)
            label_map = sitk.GetImageFromArray(p.argmax(axis=0).astype(np.uint8))
            sitk.WriteImage(label_map, output / f"case_{i}.nii.gz")
            self.predicted.append(i)

    def prediction(self, i: int, folds: tuple[str, ...]) -> np.ndarray:
        """Of a case: another one for each fold, and for several folds together."""
        rng = np.random.default_rng([self.seed + i, *map(int, folds)])
        return overconfident(rng, 3)[0]


@pytest.fixture
def nnunet(project, monkeypatch):
    import nnunetv2.utilities.file_path_utilities as paths

    monkeypatch.setenv("nnUNet_results", str(project / "results"))
    monkeypatch.setattr(paths, "nnUNet_results", str(project / "results"))
    monkeypatch.chdir(project)
    fake = FakeNnunet(project)
    monkeypatch.setattr(module, "_nnunet", fake)
    return fake


COMMAND = ["-i", "images", "-o", "out", *ASKED, "-f", "0", "--calibrator", "calibrator.json"]


def test_what_nnunet_is_told(nnunet, calibrator, capsys):
    more = ["--disable_tta", "-step_size", "0.7", "-npp", "1", "--disable_progress_bar"]
    assert main([*COMMAND, *more]) == 0
    assert "2 cases predicted and calibrated, written into out" in capsys.readouterr().out
    told = " ".join(nnunet.arguments)
    for words in (
        "-i images",
        "-f 0 ",
        "-step_size 0.7",
        "--disable_tta",
        "-npp 1",
        f"-tr {TRAINER}",
    ):
        assert words in told
    for words in ("--calibrator", "-o out ", "--verbose", "-nps", "--continue_prediction"):
        assert words not in told
    assert sorted(p.name for p in Path("out").iterdir()) == [
        *(
            "calib_apply_args.json",
            "calibrator.json",
            "case_0.nii.gz",
            "case_0.npz",
            "case_1.nii.gz",
            "case_1.npz",
        ),
        *("dataset.json", "plans.json", ARGUMENTS, "triage.csv"),
    ]
    ranked = nm.triage("out").to_dataframe()
    assert Path("out/triage.csv").read_text() == ranked.to_csv(index=False)


def test_a_run_that_was_stopped_goes_on_from_what_was_predicted(nnunet, calibrator):
    nnunet.stop_after = 1
    assert main(COMMAND) == 130
    assert nnunet.predicted == [0]
    assert not list(Path("out").glob("*.npz"))
    nnunet.stop_after = None
    assert main([*COMMAND, "--continue_prediction"]) == 0
    assert nnunet.predicted == [0, 1]
    finished = {p.name: p.stat().st_mtime_ns for p in Path("out").glob("*.npz")}
    assert main([*COMMAND, "--continue_prediction"]) == 0
    assert nnunet.predicted == [0, 1]
    assert finished == {p.name: p.stat().st_mtime_ns for p in Path("out").glob("*.npz")}
    assert not Path("out/.uncalibrated").exists()
    # Without the flag all is predicted again, as nnU-Net does it.
    nnunet.stop_after = 3
    assert main(COMMAND) == 130
    assert main(COMMAND) == 130
    nnunet.stop_after = None
    assert main(COMMAND) == 0
    assert nnunet.predicted == [0, 1, 0, 0, 1]
    # The predictions are the same ones, and so are their calibrated ones.
    assert finished == {p.name: p.stat().st_mtime_ns for p in Path("out").glob("*.npz")}
    nnunet.seed = 1
    assert main(COMMAND) == 0
    assert {p.stat().st_mtime_ns for p in Path("out").glob("*.npz")}.isdisjoint(finished.values())


@pytest.mark.parametrize("ending", [".npz", ".nii.gz"])
def test_a_prediction_that_was_cut_short_is_made_again(nnunet, calibrator, ending):
    nnunet.stop_after = 1
    assert main(COMMAND) == 130
    path = Path(f"out/.uncalibrated/case_0{ending}")
    path.write_bytes(path.read_bytes()[:-20])
    nnunet.stop_after = None
    assert main([*COMMAND, "--continue_prediction"]) == 0
    assert nnunet.predicted == [0, 0, 1]


def test_predicted_again_nothing_is_left_of_a_run_that_was_stopped(nnunet, calibrator):
    """Also of a case whose image has gone since."""
    nnunet.stop_after = 1
    assert main(COMMAND) == 130
    for path in list(Path("out/.uncalibrated").glob("case_0.*")):
        path.rename(path.with_name(path.name.replace("case_0", "case_9")))
    nnunet.stop_after = None
    assert main(COMMAND) == 0
    assert {p.stem for p in Path("out").glob("*.npz")} == {"case_0", "case_1"}


def test_where_nothing_was_predicted_nothing_is_left(nnunet, calibrator):
    nnunet.stop_after = 0
    assert main(COMMAND) == 130
    assert not Path("out").exists()
    Path("out").mkdir()
    assert main(COMMAND) == 130
    assert not Path("out/.uncalibrated").exists()


def test_uncalibrated_predictions_are_not_taken_for_calibrated_ones(nnunet, calibrator, capsys):
    assert main(COMMAND) == 0
    Path("out/calib_apply_args.json").unlink()
    assert main([*COMMAND, "--continue_prediction"]) == 1
    assert "out: expected an empty folder, or one that a run" in capsys.readouterr().err


def test_a_part_without_a_case(nnunet, calibrator, monkeypatch):
    """nnU-Net returns without a file if there are more parts than cases."""
    monkeypatch.setattr(module, "_nnunet", lambda arguments: None)
    assert main([*COMMAND, "-num_parts", "3", "-part_id", "2"]) == 0
    assert not list(Path("out").glob(".uncalibrated*"))


def test_calls_that_share_the_cases_do_not_meet(nnunet, calibrator):
    assert main([*COMMAND, "-num_parts", "2", "-part_id", "1"]) == 0
    assert nnunet.arguments[nnunet.arguments.index("-o") + 1] == "out/.uncalibrated-1-of-2"
    assert "-part_id 1" in " ".join(nnunet.arguments)
    assert main([*COMMAND, "-num_parts", "2", "-part_id", "0"]) == 0


def test_a_call_that_fails_leaves_what_others_have_predicted(nnunet, calibrator, monkeypatch):
    """It made the folder, and predicted nothing itself."""
    part = ["-num_parts", "2", "-part_id"]

    def fail_after_the_other(arguments):
        monkeypatch.setattr(module, "_nnunet", nnunet)
        assert main([*COMMAND, *part, "1"]) == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_nnunet", fail_after_the_other)
    assert main([*COMMAND, *part, "0"]) == 130
    assert Path("out/case_1.npz").is_file()
    assert not list(Path("out").glob(".uncalibrated*"))


def test_thresholds_and_volumes_are_applied_too(nnunet, make_validation, capsys):
    """The folder is that of ``meep-calib-apply``; a run that goes on completes the table."""
    val = make_validation("three classes", name="for_thresholds")
    for goal, after in ((Goal("threshold", 0.6), None), (Goal("volume", 0.5), Path("t.json"))):
        found = fit_derived(goal, val.gt, val.pred, after=after)
        found.calibrator.save("calibrator.json" if after else "t.json")
    nnunet.stop_after = 1
    assert main([*COMMAND, "--continue_prediction"]) == 130
    nnunet.stop_after = None
    assert main([*COMMAND, "--continue_prediction"]) == 0
    said = capsys.readouterr().out
    assert "the calibration, with its thresholds, changed the label of" in said
    assert f"volumes with their intervals: {Path('out/volumes.csv')}" in said
    Path("plain").mkdir()
    nnunet(["-f", "0", "-o", "plain", "--save_probabilities"])
    apply(Path("calibrator.json"), Path("plain"), Path("applied"))
    for name in ("volumes.csv", "case_0.nii.gz", "case_1.nii.gz", "case_1.npz"):
        assert Path("out", name).read_bytes() == Path("applied", name).read_bytes()


def model_of(root: Path) -> Path:
    return root / "results" / "Dataset004_Hippocampus" / MODEL


def break_labels(root: Path) -> None:
    path = model_of(root) / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {"background": 0, "Anterior": 1}
    path.write_text(json.dumps(content))


def rename_images(root: Path) -> None:
    """Give their folder a name that is not UTF-8; nnU-Net's workers would be aborted."""
    (root / "images").rename(root / os.fsdecode(b"caf\xe9"))


def empty_images(root: Path) -> None:
    shutil.rmtree(root / "images")
    (root / "images").mkdir()


def unnumbered(root: Path) -> None:
    (root / "images" / "case_1_0000.nii.gz").rename(root / "images" / "case.nii.gz")


def damaged(root: Path) -> None:
    checkpoint = model_of(root) / "fold_0" / "checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])


def without_plans(root: Path) -> None:
    (model_of(root) / "plans.json").unlink()


def cascade(root: Path) -> None:
    plans = json.loads((model_of(root) / "plans.json").read_text())
    plans["configurations"]["base"] = {"previous_stage": "3d_lowres"}
    plans["configurations"]["3d_fullres"]["inherits_from"] = "base"
    (model_of(root) / "plans.json").write_text(json.dumps(plans))


def mine(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "mine.txt").write_text("mine")


BAD = {
    "images": (lambda root: shutil.rmtree(root / "images"), [], "images: expected a folder of im"),
    "calibrator": (lambda root: (root / "calibrator.json").unlink(), [], "expected a calibrator"),
    "model": (lambda root: None, ["-tr", "nnUNetTrainerX"], "expected the checkpoint of a trained"),
    "fold": (lambda root: None, ["-f", "0", "3"], "fold_3/checkpoint_final.pth: expected the che"),
    "dataset": (
        lambda root: None,
        ["-d", "999"],
        "-d 999: expected a data set, got: Could not",
    ),
    "labels": (break_labels, [], "dataset.json: expected the labels that the calibrator was"),
    "output": (mine, [], "out: expected an empty folder"),
    "no images": (empty_images, [], "images: expected images CASE_0000.nii.gz, found none (-i)"),
    "not UTF-8": (rename_images, ["-i", os.fsdecode(b"caf\xe9")], "caf\\udce9: expected a path in"),
    "numbers": (unnumbered, [], "images/case.nii.gz: expected the number of its channel"),
    "checkpoint": (damaged, [], "checkpoint_final.pth: expected the checkpoint of a trained model"),
    "no plans": (without_plans, [], "plans.json: expected nnU-Net's plans.json of the model"),
    "name": (lambda root: None, ["-d", "Hippocampus"], "-d Hippocampus: expected a data set, got"),
    "stage": (lambda root: None, ["-prev_stage_predictions", "nope"], "nope: expected a folder of"),
    "cascade": (cascade, [], "expected the predictions of 3d_lowres for these images with -prev_"),
    "part": (lambda root: None, ["-part_id", "1"], "-part_id: expected a number from 0 to 0"),
    "one fold": (
        lambda root: None,
        ["--disagreement"],
        "several folds to compare, got fold 0 alone",
    ),
    "fold twice": (
        lambda root: None,
        ["-f", "0", "1", "0"],
        "each fold once, got 0 more than once",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_is_said_before_anything_is_predicted(bad, nnunet, calibrator, capsys):
    break_it, flags, message = BAD[bad]
    break_it(calibrator.parent)
    assert main([*COMMAND, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not nnunet.predicted
    assert not (calibrator.parent / "out" / ".uncalibrated").exists()


def test_without_a_gpu_that_is_said(nnunet, calibrator, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*COMMAND, "-device", "cuda"]) == 1
    assert "-device cuda: expected a GPU, found none" in capsys.readouterr().err


def test_without_results_that_is_said(nnunet, calibrator, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    assert main(COMMAND) == 1
    assert "nnUNet_results is not set" in capsys.readouterr().err


def flags_of(help_text: str) -> set[str]:
    usage = help_text.split("usage:")[1].split("\n\n")[0]
    return set(re.findall(r"(?<=\[|\s)--?[\w-]+", usage)) - {"-h"}


def test_the_flags_are_those_of_nnunet_and_the_calibrator(capsys, monkeypatch):
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", "--help"])
    with pytest.raises(SystemExit):
        predict_entry_point()
    of_nnunet = flags_of(capsys.readouterr().out)
    assert {"-i", "-step_size", "--disable_tta"} <= of_nnunet
    with pytest.raises(SystemExit):
        main(["--help"])
    assert flags_of(capsys.readouterr().out) == of_nnunet | {
        "--calibrator",
        "--any-network",
        "--average",
        "--disagreement",
        "--version",
    }


def of_network(calibrator: Path, **network: object) -> None:
    """Let a calibrator be that of some network."""
    content = json.loads(calibrator.read_text())
    calibrator.write_text(json.dumps({**content, "network": {**content["network"], **network}}))


def test_a_calibrator_of_its_network_is_taken(nnunet, calibrator, capsys):
    names = {"dataset": "Dataset004_Hippocampus", "plans": "nnUNetPlansSmall"}
    of_network(calibrator, **names, trainer=TRAINER, configuration="3d_fullres", folds=["0"])
    assert main(COMMAND) == 0
    assert "the calibrator was fitted to" not in capsys.readouterr().out
    record = json.loads(Path("out/calib_apply_args.json").read_text())
    assert record["any_network"] == []
    network = record["network"]
    assert (network["trainer"], network["folds"], network["averaged"]) == (TRAINER, ["0"], False)
    assert set(network["checkpoints"]) == {"0"}


@pytest.mark.parametrize(
    ("network", "folds", "words"),
    [
        ({"trainer": "nnUNetTrainer"}, ["0"], f"trainer {TRAINER}, not nnUNetTrainer"),
        ({"folds": ["1"]}, ["0"], "fold 0, not fold 1"),
        ({"folds": ["0", "1"]}, ["0", "1"], "the average of folds 0, 1, not single folds 0, 1"),
        ({"checkpoints": {"0": ["another"]}}, ["0"], "another checkpoint of fold 0"),
    ],
)
def test_one_of_another_network_is_refused_before_anything_is_predicted(
    nnunet, calibrator, capsys, network, folds, words
):
    of_network(calibrator, **network)
    command = [*COMMAND, "-f", *folds]
    assert main(command) == 1
    assert f"got those of another one: {words}; fit a calibrator" in capsys.readouterr().err
    assert nnunet.predicted == []
    assert not Path("out").exists()
    assert main([*command, "--any-network"]) == 0
    assert f"Note: the calibrator was fitted to another network: {words}" in capsys.readouterr().out
    record = json.loads(Path("out/calib_apply_args.json").read_text())
    assert record["any_network"] == [words]


def test_one_of_another_data_set_is_refused_whatever_is_said(nnunet, calibrator, capsys):
    of_network(calibrator, dataset="Dataset501_LA")
    assert main([*COMMAND, "--any-network"]) == 1
    expected = "fitted on, Dataset501_LA, got Dataset004_Hippocampus"
    assert expected in capsys.readouterr().err
    assert nnunet.predicted == []


PLAIN = [*COMMAND[: COMMAND.index("--calibrator")], "-f", "0", "1"]
BOTH = [*PLAIN, "--average", "probabilities"]


def found(case: int, folder: str = "out") -> np.ndarray:
    return np.load(f"{folder}/case_{case}.npz")["probabilities"]


def hidden() -> list[str]:
    return [path.name for path in Path("out").iterdir() if path.name.startswith(".")]


def test_the_probabilities_of_folds_are_averaged(nnunet, capsys):
    assert main(BOTH) == 0
    assert "2 cases predicted, written into out" in capsys.readouterr().out
    assert nnunet.runs == [("0",), ("1",)]
    for i in range(2):
        expected = (nnunet.prediction(i, ("0",)) + nnunet.prediction(i, ("1",))) / 2
        assert np.array_equal(found(i), expected)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(f"out/case_{i}.nii.gz"))
        assert np.array_equal(labels, expected.argmax(axis=0))
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("case_0.nii.gz", "case_0.npz", "case_1.nii.gz", "case_1.npz"),
        *("dataset.json", "meep_predict_args.json", "plans.json", ARGUMENTS, "triage.csv"),
    ]


def test_a_calibrator_is_applied_to_the_average(nnunet, calibrator, capsys):
    assert main([*BOTH, "--calibrator", "calibrator.json"]) == 0
    note = "Note: the calibrator is applied to the average of the probabilities of folds 0, 1\n"
    assert note in capsys.readouterr().out
    for i in range(2):
        average = (nnunet.prediction(i, ("0",)) + nnunet.prediction(i, ("1",))) / 2
        assert np.array_equal(found(i), read_calibrator(calibrator)(average))


@pytest.mark.parametrize("flags", [["--disable_tta"], ["-step_size", "0.7"]])
def test_other_predictions_than_a_validation_makes_are_said(nnunet, calibrator, capsys, flags):
    note = f"calibrators are fitted, without {flags[0]}; these predictions may need another"
    for more in (["--calibrator", "calibrator.json", *flags, "-o", "b"], [*flags, "-o", "c"]):
        assert main([*BOTH, *more]) == 0
        assert (note in capsys.readouterr().out) == ("--calibrator" in more)


def test_by_default_nnunet_averages_also_where_the_disagreement_is_asked_for(nnunet):
    assert main([*PLAIN, "--disagreement"]) == 0
    assert nnunet.runs == [("0",), ("1",), ("0", "1")]
    assert np.array_equal(found(1), nnunet.prediction(1, ("0", "1")))
    std = sitk.GetArrayFromImage(sitk.ReadImage("out/disagreement/case_1_std.nii.gz"))
    p = np.stack([nnunet.prediction(1, (fold,)) for fold in "01"])
    assert std == pytest.approx((np.abs(p[0] - p[1]) / 2).max(axis=0), abs=1e-6)
    assert len(list(Path("out/disagreement").iterdir())) == 4
    assert not hidden()


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_of_one_fold_there_is_nothing_to_average(nnunet, calibrator, average):
    assert main([*COMMAND, "--average", average]) == 0
    assert nnunet.runs == [("0",)]
    assert np.array_equal(found(0), read_calibrator(calibrator)(nnunet.prediction(0, ("0",))))
    network = json.loads(Path("out/calib_apply_args.json").read_text())["network"]
    assert (network["averaged"], network["average"]) == (False, None)


@pytest.mark.parametrize("more", [[], ["--calibrator", "calibrator.json"]])
def test_averaging_that_was_stopped_goes_on_from_what_was_predicted(nnunet, calibrator, more):
    command = [*BOTH, "--disagreement", *more]
    nnunet.stop_after = 3
    assert main(command) == 130
    assert nnunet.predicted == [0, 1, 0]
    assert not list(Path("out").glob("*.npz"))
    nnunet.stop_after = None
    assert main([*command, "--continue_prediction"]) == 0
    assert nnunet.predicted == [0, 1, 0, 1]
    expected = found(1)
    assert not hidden()
    Path("out/case_0.npz").unlink()  # a case that is missing; the other one is finished
    assert main([*command, "--continue_prediction"]) == 0
    assert nnunet.predicted == [0, 1, 0, 1, 0, 0]
    assert np.array_equal(found(1), expected)
    assert not hidden()


def test_other_averages_do_not_meet_in_one_folder(nnunet, capsys):
    assert main(BOTH) == 0
    for command in (PLAIN, [*BOTH, "-f", "0"]):
        assert main(command) == 1
        assert "out: expected an empty folder, or one that a run" in capsys.readouterr().err
    assert main([*BOTH, "--disagreement"]) == 1
    assert "found a folder begun without --disagreement; give" in capsys.readouterr().err


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_missing_case_of_an_average_is_noticed(nnunet, average, tmp_path):
    """As in any folder that nnUNetv2_predict has filled."""
    assert main([*PLAIN, "--average", average]) == 0
    references = tmp_path / "references"
    references.mkdir()
    for i in range(3):
        shutil.copyfile("out/case_0.nii.gz", references / f"case_{i}.nii.gz")
    with pytest.raises(InputError, match="have none: case_2"):
        fit("platt", references, Path("out"))


def test_calibrators_know_what_was_averaged(nnunet, calibrator, capsys):
    for average, other in (("logits", "probabilities"), ("probabilities", "logits")):
        of_network(calibrator, folds=["0", "1"], averaged=True, average=average)
        command = [*PLAIN, "--calibrator", "calibrator.json", "-o", average, "--average"]
        assert main([*command, other]) == 1
        assert f"the average of {other}, not of {average}; fit a" in capsys.readouterr().err
        assert main([*command, average]) == 0
    # One that was fitted to the folds for their average is for both.
    of_network(calibrator, folds=["0", "1"], averaged=True, average=None)
    for average in ("logits", "probabilities"):
        command = [*PLAIN, "--calibrator", "calibrator.json", "-o", f"{average}_of_both"]
        assert main([*command, "--average", average]) == 0


def test_the_network_of_an_average_is_known_where_it_is_calibrated_later(
    nnunet, calibrator, capsys
):
    assert main(BOTH) == 0
    of_network(calibrator, trainer=TRAINER, folds=["0", "1"])
    with pytest.raises(
        InputError, match=r"the average of folds 0, 1, not single folds 0, 1; .*lds\)"
    ):
        apply(calibrator, Path("out"), Path("later"))
    of_network(calibrator, folds=["0", "1"], averaged=True)
    apply(calibrator, Path("out"), Path("later"))
    average = found(0)
    assert np.array_equal(found(0, "later"), read_calibrator(calibrator)(average))


def test_threads_between_operations_are_set_once(monkeypatch):
    """PyTorch refuses it a second time, and nnU-Net does it for each fold on a GPU."""
    import nnunetv2.inference.predict_from_raw_data as nnunet_module
    import torch

    threads = [8]

    def set_threads(n: int) -> None:
        if threads != [8]:
            raise RuntimeError("Error: cannot set number of interop threads")
        threads.append(n)

    monkeypatch.setattr(torch, "get_num_interop_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_interop_threads", set_threads)
    monkeypatch.setattr(
        nnunet_module, "predict_entry_point", lambda: torch.set_num_interop_threads(1)
    )
    for _ in range(2):
        module._nnunet([])
    assert threads == [8, 1]


#: What nnU-Net makes of two folds: predictions of each, and their average. The worker of
#: nnUNetv2_ensemble is called as that calls it, without its processes.
BY_NNUNET = """
import sys
from pathlib import Path
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunet_meep.cli.predict import main
asked = sys.argv[1:]
for fold in "01":
    Path(fold).mkdir()
    sys.argv = ["nnUNetv2_predict", *asked, "--save_probabilities", "-o", fold, "-f", fold]
    predict_entry_point()
labels = PlansManager("0/plans.json").get_label_manager(load_json("0/dataset.json"))
Path("theirs").mkdir()
files = ["0/case_0.npz", "1/case_0.npz"]
merge_files(files, "theirs/case_0", ".nii.gz", SimpleITKIO(), labels, True)
average = ["--average", "probabilities", "--disagreement"]
sys.exit(main([*asked, "-f", "0", "1", *average, "-o", "out"]))
"""


@pytest.mark.slow
def test_real_folds_are_averaged_as_nnunets_ensemble_does(project, monkeypatch):
    environment = {**os.environ, "nnUNet_results": str(project / "results")}
    environment |= {"nnUNet_raw": str(project), "nnUNet_preprocessed": str(project)}
    (project / "images" / "case_1_0000.nii.gz").unlink()
    asked = ["-i", "images", *ASKED, "--disable_tta", "-npp", "0", "-nps", "0"]
    subprocess.run(
        [sys.executable, "-c", BY_NNUNET, *asked],
        cwd=project,
        env=environment,
        check=True,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    monkeypatch.chdir(project)
    assert np.array_equal(found(0), found(0, "theirs"))
    labels = [sitk.ReadImage(f"{folder}/case_0.nii.gz") for folder in ("out", "theirs")]
    assert np.array_equal(*map(sitk.GetArrayFromImage, labels))
    image = sitk.ReadImage("out/disagreement/case_0_std.nii.gz")
    expected = np.std([found(0, fold) for fold in "01"], axis=0).max(axis=0)
    assert sitk.GetArrayFromImage(image) == pytest.approx(expected, abs=1e-6)
    assert image.GetOrigin() == labels[1].GetOrigin()
    assert expected.max() > 0.1
