"""Killed or refused at each change that a command makes to files: nothing half, nothing lost."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from crash import (
    State,
    assert_whole,
    failing,
    killed,
    limited,
    read_state,
    recover,
    same,
    write_state,
)
from made_up import DATASET, TRAINERS, finish, prepared
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.benchmark.run import Options
from nnunet_meep.benchmark.running import records
from nnunet_meep.cli import (
    benchmark,
    calib_apply,
    calib_compare,
    calib_eval,
    calib_fit,
    calib_triage,
    convert_folder,
    convert_la,
    convert_msd,
    convert_wmh,
    export_model,
    predict,
)
from nnunet_meep.cli._run import run
from nnunet_meep.datasets.left_atrium import TRAINING_CASES
from nnunet_meep.nnunet_files.cases import ARGUMENTS
from nnunet_meep.posthoc import predict as prediction

pytestmark = pytest.mark.usefixtures("unrendered")
#: Of the states and calls of a command, as many are followed by another run.
N_RERUNS = 4


@dataclass
class Command:
    """A command with the folder that it writes into, which holds results of an earlier run.

    ``every``: of its calls one in so many fails, because there are many alike.
    """

    root: Path
    run: Callable[[], int]
    every: int = 1


@pytest.fixture
def folder(tmp_path: Path) -> PredictionFolder:
    folder = PredictionFolder(tmp_path / "data", LABELS)
    folder.add("a", *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    return folder


def calibrator(folder: PredictionFolder, path: Path) -> Path:
    arguments = [str(folder.gt), str(folder.pred), "-o", str(path)]
    assert calib_fit.main(["temperature", *arguments]) == 0
    return path


@pytest.fixture
def evaluating(folder: PredictionFolder, tmp_path: Path) -> Command:
    arguments = [str(folder.gt), str(folder.pred), "-o", str(tmp_path / "out"), "-np", "1"]
    assert calib_eval.main([*arguments, "--maps", "--bins", "10"]) == 0
    return Command(tmp_path / "out", lambda: calib_eval.main([*arguments, "--maps"]))


@pytest.fixture
def comparing(folder: PredictionFolder, tmp_path: Path) -> Command:
    evaluated = tmp_path / "evaluated"
    assert (
        calib_eval.main([str(folder.gt), str(folder.pred), "-o", str(evaluated), "-np", "1"]) == 0
    )
    arguments = [f"A={evaluated}", f"B={evaluated}", "-o", str(tmp_path / "out")]
    assert calib_compare.main([f"Other={evaluated}", *arguments]) == 0
    (tmp_path / "out" / "slices" / "old.png").write_bytes(b"of another case")
    return Command(tmp_path / "out", lambda: calib_compare.main(arguments), every=40)


@pytest.fixture
def fitting(folder: PredictionFolder, tmp_path: Path) -> Command:
    path = tmp_path / "out" / "calibrator.json"
    calibrator(folder, path)
    arguments = ["platt", str(folder.gt), str(folder.pred), "-o", str(path)]
    return Command(path.parent, lambda: calib_fit.main(arguments))


@pytest.fixture
def applying(folder: PredictionFolder, tmp_path: Path) -> Command:
    """Of another prediction than before, with nnU-Net's properties and a table of volumes."""
    first = calibrator(folder, tmp_path / "c.json")
    path = tmp_path / "v.json"
    arguments = ["volume", "--coverage", "0.5", "--after", str(first), "-o", str(path)]
    assert calib_fit.main([*arguments, "--gt", str(folder.gt), str(folder.pred)]) == 0
    arguments = [str(path), str(folder.pred)]
    arguments += ["-o", str(tmp_path / "out")]
    assert calib_apply.main(arguments) == 0
    folder.add("a", *softmax_case(np.random.default_rng(1), (4, 5, 6)))
    (folder.pred / "a.pkl").write_bytes(b"never opened")
    return Command(tmp_path / "out", lambda: calib_apply.main(arguments))


@pytest.fixture
def triaging(folder: PredictionFolder, tmp_path: Path) -> Command:
    arguments = [str(folder.pred), "-o", str(tmp_path / "out" / "triage.csv")]
    assert calib_triage.main(arguments) == 0
    folder.add("b", *softmax_case(np.random.default_rng(1), (4, 5, 6)))
    return Command(tmp_path / "out", lambda: calib_triage.main(arguments))


@pytest.fixture
def predicting(
    folder: PredictionFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """As nnU-Net would, which writes under final names: what it predicts is copied."""
    model = tmp_path / "model"
    for fold in ("fold_0", "fold_1"):
        (model / fold).mkdir(parents=True)
        with zipfile.ZipFile(model / fold / "checkpoint_final.pth", "w") as archive:
            archive.writestr("archive/data.pkl", b"")
    for name in ("dataset.json", "plans.json"):
        shutil.copy(folder.pred / name, model)
    (folder.pred / ARGUMENTS).write_text("{}")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a_0000.nii.gz").touch()

    def nnunet(arguments: list[str]) -> None:
        staging = arguments[arguments.index("-o") + 1]
        for path in sorted(folder.pred.iterdir(), key=lambda p: p.name.endswith(".nii.gz")):
            shutil.copyfile(path, Path(staging) / path.name)

    monkeypatch.setattr(prediction, "_check_model", lambda asked: model)
    monkeypatch.setattr(prediction, "_nnunet", nnunet)
    (tmp_path / "out").mkdir()
    arguments = ["--calibrator", str(calibrator(folder, tmp_path / "c.json"))]
    arguments += ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-d", "1"]
    arguments += ["-c", "3d_fullres", "-f", "0", "-device", "cpu", "--continue_prediction"]
    return Command(tmp_path / "out", lambda: predict.main(arguments))


@pytest.fixture
def averaging(predicting: Command, tmp_path: Path) -> Command:
    """Of two folds, without a calibrator."""
    arguments = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-d", "1"]
    arguments += ["-c", "3d_fullres", "-f", "0", "1", "-device", "cpu", "--continue_prediction"]
    arguments += ["--average", "probabilities", "--disagreement"]
    return Command(predicting.root, lambda: predict.main(arguments))


@pytest.fixture
def converting(
    folder: PredictionFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    source = tmp_path / "source"
    shutil.copytree(folder.gt, source / "labels")
    (source / "images").mkdir()
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    sitk.WriteImage(image, source / "images" / "a.nii.gz")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    arguments = [str(source), "-d", "7", "--name", "Mine", "--labels"]
    assert convert_folder.main([*arguments, "C=1,D=2"]) == 0
    return Command(
        tmp_path / "raw", lambda: convert_folder.main([*arguments, "A=1,B=2", "--overwrite"])
    )


def write_image(path: Path, seed: int, dtype: type = np.float32, labels: bool = False) -> None:
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.integers(0, 2 if labels else 200, (4, 5, 6)).astype(dtype))
    image.SetSpacing((0.625,) * 3)  # of the left atrium
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)


def la_data(source: Path, seed: int) -> None:
    for i, case in enumerate(TRAINING_CASES[:2]):
        write_image(source / f"imagesTr/LA_{case}_0000.nii.gz", 2 * seed + i)
        write_image(source / f"labelsTr/LA_{case}.nii.gz", i, np.uint8, labels=True)


def wmh_data(source: Path, seed: int) -> None:
    for number in (0, 2):
        for name in ("pre/FLAIR", "pre/T1", "orig/FLAIR", "orig/T1"):
            write_image(source / f"Utrecht/{number}/{name}.nii.gz", seed)
        write_image(source / f"Utrecht/{number}/wmh.nii.gz", 0, labels=True)


def decathlon_data(source: Path, seed: int) -> None:
    pairs = []
    for case in ("a", "b"):
        pair = {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"}
        write_image(source / pair["image"], seed)
        write_image(source / pair["label"], 0, np.uint8, labels=True)
        pairs.append(pair)
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "A"}}
    about |= {"name": "Mine", "training": pairs, "test": []}
    (source / "dataset.json").write_text(json.dumps(about))


CONVERTERS = {
    "LA": (convert_la.main, la_data),
    "WMH": (convert_wmh.main, wmh_data),
    "MSD": (convert_msd.main, decathlon_data),
}


def converting_published(which: str, tmp_path: Path) -> Command:
    """Over the same data set, whose images were others."""
    convert, make = CONVERTERS[which]
    source = tmp_path / "Task05_Mine"
    make(source, 1)
    assert convert([str(source), "-d", "7"]) == 0
    make(source, 2)
    arguments = [str(source), "-d", "7", "--overwrite"]
    return Command(tmp_path / "raw", lambda: convert(arguments), every=3)


@pytest.fixture
def reporting(tmp_path: Path) -> Command:
    """On one more training than before."""
    trainers = ", ".join(map(json.dumps, TRAINERS))
    plan = f'[data.hip]\ndataset = "{DATASET}"\n[[training]]\ntrainers = [{trainers}]\n'
    (tmp_path / "plan.toml").write_text(plan)
    work = tmp_path / "work"
    prepared(work)
    state = Options(tmp_path / "plan.toml", work, device="cpu").state()
    arguments = ["report", str(tmp_path / "plan.toml"), "--work", str(work)]
    finish(state, lambda key: "MEEP" not in key)
    assert benchmark.main(arguments) == 0
    finish(state)
    return Command(work / "report", lambda: benchmark.main(arguments), every=50)


@pytest.fixture
def exporting(tmp_path: Path) -> Command:
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    trainer = "nnUNetTrainerMEEP_KL"
    (model / "plans.json").write_text(json.dumps({"dataset_name": "D", "plans_name": "P"}))
    (model / "dataset.json").write_text(json.dumps({"labels": {}}))
    checkpoint = {"network_weights": {"a": torch.ones(9)}, "logging": {}, "trainer_name": trainer}
    checkpoint["init_args"] = {"configuration": "3d_fullres"}
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    (tmp_path / "out").mkdir()

    def export() -> int:
        out = tmp_path / "out" / "model"
        is_done = out.exists()
        code = export_model.main([str(model), str(out)])
        return code - 1 if is_done else code

    return Command(tmp_path / "out", export)


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A runner of a benchmark that takes a step over, and records that it is done."""
    (tmp_path / "steps").mkdir()
    # The one before was killed, and not a moment ago.
    monkeypatch.setattr(records, "_is_alive", lambda claim: False)
    monkeypatch.setattr(records, "_UNWRITTEN", -1.0)

    def record() -> None:
        of_steps = records.Records(tmp_path / "steps")
        of_steps.remove_left_over()
        claim = of_steps.claim("data/plan")
        assert claim is not None
        of_steps.write("data/plan", records.Record(records.DONE, "1", ["plan"], {}))
        of_steps.release("data/plan", claim)

    return Command(tmp_path / "steps", lambda: run(record))


COMMANDS = ["evaluating", "comparing", "fitting", "applying", "triaging", "predicting"]
COMMANDS += ["averaging", "converting", "exporting", "recording", "reporting", *CONVERTERS]


@pytest.fixture(params=COMMANDS)
def command(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    if request.param in CONVERTERS:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        return converting_published(request.param, tmp_path)
    return request.getfixturevalue(request.param)


def spread(items: list) -> list:
    """At most ``N_RERUNS`` of them, the first and the last one included."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, N_RERUNS).astype(int))]


def test_killed(command: Command) -> None:
    before = read_state(command.root)
    states = killed(command.root, command.run)
    after = recover(command.root)
    assert not same(before, after)
    for state in states:
        write_state(command.root, state)
        assert_whole(recover(command.root), before, after)
    for state in spread(states):
        write_state(command.root, state)
        assert command.run() == 0
        assert same(read_state(command.root), after)


def test_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_state(command.root)
    n_changes = len(killed(command.root, command.run))
    after = read_state(command.root)
    refused = range(0, n_changes, command.every)
    again = spread(list(refused))
    for n in refused:
        write_state(command.root, before)
        capsys.readouterr()
        code = failing(command.root, command.run, n)
        check(command, code, capsys.readouterr().err, before, after)
        if n in again:
            assert command.run() == 0
            assert same(read_state(command.root), after)


def test_files_cut_short(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_state(command.root)
    assert command.run() == 0
    after = read_state(command.root)
    sizes = sorted({len(content) for content in after.values() if content})
    for n_bytes in [0, *(size - 1 for size in spread(sizes))]:
        write_state(command.root, before)
        capsys.readouterr()
        code = limited(command.run, n_bytes)
        check(command, code, capsys.readouterr().err, before, after)
    assert command.run() == 0
    assert same(read_state(command.root), after)


def check(command: Command, code: int, said: str, before: State, after: State) -> None:
    """One line that names a file, and whole files; or nothing, where it did not matter."""
    assert code in (0, 1)
    if code == 1:
        *_, line = said.splitlines()
        assert line.startswith(f"Error: {command.root}"), line
        assert ".tmp-" not in line
        assert "Traceback" not in said
    state = recover(command.root)
    assert_whole(state, before, after)
    if code == 0:
        assert same(state, after)
