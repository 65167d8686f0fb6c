"""What is done, running, failed and pending, as a table and as lines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import DATASET, PLAN, TRAINERS, finish, prepared, raw_data

from nnunet_meep.benchmark.run import Options
from nnunet_meep.benchmark.running.records import FAILED
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.status import pending_lines, status_table

PLAIN, MEEP = TRAINERS
KEYS = [f"hip/{trainer}_seed{seed}/fold_0" for seed in (0, 1) for trainer in TRAINERS]


@pytest.fixture
def options(tmp_path) -> Options:
    (tmp_path / "plan.toml").write_text(PLAN)
    return Options(tmp_path / "plan.toml", tmp_path / "work", device="cpu")


def cells(state: State) -> dict[str, list[str]]:
    """By training, without its seed's ``_seed``: train, predict, calibrate, evaluate."""
    lines = status_table(state).splitlines()
    columns = [lines[0].index(c) for c in ("trainer", "fold", "train ", "predict", "calib", "eval")]
    rows = [
        [line[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)]
        for line in lines[2:]
        if line.startswith("hip  ")
    ]
    return {name: row for name, _, *row in rows}


def test_a_fresh_plan(options) -> None:
    raw_data(options.work / "nnUNet_raw")
    state = options.state()
    assert cells(state) == {
        "(preparation)": ["1 of 5 steps (1 found)", "", "", ""],
        **{key.split("/")[1]: ["pending"] * 4 for key in KEYS},
    }
    assert pending_lines(state) == ([[key] for key in KEYS], [], [])
    assert not (options.work / "nnUNet_preprocessed").exists()


def test_a_part_of_the_preparation(options) -> None:
    raw_data(options.work / "nnUNet_raw")
    for only, last in (("hip/data", []), ("hip/plan", ["fingerprint", "plan"])):
        pending = [step.key for step in options.state([only]).pending()]
        assert pending == [f"hip/{key}" for key in last]
    both = options.state(["hip/data", KEYS[0]])
    assert both.pending()[-1].key == "hip/splits"


def test_half_done(options) -> None:
    prepared(options.work)
    finish(options.state(), lambda key: "seed0" in key or key.endswith("/train"))
    state = options.state()
    claim = state.records.claim(f"{KEYS[2]}/predict")
    state.log(state.steps[f"{KEYS[2]}/predict"]).parent.mkdir(parents=True)
    state.log(state.steps[f"{KEYS[2]}/predict"]).write_text(
        "There are 3 cases that I would like to predict\nPredicting t0:\n"
    )
    record = replace(state.records.read(f"{KEYS[0]}/train"), state=FAILED, reason="no memory")
    state.records.write(f"{KEYS[3]}/predict", record)
    log = options.work / "logs" / f"{KEYS[3]}/predict.log"
    log.parent.mkdir(parents=True)
    log.write_text("no memory")
    state = options.state()
    running = f"running on {claim.machine.split()[0]}, case 1 of 3"
    assert cells(state) == {
        "(preparation)": ["done (5 found)", "", "", ""],
        f"{PLAIN}_seed0": ["done"] * 4,
        f"{MEEP}_seed0": ["done"] * 4,
        f"{PLAIN}_seed1": ["done", running, "pending", "pending"],
        f"{MEEP}_seed1": ["done", "failed", "pending", "pending"],
    }
    said, last = status_table(state).splitlines()[-2:]
    assert said == "found: it was there before, and this benchmark did not have to make it"
    assert last == f"{KEYS[3]}/predict failed: no memory (all it said: {log})"
    assert pending_lines(state) == ([[key] for key in KEYS[2:]], [], [])
    finish(state)
    ours = cells(options.state())
    assert ours.pop("(preparation)")[0] == "done (5 found)"
    assert {cell for row in ours.values() for cell in row} == {"done"}
    assert pending_lines(options.state()) == ([], [], [])


def test_without_test_scans_there_is_nothing_to_predict(options) -> None:
    prepared(options.work, n_test=0)
    state = options.state()
    assert cells(state)[f"{PLAIN}_seed0"] == ["pending", "-", "-", "pending"]
    key = f"hip/{PLAIN}_seed0/fold_0"
    for what in ("predict", "evaluate/test", "fit/temperature"):
        ((training, said),) = options.state([f"{key}/{what}"]).problems.items()
        assert training == key
        assert "without test scans with labels are train and evaluate/validation" in said
    assert options.state([f"{key}/evaluate/validation"]).problems == {}


def test_predictions_may_be_deleted_once_they_are_evaluated(options) -> None:
    prepared(options.work)
    finish(options.state())
    for path in (options.work / "predictions").rglob("*.npz"):
        path.unlink()
    assert options.state().pending() == []
    # A further calibration needs those of the test scans again, and all that comes of them.
    options.plan.write_text(PLAN.replace('["temperature"]', '["temperature", "platt"]'))
    pending = {step.key.removeprefix(KEYS[0] + "/") for step in options.state().pending()}
    ours = {key for key in pending if not key.startswith("hip")}
    assert ours == {
        *("predict", "evaluate/test", "apply/temperature", "evaluate/test+temperature"),
        *("fit/platt", "apply/platt", "evaluate/test+platt"),
    }


def test_a_smaller_network_is_another_benchmark(options) -> None:
    """Its plans, the preprocessed cases and the trainings are made anew."""
    network = "[data.hip.network]\npatch_size = [32, 32, 32]\n\n[[training]]"
    options.plan.write_text(PLAN.replace("[[training]]", network))
    prepared(options.work)
    folder = options.work / "nnUNet_preprocessed" / DATASET
    state = options.state()
    assert [step.key for step in state.pending()] == [
        f"hip/{x}" for x in ("plan", "preprocess", "splits")
    ]
    plans = '{"configurations": {"3d_fullres": {"data_identifier": "shared"}}}'
    (folder / "nnUNetPlansBenchmark.json").write_text(plans)
    # Where the plans say that the preprocessed cases are.
    outputs = options.state().steps["hip/preprocess"].outputs
    assert {text.split("/")[-2] for text in outputs} == {"shared"}
    finish(options.state())
    finish(options.state())
    assert options.state().pending() == []
    options.plan.write_text(options.plan.read_text().replace("32, 32, 32", "16, 16, 16"))
    assert cells(options.state())["(preparation)"][0] == "2 of 5 steps (2 found)"
    again = [step.key for step in options.state().pending()]
    assert again == ["hip/plan", "hip/preprocess", "hip/splits"]


def test_parts(options) -> None:
    options.plan.write_text(PLAN + "\n[evaluate]\nparts = 2\n")
    prepared(options.work)
    state = options.state()
    trainings, parts, joins = pending_lines(state)
    assert trainings[0] == [f"{KEYS[0]}/{what}" for what in ("train", "predict", "fit", "apply")]
    assert joins == [[key] for key in KEYS]
    evaluated = ("validation", "test", "test+temperature")
    assert parts[:6] == [
        [f"{KEYS[0]}/evaluate/{what}/part_{i}_of_2"] for what in evaluated for i in (1, 2)
    ]
    assert len(parts) == 24
    # Each line is enough for what it names, and for what that needs.
    for only, keys in ((trainings[0], {"train", "predict", "fit/temperature"}), (parts[5], {"x"})):
        of_line = {step.key for step in options.state(only).pending()}
        assert of_line >= {f"{KEYS[0]}/{key}" for key in keys if key != "x"}
        assert not {key for key in of_line if key.startswith(KEYS[1])}
    # Half of the parts are done.
    finish(state, lambda key: not key.endswith(("of_2", *evaluated)) or key.endswith("1_of_2"))
    trainings, parts, joins = pending_lines(options.state())
    assert len(parts) == 12
    assert all(line[0].endswith("part_2_of_2") for line in parts)
    assert cells(options.state())[f"{PLAIN}_seed0"] == ["done", "done", "done", "3 of 9 steps"]


def test_a_fold_that_is_not_there_is_said(options) -> None:
    options.plan.write_text(PLAN.replace("[[training]]", "folds = [0, 7]\n\n[[training]]", 1))
    prepared(options.work)
    state = options.state()
    assert list(state.problems) == ["hip"]
    assert "hip: [data.hip] folds: expected folds from 0 to 4" in status_table(state)
