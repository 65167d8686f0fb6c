"""Test scans, labels or folds that change after they were used."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import DATASET, PLAN, finish, prepared
from small_steps import Given, command, ran, run

from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.inputs import are_same, look_at, still_there
from nnunet_meep.benchmark.running.state import State


@pytest.fixture
def work(tmp_path) -> Path:
    prepared(tmp_path)
    return tmp_path


def state_of(work: Path, plan: str = PLAN) -> State:
    (work / "plan.toml").write_text(plan)
    state = State(read_plan(work / "plan.toml"), Folders.of(work / "plan.toml", work))
    state.update()
    return state


def finished(work: Path) -> None:
    state = state_of(work)
    finish(state)
    assert state_of(work).pending() == []


def what_is_pending(work: Path) -> set[str]:
    """The kinds of the pending steps; they are those of all trainings."""
    pending = [step.key.split("/fold_0/")[1] for step in state_of(work).pending()]
    kinds = set(pending)
    assert all(pending.count(kind) == 4 for kind in kinds)
    return kinds


def write_later(path: Path, text: str) -> None:
    """Another content of the same length at another time."""
    path.write_text(text)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


AFTER_PREDICTION = {
    "apply/temperature",
    "evaluate/test",
    "evaluate/test+temperature",
}


def test_a_file_is_known_by_its_content(tmp_path) -> None:
    folders = Folders(*[tmp_path] * 4)
    names = ["{work}/a", "{work}/b"]
    for name in "ab":
        (tmp_path / name).write_text(name)
    seen = json.loads(json.dumps(look_at([*names, "{work}/missing"], folders)))
    assert list(seen) == names
    write_later(tmp_path / "a", "a")
    assert are_same(names, seen, folders)
    assert not are_same(names[:1], seen, folders)
    assert not are_same([*names, "{work}/c"], seen, folders)
    assert still_there([*names, "{work}/c"], seen, folders)
    write_later(tmp_path / "a", "x")
    assert not still_there(names, seen, folders)
    (tmp_path / "a").unlink()
    assert not still_there(names, seen, folders)
    assert still_there(names, {}, folders)


@pytest.mark.parametrize(("case", "change"), [("t3", Path.touch), ("t2", Path.unlink)])
def test_a_scan_more_or_less_is_noticed(work, case, change) -> None:
    """With one more, the prediction goes on; with one less, it starts anew, so that none stays."""
    finished(work)
    for part in (f"imagesTs/{case}_0000", f"labelsTs/{case}"):
        change(work / "nnUNet_raw" / DATASET / f"{part}.nii.gz")
    assert what_is_pending(work) == {"predict", *AFTER_PREDICTION}
    state = state_of(work)
    predictions = [step for step in state.pending() if step.key.endswith("predict")]
    goes_on = [state.can_resume(step, state.records.read(step.key)) for step in predictions]
    assert goes_on == [case == "t3"] * 4


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("imagesTs/t1_0000", {"predict", *AFTER_PREDICTION}),
        ("labelsTs/t1", {"evaluate/test", "evaluate/test+temperature"}),
    ],
)
def test_another_image_or_label_of_the_same_name_and_size(work, file, kinds) -> None:
    path = work / "nnUNet_raw" / DATASET / f"{file}.nii.gz"
    path.write_text("before")
    finished(work)
    write_later(path, "before")
    assert state_of(work).pending() == []
    write_later(path, "behind")
    assert what_is_pending(work) == kinds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fold: fold["train"].remove("c9"), "the training cases .* c9 is one no more"),
        (
            lambda fold: (fold["train"].remove("c9"), fold["val"].append("c9")),
            "the training cases .* c9 is one no more",
        ),
        (lambda fold: fold["val"].append("c5"), "the validation cases .* c5 became one"),
    ],
)
def test_a_fold_that_changed_after_it_was_trained_on(work, change, said) -> None:
    finished(work)
    path = work / "nnUNet_preprocessed" / DATASET / "splits_final.json"
    folds = json.loads(path.read_text())
    change(folds[0])
    path.write_text(json.dumps(folds))
    state = state_of(work)
    assert len(state.problems) == 4
    for key, problem in state.problems.items():
        assert key.endswith("/fold_0")
        assert re.search(said, problem)
    for fold in (work / "nnUNet_results" / DATASET).glob("*/fold_0"):  # as the message says
        fold.rename(fold.with_name("away"))
    assert state_of(work).problems == {}


@pytest.mark.usefixtures("small_step")
def test_a_look_at_another_configuration_costs_no_training(tmp_path) -> None:
    """The record then tells of another folder; what is in this one is adopted."""

    (tmp_path / "3d").mkdir()
    (tmp_path / "3d" / "checkpoint_latest.pth").write_text("of days")
    step = command("a", clear=("{work}/3d",), outputs=("{work}/3d/final",), wait="fail")
    step = replace(step, adopts=True, resume=lambda _, words: words)
    other = command("a", clear=("{work}/2d",), outputs=("{work}/2d/final",))
    run(Given(tmp_path, [step]))
    run(Given(tmp_path, [replace(other, adopts=True)]))
    run(Given(tmp_path, [step]))
    assert (tmp_path / "3d" / "checkpoint_latest.pth").read_text() == "of days"
    assert len(ran(tmp_path)) == 3


@pytest.mark.usefixtures("small_step")
def test_an_interrupted_training_is_kept_when_it_is_made_anew(tmp_path) -> None:
    fold = tmp_path / "fold_0"
    fold.mkdir()
    (fold / "checkpoint_latest.pth").write_text("of days")
    run(Given(tmp_path, [command("a", clear=("{work}/fold_0",))]))
    (kept,) = tmp_path.glob("earlier_fold_0_*")
    assert (kept / "checkpoint_latest.pth").read_text() == "of days"
