"""Which files belong together: several folders, model folders, and what does not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from predictions import LABELS, PredictionFolder, softmax_case
from test_evaluate import refused, run

from nnunet_meep.cli.calib_eval import main

pytestmark = pytest.mark.usefixtures("unrendered")

SHAPE = (3, 5, 6)


def cases_of(out: Path) -> list[str]:
    return [c["case"] for c in json.loads((out / "calibration.json").read_text())["cases"]]


def evaluated(out: Path, *folders: Path) -> list[str]:
    """The cases that the command evaluates."""
    assert main([*map(str, folders), "-o", str(out), "-np", "1", "--no-surface"]) == 0
    return cases_of(out)


def fill(folder: PredictionFolder, rng: np.random.Generator, *cases: str) -> None:
    for case in cases:
        folder.add(case, *softmax_case(rng, SHAPE))


@pytest.fixture
def two_folders(tmp_path) -> list[PredictionFolder]:
    """Predictions of cases a, c and b; the references of all are in the first one's."""
    rng = np.random.default_rng(0)
    folders = [PredictionFolder(tmp_path / name, LABELS) for name in ("one", "two")]
    for folder, cases in zip(folders, ("ac", "b"), strict=True):
        fill(folder, rng, *cases)
    shutil.copy(folders[1].gt / "b.nii.gz", folders[0].gt)
    return folders


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A trained model of three folds with one case each, and nnU-Net's preprocessing."""
    model = tmp_path / "results" / "Dataset005_Hippo" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    preprocessed = tmp_path / "preprocessed"
    references = preprocessed / "Dataset005_Hippo" / "gt_segmentations"
    references.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i, case in enumerate("bca"):
        folder = PredictionFolder(tmp_path / f"made_{i}", LABELS)
        fill(folder, rng, case)
        shutil.move(folder.gt / f"{case}.nii.gz", references)
        shutil.move(folder.pred, model / f"fold_{i}" / "validation")
        for name in ("dataset.json", "plans.json"):
            shutil.move(model / f"fold_{i}" / "validation" / name, model / name)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    return model


def name_dataset(model: Path, name: str) -> None:
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "dataset_name": name}))


def test_cases_of_several_folders_are_evaluated_together(two_folders, tmp_path) -> None:
    one, two = two_folders
    out = tmp_path / "out"
    assert evaluated(out, one.gt, one.pred, two.pred) == ["a", "b", "c"]
    settings = json.loads((out / "calibration.json").read_text())["settings"]
    assert settings["pred_folder"] == [str(one.pred), str(two.pred)]
    assert settings["gt_folder"] == str(one.gt)


def test_the_order_of_the_folders_does_not_matter(two_folders, tmp_path) -> None:
    one, two = two_folders
    results = []
    for name, preds in (("x", (one.pred, two.pred)), ("y", (two.pred, one.pred))):
        evaluated(tmp_path / name, one.gt, *preds)
        results.append(json.loads((tmp_path / name / "calibration.json").read_text()))
    for key in ("cases", "classes", "top_label", "not_predicted"):
        assert results[0][key] == results[1][key]


def test_one_folder_of_several_may_have_no_cases(two_folders, tmp_path) -> None:
    one, two = two_folders
    (two.pred / "b.npz").unlink()
    (two.pred / "b.nii.gz").unlink()
    assert evaluated(tmp_path / "out", one.gt, one.pred, two.pred) == ["a", "c"]


def test_the_same_case_in_two_folders(two_folders, tmp_path, capsys) -> None:
    one, two = two_folders
    shutil.copy(one.pred / "a.npz", two.pred)
    line = refused(capsys, one.gt, one.pred, two.pred, "-o", tmp_path / "out")
    assert str(one.pred / "a.npz") in line
    assert str(two.pred / "a.npz") in line


def test_the_same_folder_twice(two_folders, tmp_path, capsys) -> None:
    one, _ = two_folders
    assert main([str(p) for p in (one.gt, one.pred, one.pred, "-o", tmp_path / "out")]) == 1
    assert f"{one.pred}: expected each folder of predictions once" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"background": 0, "Anterior": 1, "Other": 2}},
        {"labels": {"background": 0, "Anterior": 1}},
        {"file_ending": ".mha"},
    ],
    ids=["another name", "fewer labels", "another file ending"],
)
def test_folders_of_different_data_sets(two_folders, tmp_path, capsys, change) -> None:
    one, two = two_folders
    path = two.pred / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    line = refused(capsys, one.gt, one.pred, two.pred, "-o", tmp_path / "out")
    assert str(two.pred) in line
    assert str(one.pred) in line
    assert next(iter(change)) in line


def test_folders_of_different_readers(two_folders, tmp_path, capsys) -> None:
    one, two = two_folders
    (two.pred / "plans.json").write_text('{"image_reader_writer": "NibabelIO"}')
    line = refused(capsys, one.gt, one.pred, two.pred, "-o", tmp_path / "out")
    assert "NibabelIO" in line
    assert "SimpleITKIO" in line


def test_several_folders_need_an_output_folder(two_folders, capsys) -> None:
    one, two = two_folders
    assert "-o" in refused(capsys, one.gt, one.pred, two.pred)
    assert not list(one.pred.rglob("calibration*"))


def test_references_and_predictions_the_wrong_way_round(two_folders, tmp_path, capsys) -> None:
    one, _ = two_folders
    line = refused(capsys, one.pred, one.gt, "-o", tmp_path / "out")
    assert str(one.pred) in line
    assert "references comes first" in line


def test_references_beside_their_own_predictions_are_no_mistake(two_folders, tmp_path) -> None:
    """Probabilities in both folders, say of an older network's output as the reference."""
    one, _ = two_folders
    shutil.copy(one.pred / "a.npz", one.gt)
    assert evaluated(tmp_path / "out", one.gt, one.pred) == ["a", "c"]


def test_references_without_prediction_are_listed(two_folders, tmp_path, capsys) -> None:
    one, _ = two_folders
    assert run(one, tmp_path)["not_predicted"] == ["b"]
    assert "Note: 1 reference has no prediction: b\n" in capsys.readouterr().out


def test_many_references_without_prediction_are_listed_in_short(
    two_folders, tmp_path, capsys
) -> None:
    one, _ = two_folders
    for i in range(24):
        shutil.copy(one.gt / "a.nii.gz", one.gt / f"more_{i:02}.nii.gz")
    names = ["b", *(f"more_{i:02}" for i in range(24))]
    assert run(one, tmp_path)["not_predicted"] == names
    line = f"Note: 25 references have no prediction: {', '.join(names[:20])} and 5 more\n"
    assert line in capsys.readouterr().out


def test_nothing_is_listed_where_all_are_predicted(two_folders, tmp_path, capsys) -> None:
    one, _ = two_folders
    (one.gt / "b.nii.gz").unlink()
    assert run(one, tmp_path)["not_predicted"] == []
    assert "no prediction" not in capsys.readouterr().out


class TestModelFolder:
    def test_is_all_its_folds_against_the_preprocessed_references(self, model, tmp_path) -> None:
        out = tmp_path / "out"
        assert evaluated(out, model) == ["a", "b", "c"]
        settings = json.loads((out / "calibration.json").read_text())["settings"]
        assert settings["gt_folder"].endswith("Dataset005_Hippo/gt_segmentations")
        assert settings["pred_folder"] == str(model)

    def test_writes_beside_its_folds_if_nothing_else_is_said(self, model) -> None:
        for _ in range(2):  # the second time there is a result already
            assert main([str(model), "-np", "1", "--no-surface"]) == 0
            assert cases_of(model / "calibration") == ["a", "b", "c"]

    def test_gives_the_numbers_of_its_files(self, model, tmp_path) -> None:
        references = tmp_path / "preprocessed" / "Dataset005_Hippo" / "gt_segmentations"
        folds = [model / f"fold_{i}" / "validation" for i in range(3)]
        evaluated(tmp_path / "x", model)
        evaluated(tmp_path / "y", references, *folds)
        results = [json.loads((tmp_path / n / "calibration.json").read_text()) for n in "xy"]
        assert results[0]["classes"] == results[1]["classes"]
        assert results[0]["cases"] == results[1]["cases"]

    def test_named_in_the_plans_may_stand_anywhere(self, model, tmp_path) -> None:
        name_dataset(model, "Dataset005_Hippo")
        moved = tmp_path / "moved" / "model"
        shutil.move(model, moved)
        assert evaluated(tmp_path / "out", moved) == ["a", "b", "c"]

    def test_the_name_in_the_plans_comes_before_that_of_the_folder(
        self, model, tmp_path, capsys
    ) -> None:
        name_dataset(model, "Dataset006_Lung")
        line = refused(capsys, model, "-o", tmp_path / "out")
        assert "Dataset006_Lung" in line
        assert "gt_segmentations" in line

    @pytest.mark.parametrize("trailing", ["", ".", "../validation"])
    def test_one_fold_alone(self, model, tmp_path, monkeypatch, trailing) -> None:
        assert evaluated(tmp_path / "out", model / "fold_1" / "validation" / trailing) == ["c"]
        result = json.loads((tmp_path / "out" / "calibration.json").read_text())
        assert result["not_predicted"] == ["a", "b"]

    def test_one_fold_from_within(self, model, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(model / "fold_1" / "validation")
        assert evaluated(tmp_path / "out", Path(".")) == ["c"]

    def test_against_references_that_are_given(self, model, tmp_path, monkeypatch) -> None:
        references = tmp_path / "elsewhere"
        shutil.move(tmp_path / "preprocessed" / "Dataset005_Hippo" / "gt_segmentations", references)
        monkeypatch.delenv("nnUNet_preprocessed")
        assert evaluated(tmp_path / "out", references, model) == ["a", "b", "c"]

    def test_with_a_fold_without_probabilities(self, model, tmp_path, capsys) -> None:
        (model / "fold_1" / "validation" / "c.npz").unlink()
        line = refused(capsys, model, "-o", tmp_path / "out")
        assert str(model / "fold_1" / "validation") in line
        assert "--npz" in line

    def test_with_a_fold_that_is_not_trained_yet(self, model, tmp_path) -> None:
        shutil.rmtree(model / "fold_1" / "validation")
        assert evaluated(tmp_path / "out", model) == ["a", "b"]

    def test_fold_all_is_none_of_them(self, model, tmp_path, capsys) -> None:
        """Its network is trained on the cases of its validation."""
        shutil.copytree(model / "fold_1", model / "fold_all")
        assert evaluated(tmp_path / "out", model) == ["a", "b", "c"]
        for fold in range(3):
            shutil.rmtree(model / f"fold_{fold}")
        for folder in (model, model / "fold_all" / "validation"):
            line = refused(capsys, folder, "-o", tmp_path / "other")
            assert "that the network was not trained on" in line

    def test_without_any_fold(self, model, tmp_path, capsys) -> None:
        for fold in model.glob("fold_*"):
            shutil.rmtree(fold)
        assert str(model) in refused(capsys, model, "-o", tmp_path / "out")

    def test_with_the_same_case_in_two_folds(self, model, tmp_path, capsys) -> None:
        shutil.copy(model / "fold_0/validation/b.npz", model / "fold_2/validation/b.npz")
        line = refused(capsys, model, "-o", tmp_path / "out")
        assert "fold_0/validation/b.npz" in line
        assert "fold_2/validation/b.npz" in line

    @pytest.mark.parametrize("value", [None, ""])
    def test_where_the_environment_does_not_say(
        self, model, tmp_path, capsys, monkeypatch, value
    ) -> None:
        if value is None:
            monkeypatch.delenv("nnUNet_preprocessed")
        else:
            monkeypatch.setenv("nnUNet_preprocessed", value)
        line = refused(capsys, model, "-o", tmp_path / "out")
        assert "nnUNet_preprocessed" in line

    def test_whose_preprocessing_is_gone(self, model, tmp_path, capsys) -> None:
        shutil.rmtree(tmp_path / "preprocessed")
        assert "gt_segmentations" in refused(capsys, model, "-o", tmp_path / "out")

    def test_without_plans(self, model, tmp_path, capsys) -> None:
        (model / "plans.json").unlink()
        assert str(model) in refused(capsys, model, "-o", tmp_path / "out")

    def test_with_plans_that_are_no_json(self, model, tmp_path, capsys) -> None:
        (model / "plans.json").write_text("{")
        assert "plans.json" in refused(capsys, model, "-o", tmp_path / "out")


def test_one_folder_that_is_no_model(two_folders, tmp_path, capsys) -> None:
    one, _ = two_folders
    line = refused(capsys, one.pred, "-o", tmp_path / "out")
    assert str(one.pred) in line
    assert "reference segmentations before it" in line


@pytest.mark.parametrize("link", [False, True])
def test_predictions_are_not_their_own_references(two_folders, tmp_path, capsys, link) -> None:
    one, two = two_folders
    references = one.pred
    if link:
        references = tmp_path / "link"
        references.symlink_to(one.pred)
    line = refused(capsys, references, two.pred, one.pred, "-o", tmp_path / "out")
    assert line.startswith(f"Error: {references}: expected a folder of reference segmentations")


@pytest.mark.parametrize("role", ["gt", "pred", "out", "above out"])
def test_a_link_that_leads_to_itself(two_folders, tmp_path, capsys, role) -> None:
    one, _ = two_folders
    (tmp_path / "loop").symlink_to("loop")
    loop, out = tmp_path / "loop", tmp_path / "out"
    arguments = {
        "gt": (loop, one.pred, "-o", out),
        "pred": (one.gt, loop, "-o", out),
        "out": (one.gt, one.pred, "-o", loop),
        "above out": (one.gt, one.pred, "-o", loop / "out"),
    }
    assert refused(capsys, *arguments[role]).startswith(f"Error: {loop}: expected a folder")


@pytest.mark.parametrize("n", ["1", "2"])
def test_chill_with_no_case_left_is_one_line(two_folders, tmp_path, capsys, n) -> None:
    one, _ = two_folders
    for case in "ac":
        (one.gt / f"{case}.nii.gz").unlink()
    line = refused(capsys, one.gt, one.pred, "-o", tmp_path / "out", "--chill", "-np", n)
    assert str(one.pred) in line


def test_hidden_files_are_no_cases(two_folders, tmp_path) -> None:
    one, _ = two_folders
    for path in (one.pred / "._a.npz", one.gt / "._a.nii.gz", one.pred / ".tmp-1-b.npz"):
        path.write_bytes(b"what another system leaves")
    assert evaluated(tmp_path / "out", one.gt, one.pred) == ["a", "c"]
