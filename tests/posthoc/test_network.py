"""A calibrator knows its network and its cases: fitted, applied, predicted with, evaluated."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli import calib_apply, calib_compare, calib_eval, calib_fit
from nnunet_meep.errors import InputError
from nnunet_meep.posthoc.apply import apply
from nnunet_meep.posthoc.calibrator import read_calibrator

DATASET = "Dataset501_LA"


@pytest.fixture
def models(make_validation, tmp_path, monkeypatch):
    """Make models of one fold, with validation predictions of the same cases."""
    preprocessed = tmp_path / "preprocessed" / DATASET / "gt_segmentations"
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    number = iter(range(100))

    def make(trainer="nnUNetTrainer", fold=0, dataset=DATASET, weights="w", configuration="2d"):
        made = make_validation("two classes", name=f"made_{next(number)}")
        shutil.copytree(made.gt, preprocessed, dirs_exist_ok=True)
        name = f"{trainer}__nnUNetPlans__{configuration}"
        model = tmp_path / f"results_{next(number)}" / dataset / name
        shutil.move(made.pred, model / f"fold_{fold}" / "validation")
        for file in ("dataset.json", "plans.json"):
            shutil.move(model / f"fold_{fold}" / "validation" / file, model / file)
        plans = json.loads((model / "plans.json").read_text())
        (model / "plans.json").write_text(json.dumps({**plans, "dataset_name": dataset}))
        with zipfile.ZipFile(model / f"fold_{fold}" / "checkpoint_final.pth", "w") as archive:
            archive.writestr("data", weights)
        return model

    return make


def fitted(model, tmp_path):
    path = tmp_path / "calibrator.json"
    assert calib_fit.main(["platt", str(model), "-o", str(path)]) == 0
    return path


def applied(capsys, path, model, out, *options):
    """Exit code and what is said."""
    capsys.readouterr()
    folder = next(model.glob("fold_*/validation"))
    code = calib_apply.main([str(path), str(folder), "-o", str(out), *options])
    captured = capsys.readouterr()
    return code, captured.out + captured.err.splitlines()[-1] if code else captured.out


def test_its_own_network(models, tmp_path, capsys) -> None:
    model = models()
    path = fitted(model, tmp_path)
    network = json.loads(path.read_text())["network"]
    assert {name: network[name] for name in ("dataset", "trainer", "plans", "configuration")} == {
        "dataset": DATASET,
        "trainer": "nnUNetTrainer",
        "plans": "nnUNetPlans",
        "configuration": "2d",
    }
    assert network["folds"] == ["0"]
    code, said = applied(capsys, path, model, tmp_path / "out")
    assert code == 0
    assert "the calibrator was fitted to" not in said
    assert (
        json.loads((tmp_path / "out" / "calib_apply_args.json").read_text())["network"] == network
    )


def test_thresholds_follow_a_calibrator_of_the_same_network(models, tmp_path, capsys) -> None:
    path, other = fitted(models(), tmp_path), models(fold=3)
    asked = ["threshold", str(other), "--goal", "dice", "--after", str(path)]
    assert calib_fit.main([*asked, "-o", str(tmp_path / "t.json")]) == 1
    said = capsys.readouterr().err
    assert "fold 3, not fold 0; give --after a calibrator of this network" in said
    assert "--any-network" not in said


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"trainer": "nnUNetTrainerMEEP_KL"}, "trainer nnUNetTrainerMEEP_KL, not nnUNetTrainer"),
        ({"configuration": "3d_fullres"}, "configuration 3d_fullres, not 2d"),
        ({"fold": 3}, "fold 3, not fold 0"),
        ({"weights": "trained again"}, "another checkpoint of fold 0"),
    ],
)
def test_another_network_is_refused_or_written_down(models, tmp_path, capsys, other, words) -> None:
    path = fitted(models(), tmp_path)
    model = models(**other)
    code, said = applied(capsys, path, model, tmp_path / "out")
    assert code == 1
    assert said == (
        f"Error: {next(model.glob('fold_*/validation'))}: expected predictions of the network that "
        f"the calibrator was fitted to, got those of another one: {words}; fit a calibrator to "
        f"this one, or apply it all the same with --any-network"
    )
    assert not (tmp_path / "out").exists()
    code, said = applied(capsys, path, model, tmp_path / "out", "--any-network")
    assert code == 0
    assert f"Note: the calibrator was fitted to another network: {words}\n" in said
    record = json.loads((tmp_path / "out" / "calib_apply_args.json").read_text())
    assert record["any_network"] == [words]
    # Whoever evaluates it is told.
    gt = tmp_path / "preprocessed" / DATASET / "gt_segmentations"
    assert calib_eval.main([str(gt), str(tmp_path / "out"), "-np", "1", "--no-surface"]) == 0
    note = f"Note: calibrated with a calibrator of another network ({words})"
    assert note in capsys.readouterr().out


def test_another_data_set_is_refused_whatever_is_said(models, tmp_path, capsys) -> None:
    path = fitted(models(), tmp_path)
    model = models(dataset="Dataset777_Other")
    for options in ([], ["--any-network"]):
        code, said = applied(capsys, path, model, tmp_path / "out", *options)
        assert code == 1
        assert said.endswith(
            "expected the data set that the calibrator was fitted on, Dataset501_LA, got "
            "Dataset777_Other"
        )
        assert not (tmp_path / "out").exists()


def test_what_is_not_known_is_said(models, make_validation, tmp_path, capsys) -> None:
    """nnUNetv2_predict leaves no word of trainer, configuration and folds."""
    path = fitted(models(), tmp_path)
    plain = make_validation("two classes", name="predicted", seed=3)
    capsys.readouterr()
    assert calib_apply.main([str(path), str(plain.pred), "-o", str(tmp_path / "out")]) == 0
    note = (
        "Note: the calibrator was fitted to Dataset501_LA, nnUNetTrainer, nnUNetPlans, 2d, fold 0; "
        "whether these predictions are of the same dataset, trainer, plans, configuration, folds "
        "is not checked, because the files do not say\n"
    )
    said = capsys.readouterr().out
    assert said.startswith(note)  # before anything is written
    assert "3 cases calibrated" in said
    assert calib_fit.main(
        ["platt", str(plain.gt), str(plain.pred), "-o", str(tmp_path / "other.json")]
    ) == 0  # fmt: skip
    said = "These predictions do not say their dataset, trainer, plans, configuration, folds"
    assert said in capsys.readouterr().out


class TestCrossFitting:
    """Fitted to single folds, for their average."""

    @pytest.fixture
    def model(self, models, tmp_path):
        """Of two folds, with cases of their own."""
        gt = tmp_path / "preprocessed" / DATASET / "gt_segmentations"
        model, other = models(), models(fold=1)
        shutil.move(other / "fold_1", model / "fold_1")
        for path in [*(model / "fold_1" / "validation").iterdir(), *gt.iterdir()]:
            shutil.copy(path, path.with_name(path.name.replace("case", "other")))
        for path in (model / "fold_1" / "validation").glob("case*"):
            path.unlink()
        return model

    def test_it_is_for_the_average(self, model, tmp_path, capsys) -> None:
        single, average = tmp_path / "single.json", tmp_path / "average.json"
        assert calib_fit.main(["platt", str(model), "-o", str(single)]) == 0
        assert "this assumes" not in capsys.readouterr().out
        assert calib_fit.main(["platt", "--folds", str(model), "-o", str(average)]) == 0
        note = (
            "Note: for the average of folds 0, 1, fitted to what each fold predicted for cases "
            "that it was not trained on: this assumes that on new cases the average makes the "
            "same errors with the same confidence as each fold\n"
        )
        assert note in capsys.readouterr().out
        contents = [json.loads(path.read_text()) for path in (single, average)]
        assert [content["fitted_on"]["cross_fitted"] for content in contents] == [False, True]
        assert contents[0]["classes"] == contents[1]["classes"]
        networks = [read_calibrator(path).network for path in (single, average)]
        assert networks[1] == replace(networks[0], averaged=True)
        for what in ("logits", "probabilities"):
            predicted = replace(networks[0], averaged=True, average=what)
            assert read_calibrator(average).check_network(predicted, tmp_path) == []
            with pytest.raises(
                InputError, match=r"; fit a calibrator .* \(meep-calib-fit --folds\)"
            ):
                read_calibrator(single).check_network(predicted, tmp_path)
        assert applied(capsys, single, model, tmp_path / "out")[0] == 0
        code, said = applied(capsys, average, model, tmp_path / "out_of_average")
        assert code == 1
        assert re.search(r"of another one: fold \d, not the average of folds 0, 1; fit a", said)

    def test_of_thresholds_too_and_after_one_of_the_same_kind(
        self, model, tmp_path, capsys
    ) -> None:
        single, average, both = (
            tmp_path / f"{name}.json" for name in ("single", "average", "both")
        )
        assert calib_fit.main(["platt", str(model), "-o", str(single)]) == 0
        assert calib_fit.main(["platt", "--folds", str(model), "-o", str(average)]) == 0
        capsys.readouterr()
        thresholds = ["threshold", "--goal", "dice", "--folds", str(model), "-o", str(both)]
        assert calib_fit.main([*thresholds, "--after", str(single)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "of another one: the average of folds 0, 1, not single folds 0, 1" in error
        assert calib_fit.main([*thresholds, "--after", str(average)]) == 0
        assert "Note: for the average of folds 0, 1, fitted to what" in capsys.readouterr().out
        assert read_calibrator(both).network == read_calibrator(average).network

    def test_without_several_folds_there_is_no_average(
        self, models, make_validation, tmp_path, capsys
    ) -> None:
        plain = make_validation("two classes", name="plain")
        for folders in ([models()], [plain.gt, plain.pred]):
            path = tmp_path / "c.json"
            command = ["platt", "--folds", *map(str, folders), "-o", str(path)]
            assert calib_fit.main(command) == 1
            error = capsys.readouterr().err
            assert error.startswith("Error: --folds: expected validation predictions of several fo")
            assert error.count("\n") == 1
            assert not path.exists()

    def test_only_folds_with_a_case_count(self, model, tmp_path, capsys) -> None:
        case = next((model / "fold_1" / "validation").glob("*.npz")).stem
        path = tmp_path / "c.json"
        command = ["platt", str(model), "--cases", case, "-o", str(path)]
        assert calib_fit.main(command) == 0
        assert read_calibrator(path).network.folds == ("1",)
        assert calib_fit.main([*command, "--folds"]) == 1
        assert "--folds: expected validation predictions of several" in capsys.readouterr().err


def test_predictions_of_two_trainers_are_refused(models, tmp_path, capsys) -> None:
    gt = tmp_path / "preprocessed" / DATASET / "gt_segmentations"
    of_one = models() / "fold_0" / "validation"
    of_other = models("nnUNetTrainerOther", fold=1) / "fold_1" / "validation"
    for path in [*of_other.iterdir(), *gt.iterdir()]:
        shutil.copy(path, path.with_name(path.name.replace("case", "other")))
    for path in of_other.glob("case*"):
        path.unlink()
    folds = [of_one, of_other]
    assert calib_fit.main(["platt", str(gt), *map(str, folds), "-o", str(tmp_path / "c.json")]) == 1
    error = capsys.readouterr().err
    assert f"{folds[1]}: expected predictions of one network, got trainer nnUNetTrainerO" in error
    assert error.count("\n") == 1


def test_a_run_goes_on_only_with_the_same_network(models, tmp_path, capsys) -> None:
    model = models()
    path = fitted(model, tmp_path)
    assert applied(capsys, path, model, tmp_path / "out")[0] == 0
    with zipfile.ZipFile(model / "fold_0" / "checkpoint_final.pth", "w") as archive:
        archive.writestr("data", "trained again")
    code, said = applied(capsys, path, model, tmp_path / "out", "--any-network")
    assert code == 1
    assert "a run with the same calibrator, network and predictions began" in said


class TestCasesThatItWasFittedTo:
    """Numbers on them are optimistic, and every output says so."""

    @pytest.fixture(autouse=True)
    def _fitted(self, make_validation, tmp_path, capsys) -> None:
        self.val = make_validation("two classes", name="val")
        self.test = make_validation("two classes", name="test", seed=1)
        self.out, self.capsys = tmp_path / "calibrated", capsys
        self.path = tmp_path / "c.json"
        assert calib_fit.main(
            ["platt", str(self.val.gt), str(self.val.pred), "-o", str(self.path)]
        ) == 0  # fmt: skip

    def evaluated(self, folder):
        apply(self.path, folder.pred, self.out)
        self.capsys.readouterr()
        assert calib_eval.main([str(folder.gt), str(self.out), "-np", "1", "--no-surface"]) == 0
        (entry,) = json.loads((self.out / "calibration" / "calibration.json").read_text())[
            "calibrators"
        ]
        return entry["used_to_fit"], self.capsys.readouterr().out

    def test_others_are_not_among_them_though_they_are_called_the_same(self) -> None:
        used, printed = self.evaluated(self.test)
        assert used == []
        assert "optimistic" not in printed

    def test_all_of_them(self) -> None:
        used, printed = self.evaluated(self.val)
        assert used == ["case_0", "case_1", "case_2"]
        line = "3 of 3 cases were used to fit the calibrator: these numbers are optimistic"
        assert f"Note: {line} (case_0, case_1, case_2)\n" in printed
        assert "1 LA (optimistic)" in printed

    def test_one_under_another_name(self) -> None:
        """Same scan, same prediction, called otherwise: by what is in the files."""
        for folder, other in ((self.val.gt, self.test.gt), (self.val.pred, self.test.pred)):
            for path in folder.glob("case_1.n*"):
                shutil.copy(path, other / path.name.replace("case_1", "renamed"))
        used, printed = self.evaluated(self.test)
        assert used == ["renamed"]
        assert "1 of 4 cases were used to fit the calibrator" in printed

    def test_by_the_reference_alone(self) -> None:
        """Predicted anew, by another network say."""
        shutil.copy(self.val.gt / "case_1.nii.gz", self.test.gt / "case_2.nii.gz")
        assert self.evaluated(self.test)[0] == ["case_2"]

    def test_empty_references_are_all_alike(self, tmp_path) -> None:
        empty = sitk.GetImageFromArray(np.zeros((6, 9, 10), np.uint8))
        for folder, case in ((self.val, "case_1"), (self.test, "case_2")):
            sitk.WriteImage(empty, folder.gt / f"{case}.nii.gz")
        self.path = tmp_path / "other.json"
        calib_fit.main(["platt", str(self.val.gt), str(self.val.pred), "-o", str(self.path)])
        assert self.evaluated(self.test)[0] == []

    def test_by_its_name_in_the_same_data_set(self, tmp_path) -> None:
        """A reference that was corrected since, and another prediction."""
        for folder in (self.val, self.test):
            plans = json.loads((folder.pred / "plans.json").read_text())
            (folder.pred / "plans.json").write_text(json.dumps({**plans, "dataset_name": DATASET}))
        self.path = tmp_path / "other.json"
        calib_fit.main(["platt", str(self.val.gt), str(self.val.pred), "-o", str(self.path)])
        assert self.evaluated(self.test)[0] == ["case_0", "case_1", "case_2"]

    def test_cases_of_others_in_its_folder_are_refused(self) -> None:
        apply(self.path, self.test.pred, self.out)
        shutil.copy(self.test.pred / "case_1.npz", self.out)
        self.capsys.readouterr()
        assert calib_eval.main([str(self.test.gt), str(self.out), "-np", "1"]) == 1
        line = self.capsys.readouterr().err.splitlines()[-1]
        assert f"{self.out / 'case_1.npz'}: expected a case that was calibrated with" in line

    def test_without_their_calibrator_it_is_not_known(self, tmp_path) -> None:
        apply(self.path, self.val.pred, self.out)
        copy = tmp_path / "copy"
        names = shutil.ignore_patterns("calib_apply_args.json", "calibrator.json")
        shutil.copytree(self.out, copy, ignore=names)
        self.capsys.readouterr()
        assert calib_eval.main([str(self.val.gt), str(copy), "-np", "1", "--no-surface"]) == 0
        assert (
            "Note: 3 cases calibrated, in a folder without its calibrator; it is unknown whether "
            "it was fitted to these cases"
        ) in self.capsys.readouterr().out
        for command in (
            [calib_apply.main, str(self.path), str(copy), "-o", str(tmp_path / "twice")],
            [calib_fit.main, "platt", str(self.val.gt), str(copy), "-o", str(tmp_path / "x.json")],
        ):
            main, *arguments = command
            assert main(arguments) == 1
            line = self.capsys.readouterr().err.splitlines()[-1]
            assert "expected a prediction as nnU-Net wrote it, found a calibrated one" in line

    def test_a_case_that_is_gone_does_not_stay_among_the_calibrated(self) -> None:
        apply(self.path, self.test.pred, self.out)
        for name in ("case_1.npz", "case_1.nii.gz"):
            (self.test.pred / name).unlink()
        with pytest.raises(InputError, match=r"case_1.npz: expected cases of .* not there any"):
            apply(self.path, self.test.pred, self.out)

    @pytest.mark.parametrize("fitted_on", [{}, None, 5, {"cases": []}, {"cases": [{}]}])
    def test_a_calibrator_that_does_not_say_its_cases_is_refused(self, fitted_on) -> None:
        content = json.loads(self.path.read_text())
        self.path.write_text(json.dumps({**content, "fitted_on": fitted_on}))
        with pytest.raises(InputError, match="no cases that it was fitted to"):
            read_calibrator(self.path)

    def test_a_comparison_and_its_page_say_it(self, tmp_path) -> None:
        self.evaluated(self.val)
        models = [f"plain={self.val.pred}", f"platt={self.out}"]
        options = ["--gt", str(self.val.gt), "-o", str(tmp_path / "o")]
        assert calib_compare.main([*models, *options]) == 0
        captured = self.capsys.readouterr()
        line = "platt: 3 of 3 cases were used to fit the calibrator: these numbers are optimistic"
        assert f"Warning: {line}" in captured.err
        assert "platt (optimistic)" in captured.out
        page = (tmp_path / "o" / "report.html").read_text()
        assert page.index(line) < page.index("<table")
        assert "optimistic" in page[page.index("<table") :]
        assert "platt (optimistic)" in (tmp_path / "o" / "comparison.md").read_text()
        assert json.loads((tmp_path / "o" / "comparison.json").read_text())["optimistic"] == [
            "platt"
        ]


def test_a_calibrator_without_its_network_is_refused(models, tmp_path) -> None:
    path = fitted(models(), tmp_path)
    content = json.loads(path.read_text())
    assert read_calibrator(path).network.folds == ("0",)
    for network in (None, {"folds": [1]}):
        path.write_text(json.dumps({**content, "network": network}))
        with pytest.raises(Exception, match=r"expected the parameters .* fit it again"):
            read_calibrator(path)
