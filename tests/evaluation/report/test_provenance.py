"""What the page says a comparison is about."""

from __future__ import annotations

import json

from predictions import compared, stored_result

from nnunet_meep.evaluation.report.provenance import (
    page_title,
    provenance,
    settings_tables,
    training_names,
)

CASES = {"a": {"1": {"dice": 0.5}}}


def result(folder, **network):
    content = stored_result(CASES, pred_folder=folder)
    content["network"] = network
    return content


def test_the_title_names_models_and_data_set() -> None:
    known = result("p", dataset="Dataset001_A")
    assert page_title(compared({"m": known})) == "Calibration of m on Dataset001_A"
    in_path = result("results/Dataset002_B/nnUNetTrainer__nnUNetPlans__2d/fold_0/validation")
    title = page_title(compared({"m": known, "n": in_path, "o": known}))
    assert title == "Calibration of m, n and o on Dataset001_A and Dataset002_B"
    four = {name: result("p") for name in "abcd"}
    assert page_title(compared(four)) == "Calibration of 4 models"


def test_trainers_are_those_of_the_networks_or_of_the_folders_without_their_seeds() -> None:
    seeds = [result(f"p/nnUNetTrainerMEEP_KL{seed}/fold_0") for seed in ("", "_seed1")]
    known = result("p/nnUNetTrainerX", trainer="nnUNetTrainerDiceCE", configuration="3d_fullres")
    said = provenance(compared({"m": seeds, "n": known, "o": result("predictions")}))
    assert said["models"] == [
        "2 trainings; nnUNetTrainerMEEP_KL",
        "1 training; nnUNetTrainerDiceCE; 3d_fullres",
        "1 training",
    ]
    assert ("m", "p/nnUNetTrainerMEEP_KL_seed1/fold_0") in said["folders"]
    facts = dict(said["facts"])
    assert facts["Data set"] == "not named in the results"
    assert facts["Cases"] == "1, whole images"
    assert facts["Date"].endswith("; evaluated 2026-01-01")


def test_trainings_are_named_by_what_differs_in_their_folders() -> None:
    (of_seeds,) = compared(
        {"m": [result(f"p/T_seed{seed}/fold_0") for seed in (1, 2)]}
    ).evaluations.values()
    assert training_names(of_seeds) == ["seed 1", "seed 2"]
    folders = ["p/T_seed1/fold_0", "p/T_seed1/fold_1", "p/T_seed2/fold_0"]
    (both,) = compared({"m": list(map(result, folders))}).evaluations.values()
    assert training_names(both) == ["seed 1, fold 0", "seed 1, fold 1", "seed 2, fold 0"]
    (of_names,) = compared({"m": [result("p/a"), result("p/b")]}).evaluations.values()
    assert training_names(of_names) == ["a", "b"]
    (same,) = compared({"m": [result("p"), result("p")]}).evaluations.values()
    assert training_names(same) == ["training 1", "training 2"]


def test_calibrations_of_a_training_are_no_further_trainings() -> None:
    plain, calibrated, other = result("p"), result("q"), result("r")
    calibrated["files"]["cases"]["a"] |= {"probabilities": "new", "uncalibrated": "probabilities a"}
    other["files"]["cases"]["a"]["probabilities"] = "of another training"

    def counted(**models):
        return dict(provenance(compared(models))["facts"])["Trainings"]

    assert counted(m=plain, n=other) == "2"
    assert counted(m=plain, t=calibrated, n=other).startswith("2; rows with a calibration")
    assert counted(t=calibrated, i=calibrated, n=other).startswith("2; ")


def test_settings_that_differ_are_in_a_table_of_their_own() -> None:
    first, second = result("p"), result("q")
    second["settings"]["surface"] = False
    second["settings"]["new"] = ["x", "y"]
    second["settings"]["chill"] = True
    found = settings_tables(compared({"m": first, "n": second}))
    assert found["head"] == ["surface distances", "cases that cannot be evaluated", "new"]
    assert found["rows"] == [
        ("m", "training 1", ["yes", "are an error", "-"]),
        ("n", "training 1", ["no", "are left out", "x, y"]),
    ]
    assert ("bins of reliability and ECE", "15") in found["same"]
    assert ("voxels", "whole images") in found["same"]
    assert not {"pred_folder", "gt_folder", *found["head"]} & set(dict(found["same"]))
    assert settings_tables(compared({"m": first}))["rows"] == []
    json.dumps(found)  # texts and nothing else
