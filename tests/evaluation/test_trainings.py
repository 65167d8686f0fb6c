"""Folders on the command line of ``meep-calib-compare``: results, predictions, or neither.

A result is always of the files that are there now.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation import trainings
from nnunet_meep.evaluation.counting import one_pass
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.notes import file_notes
from nnunet_meep.evaluation.report import evaluation_report
from nnunet_meep.evaluation.report.compare_folders import compare_folders
from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
from nnunet_meep.evaluation.result_format import nan_to_none
from nnunet_meep.evaluation.stored_results import read_evaluation

ROIS = ["image", "boundary:1"]
SHAPE = (5, 6, 7)

open_training = partial(trainings.open_training, write=write_evaluation_report)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Without other processes, in which nothing counts what is read, and without pictures."""

    def one_process(*args, **options):
        return evaluate(*args, **{**options, "processes": 1})

    def touch(pictures):
        for _, png, svg in pictures:
            png.touch()
            svg.touch()

    monkeypatch.setattr(trainings, "evaluate", one_process)
    monkeypatch.setattr(evaluation_report, "save_pictures", touch)


@pytest.fixture
def folder(make_folder):
    folder, rng = make_folder(), np.random.default_rng(0)
    for case in "ab":
        folder.add(case, *softmax_case(rng, SHAPE))
    return folder


def evaluate_into(target, gt, pred, **options):
    write_evaluation_report(evaluate(gt, pred, surface=False, **options), target)
    return target / "calibration.json"


@pytest.fixture
def evaluated(folder):
    """The same, evaluated into ``calibration`` in the folder of predictions."""
    evaluate_into(folder.pred / "calibration", folder.gt, folder.pred, rois=ROIS)
    return folder


def cases_of(training):
    evaluation = training.evaluation
    return {c.case: c.rois[evaluation.roi].classes["1"]["brier"] for c in evaluation.cases}


def json_of(evaluation):
    return nan_to_none(evaluation.to_dict())


def lines_of(training):
    """All that is said before its numbers."""
    return (*training.notes, *file_notes(training.evaluation))


def from_scratch(folder):
    evaluation = evaluate(folder.gt, folder.pred, rois=ROIS, surface=False)
    return {case.case: case.rois["image"].classes["1"]["brier"] for case in evaluation.cases}


def replace_with_times_kept(path, other):
    times = path.stat()
    shutil.copy(other, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


class TestOfTheFilesThatAreThere:
    def test_nothing_is_done_where_nothing_changed(self, evaluated) -> None:
        path = evaluated.pred / "calibration" / "calibration.json"
        written = path.stat().st_mtime_ns
        for named in (evaluated.pred, evaluated.pred / "calibration"):
            training = open_training(named)
            assert json_of(training.evaluation) == json_of(read_evaluation(path).over(None))
            assert training.evaluation.sources.pred_folders == (evaluated.pred,)
            assert training.evaluation.sources.gt_folder == evaluated.gt
            assert lines_of(training) == ()
        assert path.stat().st_mtime_ns == written

    @pytest.mark.parametrize(
        ("name", "role"),
        [
            ("pred/a.npz", "probabilities"),
            ("pred/a.nii.gz", "segmentation"),
            ("gt/a.nii.gz", "reference"),
        ],
    )
    def test_a_file_replaced_with_its_times_kept(self, evaluated, tmp_path, name, role) -> None:
        replace_with_times_kept(tmp_path / name, (tmp_path / name.replace("a.", "b.")))
        training = open_training(evaluated.pred)
        assert f"1 changed case: a ({role}): evaluated again" in lines_of(training)[0]
        assert cases_of(training) == from_scratch(evaluated)
        assert not any("changed" in line for line in lines_of(open_training(evaluated.pred)))

    def test_only_what_changed_is_read_again(self, evaluated, tmp_path, monkeypatch) -> None:
        evaluate_into(
            evaluated.pred / "calibration",
            evaluated.gt,
            evaluated.pred,
            rois=ROIS,
            keep=evaluated.pred / "calibration" / "cases",
        )
        read, sum_case = [], one_pass.sum_case

        def counted(case, *args):
            read.append(case.name)
            return sum_case(case, *args)

        monkeypatch.setattr(one_pass, "sum_case", counted)
        replace_with_times_kept(evaluated.gt / "a.nii.gz", evaluated.gt / "b.nii.gz")
        open_training(evaluated.pred)
        assert read == ["a"]

    def test_new_and_gone_cases(self, evaluated) -> None:
        evaluated.add("c", *softmax_case(np.random.default_rng(5), SHAPE))
        for path in (evaluated.pred / "a.npz", evaluated.pred / "a.nii.gz"):
            path.unlink()
        training = open_training(evaluated.pred)
        assert lines_of(training)[0].endswith(
            "1 new case: c; 1 case gone: a; references without a prediction changed: evaluated "
            "again"
        )
        assert lines_of(training)[1] == "1 reference has no prediction: a"
        assert list(cases_of(training)) == ["b", "c"]
        assert cases_of(training) == from_scratch(evaluated)

    def test_other_labels(self, evaluated) -> None:
        path = evaluated.pred / "dataset.json"
        path.write_text(path.read_text().replace("Anterior", "Head"))
        training = open_training(evaluated.pred)
        assert "dataset.json changed: evaluated again" in lines_of(training)[0]
        assert training.evaluation.classes["1"] == "Head"

    def test_its_options_are_those_of_before(self, folder) -> None:
        evaluate_into(
            folder.pred / "calibration", folder.gt, folder.pred, bins=7, segmentation="argmax"
        )
        replace_with_times_kept(folder.gt / "a.nii.gz", folder.gt / "b.nii.gz")
        settings = open_training(folder.pred).evaluation.settings
        assert (settings["bins"], settings["segmentation"]) == (7, "argmax")
        assert not settings["surface"]

    def test_other_references_with_gt(self, evaluated, tmp_path) -> None:
        shutil.copytree(evaluated.gt, tmp_path / "same")
        assert lines_of(open_training(evaluated.pred, gt_folder=tmp_path / "same")) == ()
        other = tmp_path / "other"
        shutil.copytree(evaluated.gt, other)
        shutil.copy(other / "a.nii.gz", other / "b.nii.gz")
        training = open_training(evaluated.pred, gt_folder=other)
        assert "1 changed case: b (reference)" in lines_of(training)[0]
        assert training.evaluation.sources.gt_folder == other

    def test_a_result_of_an_older_format(self, evaluated) -> None:
        path = evaluated.pred / "calibration" / "calibration.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({"schema": 1, "settings": content["settings"], "cases": []}))
        training = open_training(evaluated.pred)
        assert lines_of(training) == (f"{path}: it has another format: evaluated again",)
        assert cases_of(training) == from_scratch(evaluated)

    def test_predictions_that_moved_with_their_result(self, evaluated, tmp_path) -> None:
        evaluated.pred.rename(tmp_path / "elsewhere")
        shutil.move(evaluated.gt, tmp_path / "references")
        training = open_training(tmp_path / "elsewhere", gt_folder=tmp_path / "references")
        assert lines_of(training) == ()
        assert training.evaluation.sources.pred_folders == (tmp_path / "elsewhere",)

    def test_predictions_with_a_result_of_others(self, evaluated, tmp_path) -> None:
        """A folder copied with its result, and then filled with other predictions."""
        shutil.copytree(evaluated.pred, tmp_path / "copy")
        shutil.copy(tmp_path / "copy" / "a.npz", tmp_path / "copy" / "b.npz")
        training = open_training(tmp_path / "copy")
        assert "1 changed case: b (probabilities)" in lines_of(training)[0]

    def test_a_folder_of_predictions_never_stands_for_others(self, evaluated, tmp_path) -> None:
        """Its result came from elsewhere, and names predictions that are there."""
        other = tmp_path / "other"
        shutil.copytree(evaluated.pred, other, ignore=shutil.ignore_patterns("calibration"))
        shutil.copy(other / "a.npz", other / "b.npz")
        path = evaluate_into(tmp_path / "kept", evaluated.gt, evaluated.pred)
        shutil.copytree(path.parent, other / "calibration")
        training = open_training(other)
        assert training.evaluation.sources.pred_folders == (other,)
        assert "1 changed case: b (probabilities)" in lines_of(training)[0]
        # Nor for more than itself.
        (tmp_path / "more").mkdir()
        for name in ("b.npz", "b.nii.gz", "dataset.json", "plans.json"):
            shutil.copy(other / name, tmp_path / "more")
        for name in ("b.npz", "b.nii.gz"):
            (other / name).unlink()
        evaluate_into(other / "calibration", evaluated.gt, [other, tmp_path / "more"])
        assert list(cases_of(open_training(other))) == ["a"]
        # Named itself, the result is that of the predictions which it names.
        assert open_training(path.parent).evaluation.sources.pred_folders == (evaluated.pred,)

    def test_what_no_longer_can_be_used_is_an_error(self, evaluated) -> None:
        path = evaluated.pred / "b.npz"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(InputError, match=rf"^{path}: .*could not read it"):
            open_training(evaluated.pred)


class TestWhatIsNotPairedOrLeftOut:
    def test_a_prediction_without_a_reference_that_came_or_went(self, evaluated) -> None:
        p, reference = softmax_case(np.random.default_rng(5), SHAPE)
        evaluated.add("extra", p, reference)
        (evaluated.gt / "extra.nii.gz").unlink()
        notes = lines_of(open_training(evaluated.pred))
        assert "what does not pair up changed: evaluated again" in notes[0]
        assert notes[1].startswith("extra is left out: ")
        for ending in (".npz", ".nii.gz"):
            (evaluated.pred / f"extra{ending}").unlink()
        notes = lines_of(open_training(evaluated.pred))
        assert len(notes) == 1
        assert "evaluated again" in notes[0]
        assert lines_of(open_training(evaluated.pred)) == ()

    def test_a_case_that_chill_left_out_is_tried_again(self, folder) -> None:
        whole = (folder.pred / "b.npz").read_bytes()
        (folder.pred / "b.npz").write_bytes(whole[:-50])
        evaluate_into(folder.pred / "calibration", folder.gt, folder.pred, chill=True)
        notes = lines_of(open_training(folder.pred))
        assert "1 case left out before: b: evaluated again" in notes[0]
        assert notes[1].startswith("b is left out: ")
        (folder.pred / "b.npz").write_bytes(whole)
        training = open_training(folder.pred)
        assert list(cases_of(training)) == ["a", "b"]

    def test_masks_of_the_same_name_elsewhere(self, folder, tmp_path, monkeypatch) -> None:
        for place in ("here", "there"):
            shutil.copytree(folder.gt, tmp_path / place / "masks")
        monkeypatch.chdir(tmp_path / "here")
        path = evaluate_into(tmp_path / "out", folder.gt, folder.pred, rois=["mask:masks"])
        assert lines_of(open_training(path.parent)) == ()
        monkeypatch.chdir(tmp_path / "there")
        with pytest.raises(InputError, match=rf"^{path}: expected the masks {tmp_path / 'here'}"):
            open_training(path.parent)

    def test_without_its_masks_it_says_where_they_were(self, folder, tmp_path, monkeypatch) -> None:
        shutil.copytree(folder.gt, tmp_path / "here" / "masks")
        monkeypatch.chdir(tmp_path / "here")
        path = evaluate_into(tmp_path / "out", folder.gt, folder.pred, rois=["mask:masks"])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=rf"^{path}: was evaluated with the masks .*--as-stor"):
            open_training(path.parent)
        folders = {"model": [path.parent]}
        stored = compare_folders(folders, roi="mask:masks", as_stored=True)
        assert stored.roi == "mask:masks"
        with pytest.raises(InputError, match="mask:masks: expected a folder of masks, found none"):
            compare_folders(folders, roi="mask:masks")

    def test_chosen_cases_that_are_gone_are_those_of_the_result(self, folder, tmp_path) -> None:
        path = evaluate_into(tmp_path / "out", folder.gt, folder.pred, cases=["a", "b"])
        for file in folder.pred.glob("a.*"):
            file.unlink()
        with pytest.raises(InputError, match=rf"^{path}: was evaluated with --cases; .* case a "):
            open_training(path.parent)


class TestWherePredictionsAreGone:
    @pytest.fixture
    def path(self, evaluated, tmp_path):
        path = evaluate_into(tmp_path / "kept", evaluated.gt, evaluated.pred)
        shutil.rmtree(evaluated.pred)
        return path

    def test_it_is_refused(self, path, tmp_path) -> None:
        with pytest.raises(InputError) as error:
            open_training(path.parent)
        assert str(error.value) == (
            f"{path}: expected its predictions in {tmp_path / 'pred'}, found none; compare the "
            f"result as it was written with --as-stored"
        )

    def test_a_recorded_path_that_is_too_long_for_the_system_is_refused(self, evaluated) -> None:
        path = evaluated.pred / "calibration" / "calibration.json"
        content = json.loads(path.read_text())
        content["origin"]["gt_folder"] = "x" * 300
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"^{path}: .*File name too long"):
            read_evaluation(path)

    def test_references_that_are_gone_are_refused_too(self, folder, tmp_path) -> None:
        path = evaluate_into(tmp_path / "kept", folder.gt, folder.pred)
        folder.gt.rename(tmp_path / "references")
        with pytest.raises(InputError, match=rf"^{path}: expected its references .* with --gt, or"):
            open_training(path.parent)
        assert lines_of(open_training(path.parent, gt_folder=tmp_path / "references")) == ()

    def test_it_is_taken_as_stored_and_that_is_said(self, path, tmp_path) -> None:
        training = open_training(path.parent, as_stored=True)
        when = json.loads(path.read_text())["origin"]["written"]
        assert lines_of(training)[0].startswith(
            f"as stored on {when}: 2 cases of {tmp_path / 'pred'} against {tmp_path / 'gt'}, "
            f"evaluated by nnunet-meep "
        )
        assert lines_of(training)[1:] == (
            "not compared with its files, not all of which are there",
        )

    def test_files_that_changed_since_are_said_too(self, folder, tmp_path) -> None:
        path = evaluate_into(tmp_path / "kept", folder.gt, folder.pred)
        before = json_of(read_evaluation(path))
        replace_with_times_kept(folder.gt / "a.nii.gz", folder.gt / "b.nii.gz")
        training = open_training(path.parent, as_stored=True)
        assert json_of(training.evaluation) == before
        assert lines_of(training)[1:] == (
            "its files are not the same any more: 1 changed case: a (reference)",
        )

    def test_one_of_another_format_is_refused_with_the_command(self, path, tmp_path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "schema": 1}))
        command = f"meep-calib-eval {tmp_path / 'gt'} {tmp_path / 'pred'} -o {path.parent}"
        command += " --bins 15 --no-surface --roi image"
        for as_stored in (False, True):
            with pytest.raises(InputError, match=rf"schema 4, got 1; .*: {command}$"):
                open_training(path.parent, as_stored=as_stored)


class TestFolds:
    @pytest.fixture
    def model(self, tmp_path, monkeypatch):
        """Three folds of two cases each; fold 0 alone is trained."""
        root = tmp_path / "preprocessed" / "Dataset005_Hippo"
        model = tmp_path / "results" / "Dataset005_Hippo" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        rng = np.random.default_rng(1)
        self.folds = []
        for i, cases in enumerate(("ab", "cd", "ef")):
            made = PredictionFolder(tmp_path / f"made_{i}", LABELS)
            for case in cases:
                made.add(case, *softmax_case(rng, SHAPE))
            self.folds.append(made)
            shutil.copytree(made.gt, root / "gt_segmentations", dirs_exist_ok=True)
        splits = [{"train": [], "val": list(cases)} for cases in ("ab", "cd", "ef")]
        (root / "splits_final.json").write_text(json.dumps(splits))
        model.mkdir(parents=True)
        for name in ("dataset.json", "plans.json"):
            shutil.copy(self.folds[0].pred / name, model)
        self.model = model
        self.train(0)
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
        return model

    def train(self, fold):
        target = self.model / f"fold_{fold}" / "validation"
        shutil.copytree(self.folds[fold].pred, target)
        for name in ("dataset.json", "plans.json"):
            (target / name).unlink()

    def test_folds_that_came_later_are_evaluated(self, model) -> None:
        evaluate_into(model / "calibration", None, model)
        assert lines_of(open_training(model)) == (
            "folds 1, 2 have no predictions (4 validation cases)",
        )
        self.train(1)
        training = open_training(model)
        assert list(cases_of(training)) == ["a", "b", "c", "d"]
        assert "2 new cases: c, d; " in lines_of(training)[0]
        assert lines_of(training)[1:] == ("fold 2 has no predictions (2 validation cases)",)

    def test_a_fold_that_is_not_complete(self, model) -> None:
        (model / "fold_0" / "validation" / "b.npz").unlink()
        (model / "fold_0" / "validation" / "b.nii.gz").unlink()
        for fold in (1, 2):
            self.train(fold)
        assert lines_of(open_training(model)) == (
            "fold 0 is not complete: 1 of its 2 validation cases have no prediction: b",
        )

    def test_cases_that_no_fold_validates_on_miss_nothing(self, model) -> None:
        """As with a fixed validation set: the others are trained on."""
        splits = [{"train": ["c", "d", "e"], "val": ["a", "b", "f"]}]
        path = model.parents[2] / "preprocessed" / model.parent.name / "splits_final.json"
        path.write_text(json.dumps(splits))
        evaluate_into(model / "calibration", None, model)
        assert lines_of(open_training(model)) == (
            "fold 0 is not complete: 1 of its 3 validation cases have no prediction: f",
        )
        stored = json.loads((model / "calibration" / "calibration.json").read_text())
        assert stored["not_predicted"] == ["f"]


def test_one_of_its_rois(evaluated) -> None:
    near = open_training(evaluated.pred, roi="boundary:1").evaluation
    assert near.settings["rois"] == ["boundary:1"]
    whole = evaluate(evaluated.gt, evaluated.pred, rois=ROIS, surface=False)
    assert json_of(near)["cases"] == json_of(whole)["by_roi"]["boundary:1"]["cases"]
    with pytest.raises(InputError, match=r"evaluate it again with meep-calib-eval ... --roi crop"):
        open_training(evaluated.pred, roi="crop")


def test_predictions_without_a_result_are_evaluated_once(folder, capsys) -> None:
    first = open_training(folder.pred, gt_folder=folder.gt, roi="boundary:1")
    assert "2/2" in capsys.readouterr().err  # the progress bar
    expected = evaluate(folder.gt, folder.pred, rois=["boundary:1"])
    assert json_of(first.evaluation)["cases"] == json_of(expected)["cases"]
    assert "hd" in first.evaluation.class_metrics
    path = folder.pred / "calibration" / "calibration.json"
    written = path.stat().st_mtime_ns
    again = open_training(folder.pred, gt_folder=folder.gt)
    assert json_of(again.evaluation) == json_of(first.evaluation)
    assert path.stat().st_mtime_ns == written


def test_predictions_without_references_are_said(folder) -> None:
    (folder.gt / "b.nii.gz").unlink()
    training = open_training(folder.pred, gt_folder=folder.gt)
    (line,) = lines_of(training)
    path = folder.pred / "b.npz"
    assert line == (
        f"b is left out: {path}: expected a reference {folder.gt / 'b.nii.gz'}, found none"
    )
    assert list(cases_of(training)) == ["a"]


def test_predictions_without_a_result_need_references(folder) -> None:
    with pytest.raises(InputError, match=r"evaluate it with meep-calib-eval, or give --gt$"):
        open_training(folder.pred)
    assert not (folder.pred / "calibration").exists()


@pytest.mark.parametrize("name", ["nowhere", "gt"])
def test_neither_is_one_line(folder, name) -> None:
    path = folder.gt.parent / name
    with pytest.raises(InputError, match=rf"^{path}: expected .* found none$"):
        open_training(path)
