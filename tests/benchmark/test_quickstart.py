"""The quickstart's plan, data and words; what it runs is tested with the benchmark itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.benchmark import quickstart
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.cli.quickstart import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The options of each run of a plan, which does nothing."""
    found = []
    monkeypatch.setattr(quickstart, "run", found.append)
    monkeypatch.chdir(tmp_path)
    return found


def contents(folder):
    """Names, modification times and bytes of all that is in a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            None if path.is_dir() else path.read_bytes(),
        )
        for path in folder.rglob("*")
    }


def raw_data(folder, *, test_labels=True):
    """The names of nnU-Net raw data; nobody reads these files here."""
    files = ["imagesTr/A_0000.nrrd", "imagesTr/A_0001.nrrd", "labelsTr/A.nrrd"]
    files += ["imagesTs/B_0000.nrrd", "imagesTs/B_0001.nrrd"]
    files += ["labelsTs/B.nrrd"] if test_labels else []
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "dataset.json").write_text('{"file_ending": ".nrrd"}')
    return folder


@pytest.mark.parametrize(("shape", "configuration"), [((6, 7), "2d"), ((5, 6, 7), "3d_fullres")])
def test_the_configuration_is_that_of_the_images(tmp_path, runs, shape, configuration):
    data = raw_data(tmp_path / "Dataset007_Mine")
    for path in data.glob("imagesTr/*"):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape, np.float32)), path)
    assert main(["-o", "out", "--data", str(data)]) == 0
    assert read_plan(runs[0].plan).data["data"].configuration == configuration


def error(capsys):
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_it_runs_a_plan_of_the_default_and_the_recommended_trainer(runs, capsys):
    assert main(["-o", "out", "-device", "cpu"]) == 0
    (options,) = runs
    assert (options.work, options.device) == (Path("out"), "cpu")
    plan = read_plan(options.plan)
    assert [t.trainer for t in plan.trainings()] == [
        *("nnUNetTrainerDiceCE_3epochs_12iters_seed0",),
        *("nnUNetTrainerMEEP_H_lambdaauto_3epochs_12iters_seed0",),
    ]
    raw = Path("out/nnUNet_raw") / plan.data["synthetic"].dataset
    assert len(list((raw / "imagesTr").iterdir())) == 12
    said = capsys.readouterr().out
    assert said.index("two to three minutes") < said.index("Next, on your own data")
    assert said.count("tests the\ninstallation, not the method") == 2


def test_two_runs_give_the_same_numbers_and_stay_out_of_the_users_account(runs, monkeypatch):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    assert main(["-o", "out", "-device", "cpu"]) == 0
    assert runs[0].environment["nnUNet_n_proc_DA"] == "0"
    assert runs[0].environment["nnUNet_wandb_enabled"] == "0"


def test_data_of_the_user_are_linked_and_left_alone(runs, tmp_path, capsys):
    data = raw_data(tmp_path / "Dataset042_Mine")
    before = contents(data)
    assert main(["-o", "out", "--data", str(data), "-device", "cpu"]) == 0
    assert contents(data) == before
    assert (tmp_path / "out/nnUNet_raw/Dataset042_Mine").resolve() == data
    (tmp_path / "other").mkdir()
    other = raw_data(tmp_path / "other" / data.name)
    assert main(["-o", "out", "--data", str(other), "-device", "cpu"]) == 1
    assert f"found that of one on {data}; give another folder" in error(capsys)
    assert len(runs) == 1
    assert read_plan(runs[0].plan).data["data"].dataset == "Dataset042_Mine"


def test_data_are_copied_where_links_are_impossible(runs, tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    data = raw_data(tmp_path / "Dataset042_Mine")
    assert main(["-o", "out", "--data", str(data), "-device", "cpu"]) == 0
    assert contents(tmp_path / "out/nnUNet_raw/Dataset042_Mine").keys() == contents(data).keys()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: d.rename(d.parent / "elsewhere"), "found none"),
        (lambda d: (d / "dataset.json").unlink(), "found no file"),
        (lambda d: (d / "dataset.json").write_text("{}"), '"file_ending"'),
        (lambda d: (d / "dataset.json").write_text("no"), '"file_ending"'),
        (lambda d: (d / "dataset.json").write_text('{"file_ending": ".mha"}'), "found none"),
        (lambda d: (d / "labelsTr/A.nrrd").unlink(), "labelsTr: expected labels"),
        (lambda d: (d / "labelsTs/C.nrrd").touch(), "found C in one only"),
    ],
)
def test_bad_data_is_refused_in_one_line(runs, tmp_path, capsys, spoil, expected):
    data = raw_data(tmp_path / "Dataset042_Mine")
    spoil(data)
    assert main(["-o", "out", "--data", str(data)]) == 1
    message = error(capsys)
    assert str(data) in message
    assert expected in message
    assert not Path("out").exists()


def test_data_needs_a_name_that_nnunet_knows(runs, tmp_path, capsys):
    data = raw_data(tmp_path / "Hippocampus")
    assert main(["-o", "out", "--data", str(data)]) == 1
    assert "DatasetXXX_NAME" in error(capsys)


def test_data_and_working_folder_must_not_overlap(runs, tmp_path, capsys):
    data = raw_data(tmp_path / "Dataset042_Mine")
    before = contents(data)
    for out in (data, data / "out", tmp_path):
        assert main(["-o", str(out), "--data", str(data)]) == 1
        assert "must not overlap" in error(capsys)
    assert contents(data) == before


def test_a_foreign_folder_is_left_alone(runs, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    (foreign / "empty").mkdir(parents=True)
    before = contents(foreign)
    assert main(["-o", str(foreign), "-device", "cpu"]) == 1
    assert "found empty" in error(capsys)
    assert contents(foreign) == before
    (foreign / "empty" / "mine").write_text("mine")
    assert main(["-o", str(foreign / "empty" / "mine")]) == 1
    assert "found a file" in error(capsys)


def test_an_earlier_quickstart_of_the_same_data_goes_on(runs, tmp_path, capsys):
    Path("out").mkdir()  # empty: nothing to lose
    assert main(["-o", "out", "-device", "cpu"]) == 0
    before = contents(Path("out"))
    assert main(["-o", "out", "-device", "cpu"]) == 0
    assert contents(Path("out")) == before
    assert "goes on" in capsys.readouterr().out
    data = raw_data(tmp_path / "Dataset042_Mine")
    assert main(["-o", "out", "--data", str(data)]) == 1
    assert "not from a meep-quickstart of these data" in error(capsys)
