"""Intervals of volumes: learnt by hand-computed errors, written as a table, and evaluated."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import PredictionFolder, stored_result
from too_sure import KINDS, overconfident, overconfident_regions

import nnunet_meep as nm
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report.provenance import provenance
from nnunet_meep.evaluation.report.text import table
from nnunet_meep.evaluation.result_format import nan_to_none
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.volume_coverage import coverage_lines
from nnunet_meep.nnunet_files.cases import read_dataset
from nnunet_meep.nnunet_files.derived import VolumeIntervals
from nnunet_meep.posthoc import volume_table
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.fit import fit
from nnunet_meep.posthoc.fit_derived import Goal, fit_derived

#: Expected and true volumes whose relative errors are 0.1, 0.2, ..., 0.9, in turns to both sides.
ERRORS = [(10.0, 10 + sign * i) for i, sign in zip(range(1, 10), [1, -1] * 5, strict=False)]


def case_of(expected: float, true: int) -> tuple[np.ndarray, np.ndarray]:
    """Twenty voxels, all with the same probability."""
    p = np.full(20, expected / 20)
    return np.stack([1 - p, p]), (np.arange(20) < true).astype(np.uint8)


def arrays(volumes: list[tuple[float, int]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    cases = [case_of(expected, true) for expected, true in volumes]
    return [p for p, _ in cases], [y for _, y in cases]


@pytest.mark.parametrize(("coverage", "half_width"), [(0.9, 0.9), (0.7, 0.7), (0.65, 0.7)])
def test_nine_errors(coverage, half_width):
    found = nm.fit_volume_intervals(*arrays(ERRORS), coverage=coverage)
    assert found.intervals.half_width["1"] == pytest.approx(half_width)
    assert found.intervals.coverage == coverage
    p = case_of(8, 4)[0].astype(np.float32)
    np.testing.assert_array_equal(found(p), p)  # as they are


def test_too_few_cases_are_refused_with_the_least_number():
    few = arrays(ERRORS[:8])
    with pytest.raises(InputError, match=r"expected 9 cases at least for 90 %, got 8"):
        nm.fit_volume_intervals(*few)
    with pytest.raises(InputError, match=r"expected 19 cases at least for 95 %, got 8"):
        nm.fit_volume_intervals(*few, coverage=0.95)
    with pytest.raises(InputError, match=r"coverage: expected a share above 0 and below 1"):
        nm.fit_volume_intervals(*few, coverage=90)


def test_cases_in_which_nothing_is_expected_teach_nothing():
    """Neither those that have the class, nor those that do not."""
    found = nm.fit_volume_intervals(*arrays([*ERRORS, (0, 5), (0, 0)]))
    assert found.intervals.half_width["1"] == pytest.approx(0.9)
    with pytest.raises(InputError, match=r"got 8 with an expected volume of 1"):
        nm.fit_volume_intervals(*arrays([*ERRORS[:8], (0, 5)]))
    with pytest.raises(InputError, match="nothing to learn: the references have none"):
        nm.fit_volume_intervals(*arrays([(3, 0)] * 9))


def test_intervals_end_at_zero_and_are_none_where_nothing_is_expected():
    intervals = VolumeIntervals(0.9, {"1": 1.5, "2": None})
    assert intervals.interval("1", 2.0) == (0.0, 5.0)
    assert all(map(math.isnan, intervals.interval("1", 0.0)))
    assert all(map(math.isnan, intervals.interval("2", 2.0)))
    assert all(map(math.isnan, intervals.interval("1", math.nan)))


def test_ignored_voxels_are_expected_but_not_true():
    """A scan without a reference does not tell which voxels are ignored."""
    p, y = arrays(ERRORS)
    expected = np.stack([np.full(20, 0.75), np.full(20, 0.25)])
    more = [np.concatenate([a, expected], axis=1) for a in p]
    ignored = [np.concatenate([a, np.full_like(a, 2)]) for a in y]
    found = nm.fit_volume_intervals(more, ignored, ignore_label=2)
    assert found.intervals.half_width["1"] == pytest.approx(13 / 15)  # E = 10 + 5, V = 2
    none = [np.concatenate([a, np.zeros_like(a)]) for a in y]
    assert found.intervals == nm.fit_volume_intervals(more, none).intervals


@pytest.mark.parametrize("ignore", [{}, {"ignore": 2}])
def test_coverage_is_told_only_where_no_voxel_is_ignored(tmp_path, ignore):
    folder = PredictionFolder(tmp_path / "data", {"background": 0, "x": 1, **ignore})
    for i, (p, y) in enumerate(zip(*arrays(ERRORS), strict=True)):
        folder.add(f"c{i}", p.reshape(2, 4, 5, 1), y.reshape(4, 5, 1))
    fit_derived(Goal("volume", 0.9), folder.gt, folder.pred).calibrator.save(tmp_path / "v.json")
    apply(tmp_path / "v.json", folder.pred, tmp_path / "out")
    (calibrator,) = nm.evaluate(folder.gt, tmp_path / "out").calibrators
    assert ("volume" in calibrator) == (not ignore)


def test_2d_images_have_no_volume(tmp_path):
    folder = PredictionFolder(tmp_path, {"background": 0, "x": 1})
    for i, (p, y) in enumerate(zip(*arrays(ERRORS), strict=True)):
        folder.add(f"c{i}", p.reshape(2, 1, 4, 5), y.reshape(1, 4, 5), spacing_mm=(999, 1, 1))
    with pytest.raises(InputError, match=r"expected a 3D image for volume, got a 2D one"):
        fit_derived(Goal("volume", 0.9), folder.gt, folder.pred)


@pytest.fixture
def calibrated(make_validation, tmp_path):
    """A calibrator with intervals after a temperature, and a folder that it is applied to.

    The folder has voxels of 6 cubic millimetres: (calibrator.json, predictions, output).
    """

    def make(kind: str) -> tuple[Path, PredictionFolder, Path]:
        val = make_validation(kind, n_cases=9)
        fit("temperature", val.gt, val.pred).calibrator.save(tmp_path / "t.json")
        found = fit_derived(Goal("volume", 0.9), val.gt, val.pred, after=tmp_path / "t.json")
        path = tmp_path / "v.json"
        found.calibrator.save(path)
        test = make_validation(kind, n_cases=0, name="test")
        rng, n_classes = np.random.default_rng(1), KINDS[kind][1]
        for name in "abcde":
            p, y = overconfident(rng, n_classes) if n_classes else overconfident_regions(rng)
            test.add(name, p, y, spacing_mm=(1, 2, 3))
        return path, test, tmp_path / "out"

    return make


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "volumes.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def labels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_and_the_coverage(kind, calibrated):
    path, test, out = calibrated(kind)
    apply(path, test.pred, out)
    calibrator = nm.read_calibrator(path)
    intervals, labels = calibrator.intervals, calibrator.labels
    rows = rows_of(out)
    assert [(r["case"], r["class"], r["name"]) for r in rows] == [
        (case, key, name)
        for case in "abcde"
        for key, name in zip(labels.keys, labels.names, strict=True)
    ]
    inside = dict.fromkeys(labels.keys, 0)
    for row in rows:
        i = labels.keys.index(row["class"])
        p = calibrator(np.load(test.pred / f"{row['case']}.npz")["probabilities"])
        expected = 0.006 * p[labels.channel(i)].sum(dtype=np.float64)
        half = intervals.half_width[row["class"]]
        predicted, true = (
            0.006 * np.isin(labels_of(folder / f"{row['case']}.nii.gz"), labels.members(i)).sum()
            for folder in (out, test.gt)
        )
        low, high = max(expected * (1 - half), 0), expected * (1 + half)
        numbers = [float(row[f"{n}_ml"]) for n in ("expected", "low", "high", "predicted")]
        assert numbers == pytest.approx([expected, low, high, predicted])
        inside[row["class"]] += low <= true <= high
    evaluation = evaluate(test.gt, out, surface=False)
    (entry,) = evaluation.calibrators
    assert entry["method"] == "temperature, volume"
    assert entry["volume"]["coverage"] == 0.9
    for key, found in entry["volume"]["classes"].items():
        assert (found["n_covered"], found["n_cases"]) == (inside[key], 5)
        half = intervals.half_width[key]
        assert found["mean_relative_width"] == pytest.approx(half + min(half, 1))
    again = Evaluation.from_dict(json.loads(json.dumps(nan_to_none(evaluation.to_dict()))))
    lines = coverage_lines(again)
    first = f"Volume intervals (90 %), {labels.keys[0]} {labels.names[0]}: {inside[labels.keys[0]]}"
    assert lines[0].startswith(f"{first} of 5 true volumes are inside (")
    assert all(line in table(again) for line in lines)
    facts = dict(provenance(nm.compare({"mine": again, "same": again}))["facts"])
    assert facts["Volume intervals"].startswith(f"mine: {first.removeprefix('Volume intervals ')}")
    without = evaluate(test.gt, out, surface=False, rois=["crop"])
    assert "volume" not in without.calibrators[0]


def test_a_finished_folder_keeps_its_table(calibrated):
    path, test, out = calibrated("two classes")
    apply(path, test.pred, out)
    before = (out / "volumes.csv").read_bytes()
    (out / "volumes.csv").unlink()
    assert apply(path, test.pred, out).volumes == out / "volumes.csv"
    assert (out / "volumes.csv").read_bytes() == before


def test_cases_that_another_process_adds_meanwhile_are_in_the_table(calibrated, monkeypatch):
    path, test, out = calibrated("two classes")
    apply(path, test.pred, out)
    before, rows = rows_of(out), volume_table._rows
    for name in ("e.npz", "e.nii.gz"):
        (out / name).rename(test.gt.parent / name)

    def slowly(name, *args):
        if name == "d":
            for path in test.gt.parent.glob("e.*"):
                path.rename(out / path.name)
        return rows(name, *args)

    monkeypatch.setattr(volume_table, "_rows", slowly)
    intervals = nm.read_calibrator(path).intervals
    volume_table.write_volumes(out, intervals, read_dataset([out]), progress=False)
    assert rows_of(out) == before


def test_a_2d_image_has_no_volume(tmp_path):
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    folder = PredictionFolder(tmp_path, {"background": 0, "LA": 1}, file_ending=".png")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
    properties = {"spacing": (999, 1, 1)}
    NaturalImage2DIO().write_seg(
        np.ones((1, 4, 5), np.uint8), str(folder.pred / "a.png"), properties
    )
    p = np.full((2, 1, 4, 5), 0.5, np.float32)
    np.savez_compressed(folder.pred / "a.npz", probabilities=p)
    intervals = VolumeIntervals(0.9, {"1": 0.5})
    volume_table.write_volumes(folder.pred, intervals, read_dataset([folder.pred]), progress=False)
    assert list(rows_of(folder.pred)[0].values()) == ["a", "1", "LA", "", "", "", ""]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"coverage": None}, "coverage is NoneType"),
        ({"classes": {"9": {}}}, "volume has other classes"),
        ({"classes": {"1": {"n_cases": 3}}}, "1 has no n_covered"),
        ({"classes": []}, "classes is list"),
    ],
)
def test_a_damaged_result_is_one_line(change, problem):
    good = {
        **{"n_cases": 4, "n_covered": 3},
        **{"mean_width_ml": 1.0, "mean_relative_width": 0.5},
    }
    content = stored_result({"a": {"1": {"dice": 0.5}}})
    entry = {"identity": "", "any_network": [], "used_to_fit": [], "n_cases": 4, "n_fitted_on": 9}
    volume = {"coverage": 0.9, "classes": {"1": good}}
    content["calibrators"] = [{**entry, "thresholds": {"1": 0.3}, "volume": volume}]
    assert coverage_lines(Evaluation.from_dict(content))
    content["calibrators"][0]["volume"] = {**volume, **change}
    with pytest.raises(InputError, match=f"damaged: {problem}"):
        Evaluation.from_dict(content)
    content["calibrators"][0] = {**entry, "thresholds": {"1": "low"}}
    with pytest.raises(InputError, match="damaged: 1 is str"):
        Evaluation.from_dict(content)
