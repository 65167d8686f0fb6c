"""The report of a benchmark, from results whose trainings never were."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_up import DATASET, TRAINERS, evaluation, finish, prepared
from predictions import LABELS, PredictionFolder, softmax_case

import nnunet_meep as nm
from nnunet_meep.benchmark import report as module
from nnunet_meep.benchmark.collect import collect, ordered
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.report import write_report
from nnunet_meep.benchmark.results import Results, TrainingResult
from nnunet_meep.benchmark.run import Options, report
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.nnunet_files.labels import read_labels
from nnunet_meep.posthoc.calibrator import Calibrator
from nnunet_meep.posthoc.maps import JointTemperature

pytestmark = pytest.mark.usefixtures("unrendered")
PLAIN, MEEP = TRAINERS
PLAN = f"""\
[data.hip]
dataset = "{DATASET}"

[[training]]
trainers = ["{PLAIN}", "{MEEP}"]
seeds = [0, 1]

[calibrate]
methods = ["temperature"]
"""


@pytest.fixture
def options(tmp_path) -> Options:
    (tmp_path / "plan.toml").write_text(PLAN)
    prepared(tmp_path / "work")
    return Options(tmp_path / "plan.toml", tmp_path / "work", device="cpu")


def comparison(options: Options, *folder: str) -> dict:
    path = options.work.joinpath("report", "hip", *folder, "comparison.json")
    return json.loads(path.read_text())


@pytest.mark.usefixtures("tables_only")
def test_all_trainings_of_all_models(options, capsys) -> None:
    report(options.state())
    assert "No training has all its evaluations yet" in capsys.readouterr().out
    assert not (options.work / "report" / "hip").exists()
    finish(options.state())
    report(options.state())
    printed = capsys.readouterr().out
    assert f"Report: {options.work / 'report' / 'hip' / 'report.html'}" in printed
    content = comparison(options)
    assert len(content["models"]) == 4
    first = content["models"][0]
    sharp = [evaluation(("t0", "t1", "t2"), 3.0, seed) for seed in (0, 1)]
    ece = np.mean([[c.rois["image"].classes["1"]["ece"] for c in e.cases] for e in sharp])
    assert content["summary"][first]["1"]["ece"]["mean"] == pytest.approx(ece, rel=1e-4)
    files = ("hip/comparison.json", "results.csv.gz", "hip/comparison.md")
    before = {name: (options.work / "report" / name).read_bytes() for name in files}
    report(options.state())
    assert before == {name: (options.work / "report" / name).read_bytes() for name in files}
    # From the stored results alone, elsewhere.
    elsewhere = Options(options.plan, options.work.parent / "elsewhere")
    prepared(elsewhere.work)
    report(elsewhere.state(), options.work / "report" / "results")
    path = elsewhere.work / "report" / "hip" / "comparison.json"
    assert json.loads(path.read_text())["summary"] == content["summary"]


@pytest.mark.usefixtures("tables_only")
def test_what_is_missing_is_said(options, capsys) -> None:
    finish(options.state(), lambda key: f"{MEEP}_seed1" not in key)
    report(options.state())
    content = comparison(options)
    assert len(content["models"]) == 4
    text = (options.work / "report" / "hip" / "comparison.md").read_text()
    assert "1 of 2 trainings not finished yet" in text
    assert "1 of 2 trainings not finished yet" in capsys.readouterr().out
    rows = gzip.decompress((options.work / "report" / "results.csv.gz").read_bytes()).decode()
    assert len(set(re.findall(rf"^hip,{MEEP},(\d),", rows, re.MULTILINE))) == 1


@pytest.mark.usefixtures("tables_only")
def test_a_term_that_never_began_is_said(options) -> None:
    """When the plan is read, because it may happen; in the report, because it did."""
    auto = "nnUNetTrainerMEEP_H_lambdaauto_2epochs"
    options.plan.write_text(PLAN.replace(MEEP, auto))
    plan = read_plan(options.plan)
    assert [model.note[:31] for model in plan.models] == ["", "may be trained without its term"]
    finish(options.state())
    folder = options.work / "report"
    results = collect(options.state(), folder / "results")
    curves = {"loss": (1.0, 0.5), "dice": (0.1, 0.2)}
    without = [replace(r, curves=curves) for r in results.trainings]
    without[-1] = replace(without[-1], curves={**curves, "lambda": (0.0, 0.4)})
    pages = write_report(plan, Results(tuple(without)), folder, Folders.of(plan.path, options.work))
    said = "MEEP_H_lambdaauto: lambda was 0 to the end in 1 of 2 trainings"
    assert said in (folder / "hip" / "comparison.md").read_text()
    ((_, lines),) = pages
    assert any(line.startswith(f"Note: {said}") for line in lines)
    assert not any("DiceCE: lambda" in line for line in lines)


def test_no_comparison_without_its_reference(options, capsys) -> None:
    finish(options.state(), lambda key: PLAIN not in key)
    report(options.state())
    assert "No training of a reference is evaluated yet" in capsys.readouterr().out
    assert not (options.work / "report" / "hip").exists()
    assert (options.work / "report" / "results.csv.gz").exists()


def test_the_temperature_that_was_fitted_is_kept(options) -> None:
    state = options.state()
    labels = {"labels": {"background": 0, "A": 1, "P": 2}}
    data = {"cases": [], "n_cases": 0, "arrays": True}
    one = Calibrator(
        "temperature",
        read_labels(labels, Path("x")),
        labels,
        joint=JointTemperature(1.25),
        fitted_on=data,
    )
    path = state.folders.path(state.steps[f"hip/{PLAIN}_seed0/fold_0/fit/temperature"].outputs[0])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(one.to_dict()))
    finish(state)  # the other calibrators cannot be read any more
    found = collect(options.state(), options.work / "results").trainings
    assert [t.temperature for t in found] == [1.25, None, None, None]


def test_an_evaluation_that_is_not_done_does_not_count(options) -> None:
    finish(options.state(), lambda key: not key.endswith("evaluate/test+temperature"))
    state = options.state()
    assert collect(state, options.work / "results") == Results(())


@pytest.mark.usefixtures("tables_only")
def test_the_models_that_are_asked_for_in_their_order(options) -> None:
    reference = f"{MEEP} + temperature"
    asked = f"""
[[compare]]
reference = "{reference}"
models = ["{PLAIN}", "{MEEP}"]

[[compare]]
reference = "{reference}"

[[compare]]
reference = "{PLAIN}"
models = ["{PLAIN} + temperature"]
"""
    options.plan.write_text(PLAN + asked)
    finish(options.state())
    report(options.state())
    folder = re.sub(r"\W+", "_", reference)
    first, second = comparison(options, folder), comparison(options, f"{folder}_2")
    assert len(first["models"]) == 3
    assert [name.split("_lambda")[0] for name in first["models"]][1:] == ["DiceCE", "MEEP_H"]
    assert "temperature" in first["models"][0]
    assert first["models"][0].endswith(second["models"][0].split(" + ")[-1])
    assert len(second["models"]) == 4
    assert len(comparison(options, PLAIN)["models"]) == 2


@pytest.mark.usefixtures("tables_only")
def test_the_chosen_lambda_is_a_model(options) -> None:
    grid = f"{MEEP[: MEEP.index('0p1')]}{{0p1,0p2}}_2epochs"
    select = 'select = { over = "lambda", by = "validation ece" }'
    options.plan.write_text(PLAN.replace(MEEP, grid).replace("[0, 1]", f"[0, 1]\n{select}"))
    finish(options.state())
    report(options.state())
    models = comparison(options)["models"]
    assert len(models) == 8
    assert [m for m in models if "*" in m] == [
        *("MEEP_H_lambda* (0.1)", "MEEP_H_lambda* (0.1) + temperature"),
    ]
    text = (options.work / "report" / "hip" / "comparison.md").read_text()
    assert "fold 0: lambda 0.1 of 0.1, 0.2, by validation ECE" in text  # equal: the first one
    # All lambdas have the same made-up numbers; that the choice has those of one is no warning.
    twin = "MEEP_H_lambda* (0.1): one training has the same numbers as a training of MEEP_H_lambda"
    assert f"{twin}0p2" in text
    assert f"{twin}0p1" not in text


@pytest.mark.usefixtures("tables_only")
def test_a_lambda_is_not_compared_on_the_cases_it_was_chosen_on(tmp_path) -> None:
    prepared(tmp_path / "work", n_test=0)
    grid = f"{MEEP[: MEEP.index('0p1')]}{{0p1,0p2}}_2epochs"
    select = 'select = { over = "lambda", by = "validation ece" }'
    options = Options(tmp_path / "plan.toml", tmp_path / "work", device="cpu")
    text = PLAN.replace(MEEP, grid).replace("[0, 1]", f"[0, 1]\n{select}")
    options.plan.write_text(text)
    finish(options.state())
    report(options.state())
    assert not [m for m in comparison(options)["models"] if "*" in m]
    said = (options.work / "report" / "hip" / "comparison.md").read_text()
    assert "MEEP_H_lambda*: fold 0: lambda 0.1 of 0.1, 0.2, by validation ECE; not compared" in said
    star = re.sub("0p1", "*", MEEP)
    options.plan.write_text(f'{text}\n[[compare]]\nreference = "{star}"\n')
    for problem in options.state().problems.values():
        assert problem.endswith(f'give reference = "{MEEP}"')


def test_results_of_another_network_are_not_those_of_the_plan(options) -> None:
    finish(options.state())
    results = collect(options.state(), options.work / "results").trainings
    assert {r.network for r in results} == {"nnUNetPlans__3d_fullres"}
    of_2d = [replace(result, network="nnUNetPlans__2d") for result in results[1:]]
    assert ordered([results[0], *of_2d], options.state().plan).trainings == results[:1]


def test_results_of_data_that_are_prepared_no_more(options, capsys) -> None:
    finish(options.state())
    collect(options.state(), options.work / "report" / "results")
    shutil.rmtree(options.work / "nnUNet_preprocessed")
    report(options.state())
    assert f"--results {options.work / 'report' / 'results'}" in capsys.readouterr().out


@pytest.mark.parametrize("unlabelled_test_scans", [False, True])
def test_the_images_are_those_of_the_cases(tmp_path, monkeypatch, unlabelled_test_scans) -> None:
    """Of validation cases in imagesTr, also beside test scans without labels."""
    places = {name: tmp_path / name for name in ("raw", "preprocessed", "results")}
    folders = Folders(work=tmp_path / "work", **places)
    raw = folders.raw / DATASET
    folder = PredictionFolder(tmp_path / "work", LABELS)
    for case in ("c0", "c1"):
        folder.add(case, *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    names = ["imagesTr/c0", "imagesTr/c1", *(["imagesTs/t0"] if unlabelled_test_scans else [])]
    for name in names:
        path = raw / f"{name}_0000.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32)), path)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    evaluated = nm.evaluate(folder.gt, folder.pred)
    result = TrainingResult("hip", PLAIN, 0, 0, {"validation": evaluated})
    given = []
    write = module.write_comparison_report
    monkeypatch.setattr(
        module,
        "write_comparison_report",
        lambda *a, **k: given.append(k["images"]) or write(*a, **k),
    )

    def pictures() -> list[Path]:
        write_report(read_plan(plan), Results((result,)), tmp_path / "report", folders)
        return sorted((tmp_path / "report").rglob("slices/*.png"))

    assert len(pictures()) == 2
    assert given == [raw / "imagesTr"]
    # From files that are not those of the results there are no pictures, but a report.
    folder.add("c1", *softmax_case(np.random.default_rng(1), (4, 5, 6)))
    assert pictures() == []
    # Nor from none.
    (folder.pred / "c0.npz").unlink()
    assert pictures() == []
    assert given[1:] == [raw / "imagesTr", None]


@pytest.mark.usefixtures("tables_only")
def test_each_roi_that_all_were_evaluated_over_has_a_page(tmp_path, monkeypatch) -> None:
    folder = PredictionFolder(tmp_path / "scans", LABELS)
    for case in ("t0", "t1"):
        folder.add(case, *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    evaluated = [
        nm.evaluate(folder.gt, folder.pred, rois=rois)
        for rois in (("image", "boundary:1", "boundary:2"), ("image", "boundary:1"))
    ]
    results = [TrainingResult("hip", PLAIN, i, 0, {"test": e}) for i, e in enumerate(evaluated)]
    (tmp_path / "plan.toml").write_text(PLAN)
    heads = {}
    write = module.write_comparison_report
    monkeypatch.setattr(
        module,
        "write_comparison_report",
        lambda *a, **k: heads.update({a[1]: k["pages"]}) or write(*a, **k),
    )
    plan, target = read_plan(tmp_path / "plan.toml"), tmp_path / "report"
    folders = Folders.of(tmp_path / "plan.toml", tmp_path / "work")
    pages = write_report(plan, Results(tuple(results)), target, folders)
    assert [page for page, _ in pages] == [
        target / "hip" / "report.html",
        target / "hip" / "boundary_1" / "report.html",
    ]
    near = "within 1 mm of the reference surface (boundary:1)"
    assert pages[1][1] == [f"Also compared: {near}, 2 cases."]
    assert heads == {
        target / "hip": {"boundary:1": "boundary_1/report.html"},
        target / "hip" / "boundary_1": {"image": "../report.html"},
    }
    content = json.loads((target / "hip" / "boundary_1" / "comparison.json").read_text())
    assert content["roi"] == "boundary:1"
