"""What a runner says: how far it is, how long it will take, and what went wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from made_up import PLAN, TRAINERS, finish, prepared, raw_data

from nnunet_meep.benchmark.run import Options
from nnunet_meep.benchmark.running import watch
from nnunet_meep.benchmark.running.progress import last_error
from nnunet_meep.benchmark.running.records import BEGUN
from nnunet_meep.benchmark.running.watch import Watch, run_steps, status_line, step_label, time_left

PLAIN, MEEP = TRAINERS
PARTS = [("DiceCE seed0 train", "epoch 1 of 3"), ("MEEP_H_lambda0p1 seed0 train", "starting")]


@pytest.fixture
def options(tmp_path) -> Options:
    (tmp_path / "plan.toml").write_text(PLAN)
    return Options(tmp_path / "plan.toml", tmp_path / "work", device="cpu")


def test_all_that_runs_fits_into_a_line() -> None:
    whole = "2 of 9 steps done, 1:05 | DiceCE seed0 train epoch 1 of 3"
    whole += " | MEEP_H_lambda0p1 seed0 train starting"
    head = "2 of 9 steps done, 1:05"
    assert status_line(head, PARTS) == status_line(head, PARTS, 200) == whole
    for width in range(len(whole) + 1):
        line = status_line(head, PARTS, width)
        assert len(line) <= width
        if width >= 75:  # names are shortened, how far it is is not
            assert "epoch 1 of 3 | " in line
            assert line.endswith(" starting")
            assert line.startswith(f"{head} | DiceCE")


def test_labels_of_steps(options) -> None:
    plan = options.state().plan if raw_data(options.work / "nnUNet_raw") else None
    assert plan is not None
    for key, label in (
        ("hip/preprocess", "preprocess"),
        ("hip/test_images/fold_0", "test_images/fold_0"),
        (f"hip/{PLAIN}_seed1/fold_0/train", "DiceCE seed1 train"),
        (
            f"hip/{MEEP}_seed0/fold_0/evaluate/test+temperature",
            "MEEP_H_lambda0p1 seed0 evaluate/test+temperature",
        ),
    ):
        assert step_label(plan, key) == label
    two = replace(plan, data={**plan.data, "la": replace(plan.data["hip"], folds=(0, 1))})
    assert step_label(two, f"hip/{PLAIN}_seed1/fold_0/train") == "hip DiceCE seed1 train"
    folds = replace(plan, data={"hip": replace(plan.data["hip"], folds=(0, 1))})
    assert step_label(folds, f"hip/{PLAIN}_seed1/fold_1/train") == "DiceCE seed1 fold_1 train"


def test_how_long_it_will_take(options) -> None:
    """From steps of the same kind: those that are made up took a minute each."""
    raw_data(options.work / "nnUNet_raw")
    nothing = SimpleNamespace(running=[], failed={})
    assert time_left(options.state(), nothing) is None
    prepared(options.work)
    assert time_left(options.state(), nothing) is None
    finish(options.state(), lambda key: key == f"hip/{PLAIN}_seed0/fold_0/train")
    assert time_left(options.state(), nothing) == (3 * 60, False)
    finish(options.state(), lambda key: f"{PLAIN}_seed0" in key)
    # For each of three trainings: train, predict, fit, apply, and three evaluations.
    assert time_left(options.state(), nothing) == (3 * 7 * 60, True)
    state = options.state()
    step = state.steps[f"hip/{MEEP}_seed0/fold_0/train"]
    record = SimpleNamespace(state=BEGUN, started=time.time() - 40)
    process = SimpleNamespace(output=lambda: "2026: Epoch 1\n")
    runs = SimpleNamespace(step=step, record=record, process=process)
    seconds, _ = time_left(state, SimpleNamespace(running=[runs, runs], failed={}))
    assert seconds == pytest.approx((3 * 7 * 60 - 40) / 2, abs=5)


def test_an_interruption_is_answered_with_what_to_do(options, monkeypatch, capsys) -> None:
    prepared(options.work)
    state = options.state()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "Runner", lambda *_: SimpleNamespace(run=interrupt))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = Watch(state)
    shown.keep("0:01", PARTS)
    with pytest.raises(KeyboardInterrupt):
        run_steps(state, options.machine(), shown)
    assert capsys.readouterr().out.endswith("\nStopped. The same command goes on from here.\n")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it said nothing"),
        ("a\nKilled\n", "Killed"),
        ("ValueError: no\nworker ended\n", "ValueError: no"),
        (
            "AssertionError: 2 axes\nRuntimeError: One or more background workers are no longer "
            "alive. Exiting.\n",
            "AssertionError: 2 axes",
        ),
        (
            "RuntimeError: One or more background workers are no longer alive. Exiting.",
            "RuntimeError: One or more background workers are no longer alive. Exiting.",
        ),
    ],
)
def test_the_error_in_a_log(log, said) -> None:
    assert last_error(log) == said
