"""From files to numbers, through the command and without looking at how it is done."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import softmax_case
from sklearn.metrics import brier_score_loss, f1_score

from nnunet_meep.cli.calib_eval import main
from nnunet_meep.evaluation.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("unrendered")

RNG_SEED = 3


def ece_by_loops(p: np.ndarray, y: np.ndarray, n_bins: int) -> float:
    """ECE as its definition reads, one bin at a time."""
    p = p.astype(np.float64)
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = (p > low) & (p <= high) if b else p <= high
        if inside.any():
            total += inside.sum() / p.size * abs(p[inside].mean() - y[inside].mean())
    return total


def run(folder, tmp_path: Path, *flags: str) -> dict:
    """The result of the command, in this process if the flags do not say otherwise."""
    out = tmp_path / "out"
    flags = flags if "-np" in flags else ("-np", "1", *flags)  # others take seconds to start
    assert main([str(folder.gt), str(folder.pred), "-o", str(out), *flags]) == 0
    result = json.loads((out / "calibration.json").read_text())
    del result["origin"]  # when it was written, and from where
    return result


def refused(capsys, *args: object) -> str:
    """The one line on stderr of a command that must fail."""
    assert main([str(a) for a in args]) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    return errors[0]


@pytest.fixture
def two_cases(make_folder):
    """Two cases of three classes in different shapes."""
    folder, rng = make_folder(), np.random.default_rng(RNG_SEED)
    folder.arrays = {}
    for case, shape in (("a", (6, 7, 8)), ("b", (5, 9, 4))):
        folder.arrays[case] = softmax_case(rng, shape)
        folder.add(case, *folder.arrays[case], spacing_mm=(2.0, 1.0, 0.5))
    return folder


def test_per_case_and_pooled_numbers_agree_with_independent_ones(two_cases, tmp_path) -> None:
    result = run(two_cases, tmp_path, "--bins", "10", "-np", "1")
    assert result["schema"] == 4
    assert result["settings"]["bins"] == 10
    assert result["settings"]["rois"] == ["image"]
    assert [c["case"] for c in result["cases"]] == ["a", "b"]
    for label in (1, 2):
        p_all, y_all, segmentation_all = [], [], []
        for case in result["cases"]:
            probabilities, reference = two_cases.arrays[case["case"]]
            p, y = probabilities[label].ravel(), (reference == label).ravel()
            segmentation = (probabilities.argmax(0) == label).ravel()
            ours = case["classes"][str(label)]
            assert ours["ece"] == pytest.approx(ece_by_loops(p, y, 10))
            assert ours["brier"] == pytest.approx(brier_score_loss(y, p.astype(np.float64)))
            assert ours["brier_plus"] == pytest.approx(((1 - p[y].astype(np.float64)) ** 2).mean())
            assert ours["dice"] == pytest.approx(f1_score(y, segmentation))
            p_all.append(p), y_all.append(y), segmentation_all.append(segmentation)
        entry = result["classes"][str(label)]
        p, y, segmentation = map(np.concatenate, (p_all, y_all, segmentation_all))
        assert entry["name"] == {1: "Anterior", 2: "Posterior"}[label]
        assert entry["pooled"]["ece"] == pytest.approx(ece_by_loops(p, y, 10))
        assert entry["pooled"]["brier"] == pytest.approx(brier_score_loss(y, p.astype(np.float64)))
        assert entry["pooled"]["dice"] == pytest.approx(f1_score(y, segmentation))
        assert sum(entry["pooled"]["bins"]["count"]) == p.size
        values = [case["classes"][str(label)]["ece"] for case in result["cases"]]
        assert entry["per_case"]["ece"]["mean"] == pytest.approx(np.mean(values))
        # Pooled is not the mean of cases; were it, this test could not tell them apart.
        assert entry["pooled"]["ece"] != pytest.approx(np.mean(values), rel=1e-3)


def test_csv_holds_the_same_numbers(two_cases, tmp_path) -> None:
    result = run(two_cases, tmp_path, "--roi", "image", "boundary:2")
    with (tmp_path / "out" / "calibration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["roi"], r["class"]) for r in rows] == [
        (case, roi, label)
        for case in "ab"
        for roi in ("image", "boundary:2")
        for label in ("1", "2", "top_label")
    ]
    for row in rows:
        cases = result["cases"]
        if row["roi"] != "image":
            cases = result["by_roi"][row["roi"]]["cases"]
        case = next(c for c in cases if c["case"] == row["case"])
        values = {**case["classes"], "top_label": case["top_label"]}[row["class"]]
        assert len(values) >= 9
        for metric, value in values.items():
            assert float(row[metric]) == value
        # What a row does not have is empty.
        assert all(row[m] == "" for m in set(row) - set(values) - {*list(rows[0])[:4]})


@pytest.mark.rendered
def test_table_and_picture_are_there(two_cases, tmp_path, capsys) -> None:
    run(two_cases, tmp_path, "-np", "1")
    printed = capsys.readouterr()
    for word in ("2 cases", "1 Anterior", "2 Posterior", "Dice", "ECE", "pooled"):
        assert word in printed.out
    assert "2/2" in printed.err  # the progress bar
    picture = sitk.ReadImage(str(tmp_path / "out" / "reliability.png"))
    assert min(picture.GetSize()) > 500
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "calibration.csv",
        "calibration.json",
        "cases",
        "reliability.png",
        "reliability.svg",
    ]


def test_ignored_voxels_are_in_nothing(make_folder, tmp_path) -> None:
    folder = make_folder({"background": 0, "lesion": 1, "ignore": 2})
    p, reference = softmax_case(np.random.default_rng(0), (4, 6, 6), n_classes=2)
    reference[:, :2] = 2
    folder.add("a", p, reference)
    ours = run(folder, tmp_path)["cases"][0]["classes"]["1"]
    valid = reference != 2
    y, q = reference[valid] == 1, p[1][valid]
    assert ours["brier"] == pytest.approx(brier_score_loss(y, q.astype(np.float64)))
    assert ours["dice"] == pytest.approx(f1_score(y, q > p[0][valid]))


@pytest.mark.rendered
def test_everything_ignored_is_null_not_a_crash(make_folder, tmp_path) -> None:
    folder = make_folder({"background": 0, "lesion": 1, "ignore": 2})
    p, reference = softmax_case(np.random.default_rng(0), (4, 6, 6), n_classes=2)
    folder.add("a", p, np.full_like(reference, 2))
    result = run(folder, tmp_path)
    assert set(result["cases"][0]["classes"]["1"].values()) == {None}
    assert result["classes"]["1"]["per_case"]["ece"]["n_undefined"] == 1
    assert result["classes"]["1"]["per_case"]["ece"]["mean"] is None


@pytest.mark.rendered
def test_overlapping_regions(make_folder, tmp_path) -> None:
    folder = make_folder(
        {"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2]
    )
    rng = np.random.default_rng(1)
    p = rng.random((2, 5, 6, 7)).astype(np.float32)
    reference = rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    folder.add("a", p, reference)
    classes = run(folder, tmp_path)["cases"][0]["classes"]
    assert list(classes) == ["(1, 2)", "(2,)"]
    assert classes["(1, 2)"]["brier"] == pytest.approx(
        np.mean((p[0].astype(np.float64) - (reference > 0)) ** 2)
    )
    # Core beats whole in the segmentation, so whole is where either is above one half.
    whole = (p[0] > 0.5) | (p[1] > 0.5)
    assert classes["(1, 2)"]["dice"] == pytest.approx(
        f1_score((reference > 0).ravel(), whole.ravel())
    )
    assert classes["(2,)"]["dice"] == pytest.approx(
        f1_score((reference == 2).ravel(), (p[1] > 0.5).ravel())
    )


@pytest.mark.parametrize("file_ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_file_formats_and_floats(make_folder, tmp_path, file_ending, dtype) -> None:
    folder = make_folder(file_ending=file_ending)
    p, reference = softmax_case(np.random.default_rng(2), (3, 4, 5))
    folder.add("a", np.asfortranarray(p.astype(dtype)), reference)
    result = run(folder, tmp_path)
    assert result["cases"][0]["classes"]["1"]["brier"] == pytest.approx(
        np.mean((p[1] - (reference == 1)) ** 2), rel=2e-3 if dtype == "float16" else 1e-5
    )


@pytest.mark.rendered
def test_natural_images(make_folder, tmp_path) -> None:
    folder = make_folder(file_ending=".png")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
    p, reference = softmax_case(np.random.default_rng(2), (1, 12, 9))
    np.savez_compressed(folder.pred / "a.npz", probabilities=p)
    sitk.WriteImage(sitk.GetImageFromArray(reference[0]), folder.gt / "a.png")
    result = run(folder, tmp_path)
    assert result["cases"][0]["classes"]["2"]["brier"] == pytest.approx(
        np.mean((p[2] - (reference == 2)) ** 2)
    )
    assert result["cases"][0]["classes"]["2"]["hd"] < np.hypot(12, 9)


def test_distances_are_in_millimetres_of_the_header(make_folder, tmp_path) -> None:
    folder = make_folder({"background": 0, "a": 1})
    reference = np.zeros((4, 5, 6), dtype=np.uint8)
    reference[1, 1, 1] = 1
    p = np.full((2, 4, 5, 6), 0.9, dtype=np.float32)
    p[1] = 0.1
    p[:, 1, 1, 4] = [0.2, 0.8]
    folder.add("a", p, reference, spacing_mm=(5.0, 3.0, 0.5))
    assert run(folder, tmp_path)["cases"][0]["classes"]["1"]["hd"] == pytest.approx(1.5)


def test_validation_folder_finds_its_json_two_folders_up(two_cases, tmp_path) -> None:
    validation = tmp_path / "model" / "fold_0" / "validation"
    validation.mkdir(parents=True)
    for name in ("dataset.json", "plans.json"):
        shutil.move(two_cases.pred / name, tmp_path / "model" / name)
    for path in two_cases.pred.iterdir():
        shutil.move(path, validation / path.name)
    # References of the other folds are no error there.
    shutil.copy(two_cases.gt / "a.nii.gz", two_cases.gt / "other_fold.nii.gz")
    two_cases.pred = validation
    assert run(two_cases, tmp_path)["not_predicted"] == ["other_fold"]


def test_json_files_given_by_hand(two_cases, tmp_path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("dataset.json", "plans.json"):
        shutil.move(two_cases.pred / name, moved / name)
    flags = ["-djfile", str(moved / "dataset.json"), "-pfile", str(moved / "plans.json")]
    assert len(run(two_cases, tmp_path, *flags)["cases"]) == 2


def test_default_output_is_beside_the_predictions(two_cases) -> None:
    assert main([str(two_cases.gt), str(two_cases.pred)]) == 0
    assert (two_cases.pred / "calibration" / "calibration.json").is_file()
    assert main([str(two_cases.gt), str(two_cases.pred)]) == 0  # and is not taken for a case


def test_values_a_little_outside_are_clipped(make_folder, tmp_path) -> None:
    folder = make_folder({"background": 0, "a": 1})
    p = np.zeros((2, 2, 2, 2), dtype=np.float32)
    p[0], p[1] = -1e-7, 1 + 1e-7
    folder.add("a", p, np.ones((2, 2, 2), dtype=np.uint8))
    assert run(folder, tmp_path)["cases"][0]["classes"]["1"]["brier"] == 0


class TestBadInput:
    """Each is one line that names the file, and nothing is written."""

    @pytest.fixture(autouse=True)
    def _folder(self, two_cases, tmp_path, capsys):
        self.folder, self.out = two_cases, tmp_path / "out"
        self.npz = two_cases.pred / "a.npz"
        self.reference = two_cases.gt / "a.nii.gz"
        self.p, self.y = two_cases.arrays["a"]
        self.capsys = capsys
        yield
        assert not list(self.out.glob("*.*"))

    def refused(self, *flags: object) -> str:
        flags = flags if "-np" in flags else ("-np", 1, *flags)  # a process takes seconds to start
        return refused(self.capsys, self.folder.gt, self.folder.pred, "-o", self.out, *flags)

    def save(self, array: np.ndarray, name: str = "probabilities") -> None:
        np.savez_compressed(self.npz, **{name: array})

    @pytest.mark.parametrize("which", ["gt", "pred"])
    def test_missing_folder(self, which) -> None:
        shutil.rmtree(getattr(self.folder, which))
        assert str(getattr(self.folder, which)) in self.refused()

    @pytest.mark.parametrize("name", ["dataset.json", "plans.json"])
    def test_missing_json(self, name) -> None:
        (self.folder.pred / name).unlink()
        assert name in self.refused()

    @pytest.mark.parametrize("flag", ["-djfile", "-pfile"])
    def test_json_given_and_not_there(self, flag) -> None:
        assert "nowhere.json" in self.refused(flag, self.folder.pred / "nowhere.json")

    @pytest.mark.parametrize("text", ["{", "[]", '{"labels": {"background": 0, "a": 1}}'])
    def test_json_without_meaning(self, text) -> None:
        (self.folder.pred / "dataset.json").write_text(text)
        assert "dataset.json" in self.refused()

    @pytest.mark.parametrize("reader", [["SimpleITKIO"], 3, {}])
    def test_reader_that_is_no_name(self, reader) -> None:
        (self.folder.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
        assert "plans.json" in self.refused()

    def test_reader_that_nnunet_does_not_have(self) -> None:
        (self.folder.pred / "plans.json").write_text('{"image_reader_writer": "NoSuchIO"}')
        assert "plans.json names NoSuchIO" in self.refused()

    def test_no_probabilities_at_all(self) -> None:
        for path in self.folder.pred.glob("*.npz"):
            path.unlink()
        assert "--save_probabilities" in self.refused()

    def test_one_segmentation_without_probabilities(self) -> None:
        self.npz.unlink()
        assert "a.nii.gz" in self.refused()

    def test_prediction_without_reference(self) -> None:
        self.reference.unlink()
        assert "a.npz" in self.refused()

    def test_reference_that_was_meant_to_be_predicted(self) -> None:
        (self.folder.pred / "predict_from_raw_data_args.json").write_text("{}")
        for name in ("a.npz", "a.nii.gz"):
            (self.folder.pred / name).unlink()
        assert ": a (--chill" in self.refused()

    def test_file_cut_short(self) -> None:
        self.npz.write_bytes(self.npz.read_bytes()[:-100])
        assert "a.npz" in self.refused()

    def test_data_damaged(self) -> None:
        content = bytearray(self.npz.read_bytes())
        content[len(content) // 2] ^= 0xFF
        self.npz.write_bytes(content)
        assert "a.npz" in self.refused()

    def test_empty_file(self) -> None:
        self.npz.write_bytes(b"")
        assert "a.npz" in self.refused()

    def test_pickled_objects_are_not_loaded(self) -> None:
        self.save(np.array([{"a": 1}], dtype=object))
        assert "a.npz" in self.refused()

    def test_other_array_name(self) -> None:
        self.save(self.p, "softmax")
        assert "softmax" in self.refused()

    def test_integers(self) -> None:
        self.save(self.p.round().astype(np.int16))
        assert "int16" in self.refused()

    def test_other_shape(self) -> None:
        self.save(self.p[:, :-1])
        line = self.refused()
        assert "(3, 6, 7, 8)" in line
        assert "(3, 5, 7, 8)" in line

    def test_other_number_of_classes(self) -> None:
        self.save(self.p[:2])
        assert "(2, 6, 7, 8)" in self.refused()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_a_number(self, value) -> None:
        self.p[1, 2, 3, 4] = value
        self.save(self.p)
        assert "NaN" in self.refused()

    def test_logits_are_not_probabilities(self) -> None:
        self.save(np.log(self.p))
        assert "[0, 1]" in self.refused()

    def test_probabilities_that_do_not_sum_to_one(self) -> None:
        self.save(self.p * 0.9)
        assert "sum to 1" in self.refused()

    def test_unknown_label_in_the_reference(self) -> None:
        self.y[0, 0, 0] = 7
        sitk.WriteImage(sitk.GetImageFromArray(self.y), self.reference)
        line = self.refused()
        assert str(self.reference) in line
        assert line.endswith("found also 7")

    def test_reference_that_is_no_image(self) -> None:
        self.reference.write_bytes(b"no image")
        assert str(self.reference) in self.refused()

    def test_reference_cut_short(self) -> None:
        # Long enough that what is left still has a header and some voxels.
        noise = np.random.default_rng(0).integers(0, 3, self.y.shape).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(noise), self.reference)
        self.reference.write_bytes(self.reference.read_bytes()[:-20])
        assert str(self.reference) in self.refused()

    def test_error_in_a_worker_process(self) -> None:
        self.reference.write_bytes(b"no image")
        assert str(self.reference) in self.refused("-np", "2")


def test_output_that_is_a_file_is_said_before_the_work(two_cases, capsys) -> None:
    reference = two_cases.gt / "a.nii.gz"
    before = reference.read_bytes()
    assert "a.nii.gz" in refused(capsys, two_cases.gt, two_cases.pred, "-o", reference)
    assert reference.read_bytes() == before


def test_chill_goes_on_and_says_what_it_left_out(two_cases, tmp_path, capsys) -> None:
    (two_cases.pred / "a.npz").write_bytes(b"")
    result = run(two_cases, tmp_path, "--chill")
    assert [c["case"] for c in result["cases"]] == ["b"]
    assert [s["case"] for s in result["skipped"]] == ["a"]
    assert "a.npz" in capsys.readouterr().out


def test_a_failing_run_leaves_the_old_result(two_cases, tmp_path, capsys) -> None:
    run(two_cases, tmp_path, "-np", "1")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.*")}
    (two_cases.pred / "b.npz").write_bytes(b"")
    refused(capsys, two_cases.gt, two_cases.pred, "-o", tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.*")} == before


@pytest.mark.parametrize("flags", [["--bins", "0"], ["-np", "-1"], ["--bins", "many"], ["--nope"]])
def test_wrong_usage_exits_with_2(two_cases, flags) -> None:
    with pytest.raises(SystemExit) as error:
        main([str(two_cases.gt), str(two_cases.pred), *flags])
    assert error.value.code == 2


def test_other_processes_count_the_same(two_cases) -> None:
    results = []
    for processes in (1, 2):
        evaluation = evaluate(
            two_cases.gt,
            two_cases.pred,
            rois=["image", "boundary:1"],
            processes=processes,
        )
        results.append(json.dumps(evaluation.to_dict()))
    assert results[0] == results[1]
