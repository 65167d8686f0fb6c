"""A plan for a data set of the user, and the machine that it will run on."""

from __future__ import annotations

import os

import pytest
from made_up import DATASET, raw_data

from nnunet_meep.benchmark.init import init
from nnunet_meep.benchmark.plans.read_plan import read_plan
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


def test_the_papers_plan(tmp_path, raw) -> None:
    raw_data(raw)
    init("4", tmp_path / "plan.toml", paper="WMH")
    assert len(read_plan(tmp_path / "plan.toml").models) == 9


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


def test_slots() -> None:
    cpu = Machine.of("cpu", 3, [], None)
    assert cpu.slots == (Slot(True, True),) * 3
    assert cpu.threads == max(1, cpu.cores // 3)
    gpus = Machine.of(None, 2, ["0", "3"], 2)
    assert gpus.device == "cuda"
    assert [slot.gpu for slot in gpus.slots if slot.for_device] == ["0", "3", "0", "3"]
    assert [slot for slot in gpus.slots if slot.for_others] == [Slot(False, True)] * 2
    assert Machine.of("cuda", None, [], None).slots == (Slot(True, False), Slot(False, True))
    assert Machine.of("mps", None, [], None).device == "mps"
    for device in ("cpu", "mps"):
        with pytest.raises(InputError, match=f"--gpus: .* got -device {device}"):
            Machine.of(device, None, ["0"], None)


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
