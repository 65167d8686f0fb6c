"""``meep-calib-compare`` on results of ``meep-calib-eval``."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli import calib_eval
from nnunet_meep.cli.calib_compare import main

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Three models of different sharpness on four cases, evaluated."""
    root = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    gt = root / "gt"
    gt.mkdir()
    logits = rng.normal(size=(4, 5, 6, 7))
    for i in range(4):
        reference = (rng.random((5, 6, 7)) < 1 / (1 + np.exp(-logits[i]))).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(reference), gt / f"c{i}.nii.gz")
    for name, sharpness in (("calibrated", 1), ("sharp", 5), ("other", 2)):
        pred = root / name
        pred.mkdir()
        for i in range(4):
            p = 1 / (1 + np.exp(-sharpness * logits[i]))
            np.savez_compressed(
                pred / f"c{i}.npz", probabilities=np.stack([1 - p, p]).astype(np.float32)
            )
            segmentation = sitk.GetImageFromArray((p > 0.5).astype(np.uint8))
            sitk.WriteImage(segmentation, pred / f"c{i}.nii.gz")
        labels = {"labels": {"background": 0, "a_b": 1}, "file_ending": ".nii.gz"}
        (pred / "dataset.json").write_text(json.dumps(labels))
        (pred / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
        rois = ["--roi", "image", "boundary:1"]
        assert calib_eval.main([str(gt), str(pred), "-np", "1", *rois]) == 0
    (root / "images").mkdir()
    for i in range(4):
        sitk.WriteImage(sitk.GetImageFromArray(logits[i]), root / "images" / f"c{i}_0000.nii.gz")
    return root


def compared(root, out, *models, options=()):
    named = [f"{m}={root / m}" for m in models]
    assert main([*named, "-o", str(out), *map(str, options)]) == 0
    return json.loads((out / "comparison.json").read_text())


@pytest.mark.rendered
def test_all_outputs_say_the_same(evaluated, tmp_path, capsys) -> None:
    result = compared(evaluated, tmp_path, "sharp", "calibrated")
    printed = capsys.readouterr().out
    assert result["models"] == ["sharp", "calibrated"]
    ece = {m: result["summary"][m]["1"]["ece"]["mean"] for m in result["models"]}
    assert ece["calibrated"] < ece["sharp"]
    best = f"{1e3 * ece['calibrated']:.2f}"
    line = next(row for row in printed.splitlines() if row.startswith("calibrated"))
    assert f" *{best} (" in line
    assert f"**{best} (" in (tmp_path / "comparison.md").read_text()
    tex = (tmp_path / "comparison.tex").read_text()
    assert f"\\textbf{{{best} (" in tex
    assert "errors \\%" in tex
    with (tmp_path / "comparison.csv").open() as file:
        rows = {(r["model"], r["class"], r["metric"]): r for r in csv.DictReader(file)}
    assert float(rows["calibrated", "1", "ece"]["mean"]) == ece["calibrated"]
    test = result["differences"]["calibrated"]["1"]["ece"]
    assert float(rows["calibrated", "1", "ece"]["difference"]) == test["mean"]
    assert float(rows["calibrated", "1", "ece"]["p_holm"]) == test["p_holm"]
    assert rows["sharp", "1", "ece"]["difference"] == ""
    assert test["mean"] == pytest.approx(ece["calibrated"] - ece["sharp"])
    assert "whole images, 4 cases" in printed
    for name in ("reliability", "risk_coverage", "volumes", "errors"):
        assert min(sitk.ReadImage(str(tmp_path / f"{name}.png")).GetSize()[:2]) > 400
        assert (tmp_path / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_trainings_of_one_model(evaluated, tmp_path) -> None:
    both = f"both={evaluated / 'sharp'},{evaluated / 'other'}"
    assert main([f"one={evaluated / 'calibrated'}", both, "-o", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["summary"]["both"]["1"]["dice"]["training_std"] is not None
    assert result["summary"]["one"]["1"]["dice"]["training_std"] is None


def test_folds_of_one_model(evaluated, tmp_path, capsys) -> None:
    folds = []
    for i, cases in enumerate((["c0", "c3"], ["c1", "c2"])):
        folder = tmp_path / f"fold_{i}"
        folder.mkdir()
        for name in [*(f"{c}.{kind}" for c in cases for kind in ("npz", "nii.gz"))]:
            shutil.copy(evaluated / "sharp" / name, folder)
        for name in ("dataset.json", "plans.json"):
            shutil.copy(evaluated / "sharp" / name, folder)
        folds.append(str(folder))
    models = [f"whole={evaluated / 'other'}", f"folds={','.join(folds)}"]
    options = ["--gt", str(evaluated / "gt"), "-np", "1", "-o", str(tmp_path / "out")]
    assert main([*models, *options]) == 0
    printed = capsys.readouterr()
    assert "Warning" not in printed.err
    assert "whole was trained once, folds 2 times (2 folds): no interval can tell" in printed.out
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["cases"] == ["c0", "c1", "c2", "c3"]
    assert result["n_folds"] == {"whole": 1, "folds": 2}
    assert len(list((tmp_path / "out" / "slices").glob("*.png"))) == 4


def test_one_model_alone_is_a_table(evaluated, tmp_path, capsys) -> None:
    assert compared(evaluated, tmp_path, "sharp")["differences"] == {}
    assert "Differences" not in capsys.readouterr().out


def test_what_is_not_the_same_is_a_warning(evaluated, tmp_path, capsys) -> None:
    path = evaluated / "sharp" / "calibration" / "calibration.json"
    content = json.loads(path.read_text())
    content["settings"]["bins"] = 10
    for part in (content, content["by_roi"]["boundary:1"]):
        part["cases"] = part["cases"][1:]
    del content["files"]["cases"]["c0"]
    stored(tmp_path / "changed", content)
    args = [f"a={evaluated / 'calibrated'}", f"b={tmp_path / 'changed'}", "-o", str(tmp_path / "o")]
    assert main([*args, "--as-stored"]) == 0
    printed = capsys.readouterr()
    warnings = [x for x in printed.err.splitlines() if x.startswith("Warning: ")]
    a, b, changed, *warnings = warnings
    assert "a: as stored on" in a
    assert "b: as stored on" in b
    assert "b: its files are not the same any more: 1 new case: c0" in changed
    assert len(warnings) == 2
    assert "a: 1 of its 4 cases are not in all models" in warnings[0]
    assert warnings[0].endswith(": c0")
    assert "bins" in warnings[1]
    markdown = (tmp_path / "o" / "comparison.md").read_text()
    page = (tmp_path / "o" / "report.html").read_text()
    for line in warnings:
        assert line in markdown
        assert markdown.index(line) < markdown.index("| model ")
        assert page.index(line.removeprefix("Warning: ")) < page.index("<table")


def stored(folder, content):
    """A result without its predictions."""
    folder.mkdir()
    (folder / "calibration.json").write_text(json.dumps(content))


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_report_and_slices_are_there(evaluated, tmp_path, capsys) -> None:
    options = ["--images", evaluated / "images"]
    compared(evaluated, tmp_path / "out", "sharp", "calibrated", options=options)
    printed = capsys.readouterr()
    assert "4/4" in printed.err  # the progress bar of slices
    names = sorted(str(name) for name in files(tmp_path / "out"))
    pictures = ["case_risk", "errors", "expected_dice", "reliability", "risk_coverage", "volumes"]
    assert names == sorted(
        [
            *(f"comparison.{ending}" for ending in ("csv", "json", "md", "tex")),
            *(f"{name}.{kind}" for name in pictures for kind in ("png", "svg")),
            *(f"slices/c{i}.{kind}" for i in range(4) for kind in ("png", "svg")),
            "report.html",
        ]
    )
    for name in names:
        assert str(tmp_path / "out" / name) in printed.out
    text = (tmp_path / "out" / "report.html").read_text()
    # Four cases in three planes: image, reference, and three maps of each model.
    assert text.count("data:image/webp") == 4 * 3 * (2 + 2 * 3)
    assert "4, whole images" in text


def test_old_pictures_go_and_what_is_not_ours_stays(evaluated, tmp_path) -> None:
    compared(evaluated, tmp_path, "sharp")
    for name in ("volumes.png", "expected_dice.svg", "case_risk.png", "slices/c3.png"):
        assert (tmp_path / name).exists()
    mine = [tmp_path / "slices" / "notes.txt", tmp_path / "slices" / "mine" / "c3.png"]
    mine[1].parent.mkdir()
    for path in (*mine, tmp_path / "notes.txt"):
        path.write_text("mine")
    compared(evaluated, tmp_path, "sharp", "other", options=["--cases", "c0"])
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert "slices/c3.png" not in written
    assert "slices/c0.png" in written
    for path in (*mine, tmp_path / "notes.txt"):
        assert path.read_text() == "mine"


@pytest.mark.parametrize("damaged", ["", "[]", '{"cases": 3}', '{"cases": ["../mine", 3]}'])
def test_a_damaged_old_comparison_removes_nothing(evaluated, tmp_path, damaged) -> None:
    (tmp_path / "mine.png").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "comparison.json").write_text(damaged)
    compared(evaluated, out, "sharp")
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_a_folder_with_slices_that_is_not_ours_keeps_them(evaluated, tmp_path) -> None:
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "mine.png").write_text("mine")
    compared(evaluated, tmp_path, "sharp")
    assert (tmp_path / "slices" / "mine.png").read_text() == "mine"


def test_another_roi(evaluated, tmp_path, capsys) -> None:
    result = compared(evaluated, tmp_path, "sharp", "other", options=["--roi", "boundary:1"])
    assert result["roi"] == "boundary:1"
    path = evaluated / "sharp" / "calibration" / "calibration.json"
    of_roi = json.loads(path.read_text())["by_roi"]["boundary:1"]
    mean = of_roi["classes"]["1"]["per_case"]["ece"]["mean"]
    assert result["summary"]["sharp"]["1"]["ece"]["mean"] == pytest.approx(mean, rel=1e-12)
    assert "within 1 mm of the reference surface" in capsys.readouterr().out


def test_results_without_their_predictions_have_no_slices(evaluated, tmp_path, capsys) -> None:
    content = json.loads((evaluated / "sharp" / "calibration" / "calibration.json").read_text())
    content["settings"]["pred_folder"] = str(tmp_path / "gone")
    stored(tmp_path / "alone", content)
    compared(tmp_path, tmp_path / "out", "alone", options=["--as-stored"])
    warning = f"no slices: {tmp_path / 'gone'}: expected a folder of predictions, found none"
    assert f"Warning: {warning}" in capsys.readouterr().err
    assert warning in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "slices").exists()
    named, images = f"alone={tmp_path / 'alone'}", str(evaluated / "images")
    assert main([named, "-o", str(tmp_path / "new"), "--images", images, "--as-stored"]) == 1
    assert not (tmp_path / "new").exists()


def test_equal_means_at_the_shown_digits_are_both_best(evaluated, tmp_path) -> None:
    path = evaluated / "sharp" / "calibration" / "calibration.json"
    content = json.loads(path.read_text())
    for case in content["cases"]:
        case["classes"]["1"]["dice"] += 1e-5
    stored(tmp_path / "nearly", content)
    models = [f"a={evaluated / 'sharp'}", f"b={tmp_path / 'nearly'}"]
    for case in content["cases"]:
        case["classes"]["1"]["dice"] -= 0.1
    stored(tmp_path / "worse", content)
    models.append(f"c={tmp_path / 'worse'}")
    assert main([*models, "-o", str(tmp_path / "out"), "--as-stored"]) == 0
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "the best mean in bold" in table
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    dice = [row[2] for row in rows if row[1:2] in (["a"], ["b"])][:2]
    assert len(dice) == 2
    assert all(text.startswith("**") for text in dice)


@pytest.fixture(scope="module")
def compared_before(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("before")
    compared(evaluated, out, "sharp", "other")
    return out


def test_the_references_of_slices_may_be_given(evaluated, tmp_path, capsys, monkeypatch) -> None:
    content = json.loads((evaluated / "sharp" / "calibration" / "calibration.json").read_text())
    content["settings"]["gt_folder"] = "a/relative/folder"  # of where it was evaluated
    stored(tmp_path / "moved", content)
    compared(tmp_path, tmp_path / "out", "moved", options=["--as-stored"])
    assert "no slices: a/relative/folder" in capsys.readouterr().err
    compared(tmp_path, tmp_path / "out", "moved", options=["--gt", evaluated / "gt"])
    assert "Warning" not in capsys.readouterr().err
    assert (tmp_path / "out" / "slices" / "c0.png").exists()


def test_the_same_references_elsewhere_are_the_same(evaluated, tmp_path, capsys) -> None:
    shutil.copytree(evaluated / "gt", tmp_path / "gt")
    compared(evaluated, tmp_path / "out", "sharp", options=["--gt", tmp_path / "gt"])
    assert "Warning" not in capsys.readouterr().err


class TestBadInput:
    """One line, and what was in the output folder stays; a new one is not made."""

    @pytest.fixture(autouse=True)
    def _old(self, compared_before, tmp_path) -> None:
        shutil.copytree(compared_before, tmp_path / "old")

    def refused(self, evaluated, tmp_path, capsys, *args, expected):
        old, new = tmp_path / "old", tmp_path / "new"
        before = files(old)
        for out in (old, new):
            capsys.readouterr()
            assert main([*map(str, args), "-o", str(out)]) == 1
            # Above it stand progress bars, where it came that far.
            *bars, line = capsys.readouterr().err.splitlines()
            assert line == f"Error: {expected}"
            assert all(not text or text.startswith(("pictures: ", "slices: ")) for text in bars)
        assert files(old) == before
        assert [p.name for p in old.iterdir() if p.name.startswith(".")] == []
        assert not new.exists()

    def test_a_folder_without_results(self, evaluated, tmp_path, capsys) -> None:
        gt = evaluated / "gt"
        expected = (
            f"{gt}: expected calibration.json in it or in its folder 'calibration', or predictions "
            "with probabilities (CASE.npz), found none"
        )
        self.refused(evaluated, tmp_path, capsys, f"a={gt}", expected=expected)

    def test_no_folder(self, evaluated, tmp_path, capsys) -> None:
        expected = f"{tmp_path / 'no'}: expected a folder of predictions or results, found none"
        self.refused(evaluated, tmp_path, capsys, f"a={tmp_path / 'no'}", expected=expected)

    def test_a_name_twice(self, evaluated, tmp_path, capsys) -> None:
        args = [f"a={evaluated / 'sharp'}", f"a={evaluated / 'other'}"]
        expected = "a: expected each name once, got it 2 times"
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_another_schema(self, evaluated, tmp_path, capsys) -> None:
        path = tmp_path / "future" / "calibration.json"
        settings = {"gt_folder": "my gt", "pred_folder": str(tmp_path / "gone"), "bins": 10}
        settings |= {"rois": ["boundary:1", "image"], "surface": False, "version": "9"}
        stored(path.parent, {"schema": 3, "settings": settings})
        expected = (
            f"{path}: expected a result of schema 4, got 3; evaluate it again with this version: "
            f"meep-calib-eval 'my gt' {tmp_path / 'gone'} -o {path.parent} --bins 10 --no-surface "
            f"--roi boundary:1 image"
        )
        self.refused(evaluated, tmp_path, capsys, f"a={path.parent}", expected=expected)

    def test_no_common_case(self, evaluated, tmp_path, capsys) -> None:
        content = json.loads((evaluated / "sharp" / "calibration" / "calibration.json").read_text())
        for part in (content, content["by_roi"]["boundary:1"]):
            for case in part["cases"]:
                case["case"] = f"other_{case['case']}"
        of_cases = content["files"]["cases"]
        content["files"]["cases"] = {f"other_{case}": f for case, f in of_cases.items()}
        stored(tmp_path / "others", content)
        args = [f"a={evaluated / 'sharp'}", f"b={tmp_path / 'others'}", "--as-stored"]
        expected = "a, b: expected cases that all of them have, found none"
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_a_roi_that_was_not_evaluated(self, evaluated, tmp_path, capsys) -> None:
        args = [f"a={evaluated / 'sharp'}", "--roi", "crop"]
        expected = (
            f"{evaluated / 'sharp'}: expected a result over crop, got one over image, boundary:1; "
            f"evaluate it again with meep-calib-eval ... --roi crop"
        )
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_no_folder_of_references(self, evaluated, tmp_path, capsys) -> None:
        args = [f"a={evaluated / 'sharp'}", "--gt", tmp_path / "no"]
        expected = f"{tmp_path / 'no'}: expected a folder of references, found none (--gt)"
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_no_folder_of_images(self, evaluated, tmp_path, capsys) -> None:
        args = [f"a={evaluated / 'sharp'}", "--images", tmp_path / "no"]
        expected = f"{tmp_path / 'no'}: expected a folder of images, found none (--images)"
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_an_image_that_is_missing(self, evaluated, tmp_path, capsys) -> None:
        images = tmp_path / "images"
        images.mkdir()
        content = json.loads((evaluated / "sharp" / "calibration" / "calibration.json").read_text())
        worst = min(content["cases"], key=lambda c: c["classes"]["1"]["dice"])["case"]
        args = [f"a={evaluated / 'sharp'}", "--images", images]
        path = images / f"{worst}_0000.nii.gz"
        expected = f"{path}: expected the image of {worst}, found none (--images)"
        self.refused(evaluated, tmp_path, capsys, *args, expected=expected)

    def test_a_full_disk(self, evaluated, tmp_path, capsys, monkeypatch) -> None:
        write_text = Path.write_text

        def full(path, *args, **kwargs):
            if path.name == "report.html":
                raise OSError(28, "No space left on device")
            return write_text(path, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", full)
        before = files(tmp_path / "old")
        capsys.readouterr()
        for out in ("old", "new"):
            assert main([f"a={evaluated / 'other'}", "-o", str(tmp_path / out)]) == 1
            assert f"/{out}: No space left on device" in capsys.readouterr().err
        assert files(tmp_path / "old") == before
        assert not (tmp_path / "new").exists()


def test_an_output_that_is_a_file(evaluated, tmp_path, capsys) -> None:
    (tmp_path / "out").write_text("mine")
    assert main([f"a={evaluated / 'sharp'}", "-o", str(tmp_path / "out")]) == 1
    assert "found a file (-o)" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("model", ["folder", "=folder", "name=", "name=a,,b", " =a"])
def test_a_model_that_is_no_name_and_folder_is_wrong_usage(model, tmp_path) -> None:
    with pytest.raises(SystemExit) as error:
        main([model, "-o", str(tmp_path)])
    assert error.value.code == 2
