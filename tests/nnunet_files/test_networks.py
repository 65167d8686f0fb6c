"""Which network made predictions, as far as their folder tells."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace

import pytest

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.networks import (
    PLAIN_RECORD,
    RECORD,
    Network,
    average_of,
    network_of,
    refuse_several_networks,
)

NETWORK = Network(
    dataset="Dataset501_LA",
    trainer="nnUNetTrainerMEEP_KL",
    plans="nnUNetPlans",
    configuration="3d_fullres",
    folds=("0",),
    checkpoints={"0": ["crc32:1:2"]},
)


@pytest.fixture
def model(tmp_path):
    """A model folder of three folds with checkpoints, as nnU-Net leaves it."""
    name = "nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres"
    model = tmp_path / "results" / "Dataset501_LA" / name
    for fold in ("0", "1", "all"):
        (model / f"fold_{fold}" / "validation").mkdir(parents=True)
        with zipfile.ZipFile(model / f"fold_{fold}" / "checkpoint_final.pth", "w") as archive:
            archive.writestr("archive/data.pkl", fold)
    return model


def validation(model, fold):
    return model / f"fold_{fold}" / "validation"


def test_a_fold_tells_all(model) -> None:
    network = network_of([validation(model, 0)])
    assert replace(network, checkpoints=NETWORK.checkpoints) == NETWORK
    assert list(network.checkpoints) == ["0"]
    assert network.unknown == ()
    assert network_of([validation(model, "all")]).folds == ("all",)


def test_of_several_folds_each_case_is_of_one(model) -> None:
    network = network_of([validation(model, fold) for fold in (1, 0)])
    assert network.folds == ("0", "1")
    assert not network.averaged
    assert network.folds_in_words == "single folds 0, 1"
    assert set(network.checkpoints) == {"0", "1"}


def test_the_plans_name_the_data_set_of_a_model_that_moved(model, tmp_path) -> None:
    (model / "plans.json").write_text('{"dataset_name": "Dataset007_Other"}')
    shutil.move(model.parent.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "Dataset501_LA" / model.name
    assert network_of([validation(moved, 0)]).dataset == "Dataset007_Other"


def test_predictions_of_nnunet_tell_data_set_and_plans(tmp_path) -> None:
    plans = {"dataset_name": "Dataset501_LA", "plans_name": "nnUNetPlans"}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    network = network_of([tmp_path])
    assert network == Network(dataset="Dataset501_LA", plans="nnUNetPlans")
    assert network.unknown == ("trainer", "configuration", "folds")


def test_what_was_averaged_is_compared_where_it_is_known() -> None:
    logits = replace(NETWORK, folds=("0", "1"), averaged=True, average="logits")
    probabilities = replace(logits, average="probabilities")
    assert probabilities.differences(logits) == ["the average of probabilities, not of logits"]
    assert probabilities.differences(replace(logits, average=None)) == []
    assert probabilities.differences(NETWORK) == ["the average of folds 0, 1, not fold 0"]
    assert Network.from_dict(probabilities.to_dict()) == replace(
        probabilities, checkpoints={"0": ["crc32:1:2"]}
    )


def test_only_several_folds_of_one_model_have_an_average(model) -> None:
    several = network_of([validation(model, fold) for fold in (0, 1)])
    average = average_of(several)
    assert (average.folds, average.averaged, average.average) == (("0", "1"), True, None)
    assert average.differences(replace(average, average="logits")) == []
    for other in (
        network_of([validation(model, 0)]),
        average,
        replace(several, trainer=None),
        Network(),
    ):
        with pytest.raises(InputError, match=r"^--folds: expected .* of one model, got those of "):
            average_of(other)


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"dataset_name": 3}', "[" * 100_000])
def test_other_plans_tell_nothing(tmp_path, text) -> None:
    (tmp_path / "plans.json").write_text(text)
    assert network_of([tmp_path]) == Network()


@pytest.mark.parametrize("record", [RECORD, PLAIN_RECORD])
def test_what_was_written_down(tmp_path, record) -> None:
    averaged = replace(NETWORK, folds=("0", "1"), averaged=True)
    (tmp_path / record).write_text(json.dumps({"network": averaged.to_dict()}))
    assert network_of([tmp_path]) == averaged


@pytest.mark.parametrize("network", [None, 3, {"dataset": 1}, {"folds": [0]}, {"checkpoints": [1]}])
def test_what_was_not_written_by_us_is_one_line(tmp_path, network) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"network": network}))
    with pytest.raises(InputError, match=rf"^{tmp_path / RECORD}: expected what meep-calib-apply"):
        network_of([tmp_path])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"trainer": "nnUNetTrainer"}, "trainer nnUNetTrainer, not nnUNetTrainerMEEP_KL"),
        ({"plans": "nnUNetResEncM"}, "plans nnUNetResEncM, not nnUNetPlans"),
        ({"configuration": "2d"}, "configuration 2d, not 3d_fullres"),
        ({"folds": ("1",), "checkpoints": {"1": ["x"]}}, "fold 1, not fold 0"),
        ({"folds": ("0", "1")}, "single folds 0, 1, not fold 0"),
        ({"folds": ("0", "1"), "averaged": True}, "the average of folds 0, 1, not fold 0"),
        ({"checkpoints": {"0": ["crc32:3:4"]}}, "another checkpoint of fold 0"),
    ],
)
def test_what_differs_is_said(other, words) -> None:
    assert replace(NETWORK, **other).differences(NETWORK) == [words]


def test_a_single_fold_is_one_of_several_single_folds() -> None:
    several = replace(NETWORK, folds=("0", "1", "2"))
    assert NETWORK.differences(several) == []
    assert several.differences(NETWORK) == ["single folds 0, 1, 2, not fold 0"]
    averaged = replace(several, averaged=True)
    assert averaged.differences(several) == [
        "the average of folds 0, 1, 2, not single folds 0, 1, 2"
    ]
    assert averaged.differences(averaged) == []
    assert NETWORK.differences(averaged) == ["fold 0, not the average of folds 0, 1, 2"]


def test_a_validation_may_be_that_of_either_checkpoint(model) -> None:
    """nnUNetv2_train ... --val --val_best writes into the same folder."""
    with zipfile.ZipFile(model / "fold_0" / "checkpoint_best.pth", "w") as archive:
        archive.writestr("archive/data.pkl", "best")
    network = network_of([validation(model, 0)])
    final, best = network.checkpoints["0"]
    for identity in (final, best):
        assert replace(network, checkpoints={"0": [identity]}).differences(network) == []
    assert replace(network, checkpoints={"0": ["third"]}).differences(network) != []
    # A validation is taken to be that of the final one.
    assert network.calibrator_notes(replace(network, checkpoints={"0": [final]})) == []
    assert network.calibrator_notes(network) == []
    (line,) = network.calibrator_notes(replace(network, checkpoints={"0": [best]}))
    assert line.endswith("; these predictions are of checkpoint_best.pth")


@pytest.mark.parametrize("average", ["logits", None])
def test_averages_and_single_folds_are_not_fitted_to_together(model, tmp_path, average) -> None:
    averaged = Network("Dataset501_LA", folds=("0", "1"), averaged=bool(average), average=average)
    (tmp_path / "other").mkdir()
    record = json.dumps({"network": averaged.to_dict()})
    (tmp_path / "other" / "meep_predict_args.json").write_text(record)
    folders = [validation(model, 0), tmp_path / "other"]
    if average is None:  # single folds, too
        refuse_several_networks(folders)
        return
    with pytest.raises(InputError, match=r"other: expected predictions made in one way"):
        refuse_several_networks(folders)


def test_what_is_not_known_does_not_differ() -> None:
    assert Network().differences(NETWORK) == NETWORK.differences(Network()) == []
    assert Network(dataset="Dataset501_LA").unknown_of_either(NETWORK) == (
        *("trainer", "plans", "configuration", "folds"),
    )
    assert not Network().other_dataset(NETWORK)
    assert Network(dataset="Dataset502_WMH").other_dataset(NETWORK)
