"""A plan for a data set of the user, and the machine that it will run on."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_up import DATASET, raw_data

from nnunet_meep.benchmark.init import init
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.running.data_sets import labelled_cases
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.folds import check_folds
from nnunet_meep.benchmark.running.machine import Machine, Slot
from nnunet_meep.errors import InputError


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.mark.parametrize("name", ["4", "004", DATASET, f"{DATASET}/"])
@pytest.mark.parametrize("n_test", [0, 3])
def test_a_plan_for_a_data_set(tmp_path, raw, capsys, name, n_test) -> None:
    raw_data(raw, n_test=n_test)
    path = tmp_path / "mine.toml"
    init(name, path)
    plan = read_plan(path)
    (data,) = plan.data.values()
    assert (data.name, data.dataset) == ("hippocampus", DATASET)
    assert data.folds == ((0,) if n_test else (0, 1, 2, 3, 4))
    assert bool(plan.methods) == bool(n_test)
    printed = capsys.readouterr().out
    n = len(list(plan.trainings()))
    assert f"Written: {path}, a plan of {n} trainings on {DATASET}." in printed
    assert f"meep-benchmark run {path}" in printed


@pytest.mark.parametrize("place", ["nnUNet_raw", "nnUNet_preprocessed"])
@pytest.mark.parametrize("n_left_out", [0, 1])
@pytest.mark.parametrize("n_folds", [1, 4, 5])
def test_folds_are_those_of_the_data_set(
    tmp_path, raw, monkeypatch, place, n_left_out, n_folds
) -> None:
    raw_data(raw, n_test=0)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    cases = labelled_cases(raw / DATASET)
    split = {"train": cases[2:], "val": cases[n_left_out:2]}
    folder = Path(os.environ[place]) / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits_final.json").write_text(json.dumps([split] * n_folds))
    init("4", tmp_path / "plan.toml")
    plan = read_plan(tmp_path / "plan.toml")
    data = plan.data["hippocampus"]
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    assert data.folds == tuple(range(n_folds))
    check_folds(data, Folders.of(tmp_path / "plan.toml", None))
    assert bool(plan.methods) == bool(n_left_out)  # else nothing is left to evaluate them on


def test_the_papers_plan(tmp_path, raw) -> None:
    raw_data(raw)
    init("4", tmp_path / "plan.toml", paper="WMH")
    assert len(read_plan(tmp_path / "plan.toml").models) == 9


@pytest.mark.parametrize("file", ["my plan.toml", "a'b%j\".toml"])
def test_names_that_a_shell_would_change(tmp_path, raw, file) -> None:
    raw_data(raw)
    init("4", tmp_path / file)
    lines = (tmp_path / file).read_text().splitlines()
    assert shlex.split(lines[2]) == ["#", "meep-benchmark", "run", file]


@pytest.mark.parametrize(
    ("file", "folder", "said"),
    [
        ("a\nb.toml", DATASET, "expected a name on one line"),
        ("no/plan.toml", DATASET, "expected a folder for the plan, found none"),
        ("plan.toml", "Dataset004_Hippo campus", "rename it"),
        ("plan.toml", 'Dataset004_"', "rename it"),
    ],
)
def test_names_that_a_plan_cannot_have(tmp_path, raw, file, folder, said) -> None:
    raw_data(raw).rename(raw / folder)
    with pytest.raises(InputError, match=said):
        init("4", tmp_path / file)
    assert list(tmp_path.iterdir()) == [raw]


def test_files_of_others_among_the_images(tmp_path, raw) -> None:
    images = raw_data(raw) / "imagesTr"
    for path in images.iterdir():
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.float32)), path)
    (images / ".DS_Store").touch()
    (images / "0.txt").touch()
    init("4", tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml").data["hippocampus"].configuration == "2d"
    for path in images.glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(InputError, match=r"imagesTr: expected images \*\.nii\.gz, found none"):
        init("4", tmp_path / "other.toml")


@pytest.mark.parametrize("name", ["5", "hippocampus", "notes", ".", "..", "", "Dataset4_X", "0x4"])
def test_an_unknown_data_set(tmp_path, raw, name) -> None:
    raw_data(raw)
    (raw / "notes").mkdir()
    (raw / "Dataset005_file").touch()
    with pytest.raises(InputError, match=rf"with this number or name, found none.*{DATASET}"):
        init(name, tmp_path / "plan.toml")
    assert not (tmp_path / "plan.toml").exists()


def test_nothing_is_written_where_something_is_wrong(tmp_path, raw, monkeypatch) -> None:
    path = tmp_path / "plan.toml"
    (raw / DATASET).mkdir()
    with pytest.raises(InputError, match=r"dataset\.json.*found no file"):
        init("4", path)
    raw_data(raw)
    with pytest.raises(InputError, match=r"ends with \.toml"):
        init("4", tmp_path / "plan")
    (raw / DATASET / "labelsTs" / "t0.nii.gz").unlink()
    with pytest.raises(InputError, match=r"the same cases in imagesTs and labelsTs.*t0"):
        init("4", path)
    (raw / "Dataset004_Another").mkdir()
    with pytest.raises(InputError, match="Dataset004_Another, Dataset004_Hippocampus"):
        init("4", path)
    assert list(tmp_path.iterdir()) == [raw]
    path.write_text("mine")
    with pytest.raises(InputError, match="expected no file yet"):
        init(DATASET, path)
    assert path.read_text() == "mine"
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="nnUNet_raw: expected"):
        init("4", tmp_path / "other.toml")


def test_slots(monkeypatch) -> None:
    cpu = Machine.of("cpu", 3, [], None)
    assert cpu.slots == (Slot(True, True),) * 3
    assert cpu.threads == max(1, cpu.cores // 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    gpus = Machine.of(None, 2, ["0", "3"], 2)
    assert gpus.device == "cuda"
    assert [slot.gpu for slot in gpus.slots if slot.for_device] == ["0", "3", "0", "3"]
    assert [slot for slot in gpus.slots if slot.for_others] == [Slot(False, True)] * 2
    assert Machine.of("cuda", None, [], None).slots == (Slot(True, False), Slot(False, True))
    assert Machine.of("mps", None, [], None).device == "mps"
    for device in ("cpu", "mps"):
        with pytest.raises(InputError, match=f"--gpus: .* got -device {device}"):
            Machine.of(device, None, ["0"], None)


@pytest.mark.parametrize(
    ("visible", "given", "seen"),
    [
        (None, ["2", "0"], ["2", "0"]),
        ("5, 7,GPU-8f2c", ["2", "1"], ["GPU-8f2c", "7"]),  # as a cluster hides the others
        (None, ["MIG-1a", "GPU-2b"], ["MIG-1a", "GPU-2b"]),
    ],
)
def test_each_step_sees_its_gpu_alone(monkeypatch, visible, given, seen) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = Machine.of(None, None, given, 2)
    environments = [machine.environment(s, {}, trains=True) for s in machine.slots if s.for_device]
    assert [made["CUDA_VISIBLE_DEVICES"] for made in environments] == seen * 2


@pytest.mark.parametrize(
    ("n", "visible", "given", "said"),
    [
        (2, None, ["2"], "got '2'; it sees 0 to 1$"),
        (2, None, ["-1"], "got '-1'; it sees 0 to 1$"),
        (2, "2,3", ["0", "2"], "got '2'; it sees 0 to 1 with CUDA_VISIBLE_DEVICES=2,3$"),
        (0, "", ["0"], "got '0'; it sees no GPU with CUDA_VISIBLE_DEVICES=$"),
        (2, None, ["1", "0", "1"], "expected different GPUs, got 1 twice"),
    ],
)
def test_gpus_that_are_not_there(monkeypatch, n, visible, given, said) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match=f"--gpus: .*{said}"):
        Machine.of(None, None, given, None)


def test_a_share_of_a_gpu_on_the_cpu() -> None:
    with pytest.raises(InputError, match=r"--per-gpu: expected a GPU, .* --jobs"):
        Machine.of("cpu", None, [], 2)


def test_what_the_user_has_set_stays(monkeypatch) -> None:
    folders = {"nnUNet_results": "/data/results"}
    mine = {"OMP_NUM_THREADS": "7", "nnUNet_n_proc_DA": "5", "MALLOC_ARENA_MAX": "9"}
    for name in ("nnUNet_def_n_proc", *mine):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_results", "/elsewhere")
    monkeypatch.setenv("ITERS", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    cpu = Machine("cpu", (Slot(True, True),) * 2, 8, {"ITERS": "2"})
    made = cpu.environment(cpu.slots[0], folders, trains=True)
    assert made["OMP_NUM_THREADS"] == made["nnUNet_def_n_proc"] == "4"
    assert (made["nnUNet_n_proc_DA"], made["ITERS"]) == ("1", "2")
    assert (made["nnUNet_results"], made["CUDA_VISIBLE_DEVICES"]) == ("/data/results", "0,1,2,3")
    assert cpu.environment(cpu.slots[0], folders, trains=False)["ITERS"] == "4"
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    made = cpu.environment(cpu.slots[0], folders, trains=True)
    assert mine.items() <= made.items()
    gpu = Machine("cuda", (Slot(True, False, "2"),), 64)
    assert gpu.environment(gpu.slots[0], folders, trains=True)["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.delenv("nnUNet_n_proc_DA")
    assert gpu.environment(gpu.slots[0], folders, trains=True)["nnUNet_n_proc_DA"] == "12"
    assert os.environ["nnUNet_results"] == "/elsewhere"
