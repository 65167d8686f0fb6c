"""What a plan does with data of all kinds: folds, changed data, plans and configurations."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from made_up import DATASET, TRAINERS, prepared, raw_data

from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.folds import cases_left_out
from nnunet_meep.benchmark.running.prepare import link, preparation
from nnunet_meep.benchmark.running.records import DONE, Record
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.steps import training_steps
from nnunet_meep.errors import InputError

PLAN = f"""\
[data.hip]
dataset = "{DATASET}"
%s
[[training]]
trainers = {json.dumps(TRAINERS)}

[calibrate]
methods = ["temperature"]

[[compare]]
reference = "{TRAINERS[0]}%s"
"""


@pytest.fixture
def work(tmp_path) -> Path:
    """A working folder with a prepared data set without test scans."""
    prepared(tmp_path / "work", n_test=0)
    return tmp_path / "work"


def plan_of(tmp_path: Path, data: str = "", then: str = "") -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN % (data, then))
    return read_plan(path)


def updated(tmp_path: Path, plan: Plan) -> State:
    state = State(plan, Folders.of(tmp_path / "plan.toml", tmp_path / "work"))
    state.update()
    return state


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_link_to_what_was_moved_is_made_anew(tmp_path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        link(tmp_path / name, tmp_path / "work" / "data")
        (tmp_path / "work" / "data" / "x").write_text(name)
        assert (tmp_path / name / "x").read_text() == name
        if name == "old":
            (tmp_path / "old").rename(tmp_path / "moved")


def test_a_training_that_was_validated_again_is_kept(tmp_path, work) -> None:
    """Whatever its validation looks like, its checkpoint is not deleted."""
    plan = plan_of(tmp_path)
    folders = Folders.of(tmp_path / "plan.toml", work)
    train = training_steps(plan, next(plan.trainings()), folders, "hip/splits")[0]
    checkpoint, summary, *_ = map(folders.path, train.outputs)
    summary.parent.mkdir(parents=True)
    with zipfile.ZipFile(checkpoint, "w") as file:
        file.writestr("weights", b"of days")
    summary.write_text("as it was")
    state = State(plan, folders)
    record = Record(DONE, "x", list(train.command), state.identities(train), state.sizes(train))
    summary.write_text("as nnUNetv2_train --val made it")
    assert state.can_resume(train, record)
    assert train.resume is not None
    assert train.resume(folders, ["train"]) == ["train", "--val"]


@pytest.mark.parametrize("place", ["nnUNet_preprocessed", "nnUNet_raw"])
def test_the_folds_are_the_users_own(tmp_path, monkeypatch, place) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw_data(tmp_path / "nnUNet_raw", n_test=0)
    cases = [f"c{i}" for i in range(10)]
    theirs = [{"train": cases[4:], "val": cases[:4]}, {"train": cases[:6], "val": cases[6:]}]
    write(Path(os.environ[place]) / DATASET / "splits_final.json", theirs)
    plan = plan_of(tmp_path, "folds = [0, 1]")
    folders = Folders.of(tmp_path / "plan.toml", tmp_path / "work")
    preparation(plan.data["hip"], folders, None)[0].action(folders)
    preprocessed = folders.preprocessed / DATASET
    preprocessed.mkdir(parents=True)
    preparation(plan.data["hip"], folders, None)[-1].action(folders)
    assert json.loads((preprocessed / "splits_final.json").read_text()) == theirs


def test_folds_of_another_data_set_of_that_name_are_not_taken(tmp_path, monkeypatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        write(tmp_path / variable / DATASET / "splits_final.json", [{"train": ["x"], "val": ["y"]}])
    raw_data(tmp_path / "work" / "nnUNet_raw")  # as converted there
    plan = plan_of(tmp_path)
    folders = Folders.of(tmp_path / "plan.toml", tmp_path / "work")
    preprocessed = folders.preprocessed / DATASET
    preprocessed.mkdir(parents=True)
    preparation(plan.data["hip"], folders, None)[-1].action(folders)
    folds = json.loads((preprocessed / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == [f"c{i}" for i in range(10)]


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize(
    ("key", "before"),
    [
        ("labels", {"background": 0, "a": 1, "b": 2}),
        ("labels", {"background": 0, "b": [2, 1], "a": 2}),
        ("regions_class_order", [1, 2]),
        ("channel_names", {"0": "CT"}),
        ("channel_names", {"0": "T1", "1": "T2"}),
        ("file_ending", ".nrrd"),
    ],
)
def test_data_that_were_converted_again_are_not_mixed(tmp_path, work, key, before, folds) -> None:
    raw, preprocessed = (work / name / DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    labels = {"background": 0, "a": [1, 2], "b": 2}
    content = {**json.loads((raw / "dataset.json").read_text()), "labels": labels}
    write(raw / "dataset.json", content)
    renamed = {"background": 0, "A": [1, 2], "B": 2}
    same = {"labels": renamed, "channel_names": {"0": "T1"}, "numTraining": 7}
    write(preprocessed / "dataset.json", {**content, **same})
    assert not updated(tmp_path, plan_of(tmp_path)).problems
    write(preprocessed / "dataset.json", {**content, key: before})
    if not folds:
        (preprocessed / "splits_final.json").unlink()
    (said,) = updated(tmp_path, plan_of(tmp_path)).problems.values()
    assert f"found that {key} ha" in said


@pytest.mark.parametrize("changed", ["labels", "folds"])
def test_a_training_on_other_data_is_not_taken(tmp_path, work, changed) -> None:
    plan = plan_of(tmp_path)
    folders = Folders.of(tmp_path / "plan.toml", work)
    train = training_steps(plan, next(plan.trainings()), folders, "hip/splits")[0]
    validation = folders.path(train.outputs[1]).parent
    dataset = json.loads((folders.raw / DATASET / "dataset.json").read_text())
    write(validation.parents[1] / "dataset.json", {**dataset, "labels": {"background": 0, "a": 1}})
    case = "c9" if changed == "folds" else "c0"
    write(validation / f"{case}.nii.gz", "a segmentation")
    now = {"background": 0, "b": 1} if changed == "folds" else {"background": 0, "a": 1, "b": 2}
    write(folders.raw / DATASET / "dataset.json", {**dataset, "labels": now})
    problems = updated(tmp_path, plan).problems
    assert next(plan.trainings()).key in problems
    said = problems[next(plan.trainings()).key]
    assert ("found c9" if changed == "folds" else "found that labels have changed") in said


def test_a_training_scan_that_became_a_test_scan(tmp_path, work) -> None:
    raw = work / "nnUNet_raw" / DATASET
    for part, name in (("images", "c9_0000.nii.gz"), ("labels", "c9.nii.gz")):
        (raw / f"{part}Ts").mkdir()
        (raw / f"{part}Tr" / name).rename(raw / f"{part}Ts" / name)
    (said,) = updated(tmp_path, plan_of(tmp_path)).problems.values()
    assert "found that c9 is no training case any more" in said


def test_folds_that_do_not_know_all_cases_are_drawn_anew(tmp_path, monkeypatch) -> None:
    """Those of data that were preprocessed before cases were added."""
    prepared(tmp_path, n_test=0)  # of nnUNet_raw and nnUNet_preprocessed
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    raw, preprocessed = (tmp_path / v / DATASET for v in ("nnUNet_raw", "nnUNet_preprocessed"))
    (preprocessed / "gt_segmentations").mkdir()
    for label in (raw / "labelsTr").iterdir():
        (preprocessed / "gt_segmentations" / label.name).touch()
    for name in ("imagesTr/c10_0000.nii.gz", "labelsTr/c10.nii.gz"):
        (raw / name).touch()
    plan = plan_of(tmp_path)
    folders = Folders.of(tmp_path / "plan.toml", tmp_path / "work")
    (folders.preprocessed / DATASET).mkdir(parents=True)
    preparation(plan.data["hip"], folders, None)[0].action(folders)
    preparation(plan.data["hip"], folders, None)[-1].action(folders)
    folds = json.loads((folders.preprocessed / DATASET / "splits_final.json").read_text())
    assert "c10" in {case for fold in folds for case in fold["val"]}
    assert cases_left_out(raw) == [0] * 5


def test_two_files_of_folds_that_differ(tmp_path, monkeypatch) -> None:
    prepared(tmp_path, n_test=0)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    cases = [f"c{i}" for i in range(10)]
    of_raw = tmp_path / "nnUNet_raw" / DATASET / "splits_final.json"
    write(of_raw, [{"train": cases[2:], "val": cases[:2]}])
    (said,) = updated(tmp_path, plan_of(tmp_path, "folds = [0]")).problems.values()
    assert f"expected the folds of {of_raw}, found others" in said.replace(
        str(tmp_path / "work"), str(tmp_path)
    )


def test_a_new_case_is_no_test_scan(tmp_path, work) -> None:
    """Unless the folds left it out when the data were preprocessed."""
    raw, preprocessed = (work / name / DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    write(preprocessed / "dataset.json", json.loads((raw / "dataset.json").read_text()))
    for label in (raw / "labelsTr").iterdir():
        (preprocessed / "gt_segmentations").mkdir(exist_ok=True)
        (preprocessed / "gt_segmentations" / label.name).touch()
    for name in ("imagesTr/c10_0000.nii.gz", "labelsTr/c10.nii.gz"):
        (raw / name).touch()
    (said,) = updated(tmp_path, plan_of(tmp_path)).problems.values()
    assert "found that c10 has been added" in said
    (preprocessed / "gt_segmentations" / "c10.nii.gz").touch()
    (preprocessed / "nnUNetPlans_3d_fullres" / "c10.pkl").touch()
    state = updated(tmp_path, plan_of(tmp_path))
    assert not state.problems
    assert "hip/test_images/fold_0" in state.steps


@pytest.mark.parametrize(("folds", "tests"), [("[0]", True), ("[0, 1]", False)])
def test_all_folds_are_tested_alike(tmp_path, work, folds, tests) -> None:
    """Fold 0 leaves out two cases, fold 1 none: together they are compared on validation cases."""
    cases = [f"c{i}" for i in range(10)]
    folds_of_both = [
        {"train": cases[4:], "val": cases[2:4]},
        {"train": cases[4:], "val": cases[:4]},
    ]
    write(work / "nnUNet_preprocessed" / DATASET / "splits_final.json", folds_of_both)
    state = updated(tmp_path, plan_of(tmp_path, f"folds = {folds}"))
    assert not state.problems
    assert any(key.endswith("/predict") for key in state.steps) == tests


def test_a_calibrated_reference_of_another_data_set(tmp_path) -> None:
    """It is not compared with here, so it need not be evaluated here."""
    prepared(tmp_path / "work", n_test=0)
    path = tmp_path / "plan.toml"
    other = PLAN.replace("[[training]]", '[[training]]\ndata = "hip"') % ("", "")
    more = """
[data.elsewhere]
dataset = "Dataset005_Elsewhere"

[[training]]
data = "elsewhere"
trainers = ["nnUNetTrainerCE_2epochs"]

[[compare]]
reference = "nnUNetTrainerCE_2epochs + temperature"
"""
    path.write_text(other + more)
    problems = updated(tmp_path, read_plan(path)).problems
    assert list(problems) == ["elsewhere"]  # which does not exist


@pytest.mark.parametrize("n_test", [0, 3])
def test_a_calibrated_reference_needs_test_scans(tmp_path, n_test) -> None:
    prepared(tmp_path / "work", n_test=n_test)
    plan = plan_of(tmp_path, then=" + temperature")
    problems = updated(tmp_path, plan).problems
    assert len(problems) == (0 if n_test else len(list(plan.trainings())))
    for said in problems.values():
        assert "expected test scans with labels" in said
        assert said.endswith(f'give reference = "{TRAINERS[0]}"')


def test_plans_that_nnunet_does_not_make_have_to_be_there(tmp_path, work) -> None:
    plan = plan_of(tmp_path, 'plans = "nnUNetResEncUNetMPlans"')
    (said,) = updated(tmp_path, plan).problems.values()
    assert said.startswith("[data.hip] plans: expected")
    assert "nnUNetResEncUNetMPlans.json, found no file" in said
    preprocessed = work / "nnUNet_preprocessed" / DATASET
    (preprocessed / "nnUNetPlans.json").rename(preprocessed / "nnUNetResEncUNetMPlans.json")
    assert not updated(tmp_path, plan).problems


def test_a_configuration_inherits_its_data(tmp_path, work) -> None:
    path = work / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["bs4"] = {"inherits_from": "3d_fullres", "batch_size": 4}
    write(path, plans)
    data = plan_of(tmp_path, 'configuration = "bs4"').data["hip"]
    steps = preparation(data, Folders.of(tmp_path / "plan.toml", work), None)
    (preprocess,) = [step for step in steps if step.key == "hip/preprocess"]
    assert preprocess.outputs[0] == f"{{preprocessed}}/{DATASET}/nnUNetPlans_3d_fullres/c0.pkl"


NETWORK = """
[data.hip.network]
plans = "Own"
%s
"""


def changed_plans(tmp_path: Path, network: str) -> dict:
    """The configuration that nnU-Net planned with six stages, after the plan's changes."""
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "patch_size": [96, 160, 160],
        "batch_size": 2,
        "architecture": {
            "arch_kwargs": {
                "n_stages": 6,
                "features_per_stage": [32, 64, 128, 256, 320, 320],
                "strides": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
            }
        },
    }
    folders = Folders.of(tmp_path / "plan.toml", tmp_path / "work")
    path = folders.preprocessed / DATASET / "Own.json"
    write(path, {"configurations": {"3d_fullres": configuration}})
    plan = plan_of(tmp_path, NETWORK % network)
    steps = preparation(plan.data["hip"], folders, None)
    (planned,) = [step for step in steps if step.key == "hip/plan"]
    planned.action(folders)
    return json.loads(path.read_text())["configurations"]["3d_fullres"]


def test_a_smaller_network_has_as_many_stages_as_planned(tmp_path, work) -> None:
    found = changed_plans(tmp_path, "patch_size = [32, 64, 64]\nfeatures_per_stage = [8, 16, 32]")
    architecture = found["architecture"]["arch_kwargs"]
    assert architecture["features_per_stage"] == [8, 16, 32, 32, 32, 32]
    assert found["patch_size"] == [32, 64, 64]
    assert found["data_identifier"] == "nnUNetPlans_3d_fullres"


def test_another_spacing_has_data_of_its_own(tmp_path, work) -> None:
    found = changed_plans(tmp_path, 'planner = "nnUNetPlannerResEncM"\ntarget_spacing = [2, 2, 2]')
    assert found["data_identifier"] == "Own_3d_fullres"


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("patch_size = [32, 48, 64]", r"patch_size: expected multiples of \[16, 32, 32\]"),
        ("patch_size = [16, 32, 32]", r"and not \[16, 32, 32\] itself"),
        ("features_per_stage = [1, 2, 3, 4, 5, 6, 7]", "expected at most 6 numbers"),
    ],
)
def test_a_network_that_nnunet_could_not_build(tmp_path, work, network, said) -> None:
    with pytest.raises(InputError, match=said):
        changed_plans(tmp_path, network)
