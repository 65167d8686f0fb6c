"""A trainer on the CPU from a plans file and a dataset.json made here. No data is needed."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import small_project
from small_project import configuration

#: dataset.json's labels for the four ways in which nnU-Net trains. Three output channels each.
LABELS = {
    "labels": {"background": 0, "left": 1, "right": 2},
    "labels+ignore": {"background": 0, "left": 1, "right": 2, "ignore": 3},
    "regions": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "middle": [3]},
    "regions+ignore": {
        "background": 0,
        "whole": [1, 2, 3],
        "core": [2, 3],
        "middle": [3],
        "ignore": 4,
    },
}
N_STAGES = 5  # four outputs under deep supervision


def make_dataset_json(kind: str) -> dict:
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS[kind],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    return {**dataset, "regions_class_order": [1, 2, 3]} if "regions" in kind else dataset


def make_plans() -> dict:
    return small_project.plans(
        "Dataset999_Tiny",
        "SimpleITKIO",
        {
            "2d": configuration(2, [16, 16], n_stages=N_STAGES, batch_dice=True),
            "3d_fullres": configuration(3, [16, 16, 16], n_stages=N_STAGES),
        },
    )


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``build(trainer_class, kind)``: a trainer as ``nnUNetv2_train`` constructs it."""
    import torch

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))

    def construct(trainer_class, kind: str = "labels", configuration: str = "3d_fullres"):
        plans = copy.deepcopy(make_plans())
        plans["continue_training"] = False
        return trainer_class(
            plans=plans,
            configuration=configuration,
            fold=0,
            dataset_json=make_dataset_json(kind),
            device=torch.device("cpu"),
        )

    return construct


@pytest.fixture(scope="session")
def prepared_balls(tmp_path_factory):
    """``prepared_balls(kind)``: a folder with the balls in nnU-Net's formats, made once."""

    @functools.cache
    def prepare(kind):
        folder = tmp_path_factory.mktemp(kind.replace("+", "_"))
        dataset = "Dataset901_Balls"
        cases = small_project.write_balls(folder / "raw" / dataset, small_project.LABELS[kind])
        plans = small_project.plans(dataset, "SimpleITKIO", small_project.CONFIGURATIONS)
        small_project.preprocess(folder, dataset, plans, cases)
        return folder, dataset, plans

    return prepare


@pytest.fixture
def balls(prepared_balls, tmp_path, monkeypatch, no_picture):
    """``balls(kind)``: a project of the balls with results of its own."""

    def open_project(kind="labels"):
        prepared, dataset, plans = prepared_balls(kind)
        folder = tmp_path / kind
        folder.mkdir()
        for name in ("raw", "preprocessed"):
            (folder / name).symlink_to(prepared / name)
        return small_project.Project(folder, dataset, copy.deepcopy(plans), monkeypatch)

    return open_project


@pytest.fixture
def no_picture(monkeypatch):
    """No progress.png, which takes longer than a small training; returns what would draw it."""
    from nnunet_meep.trainers.progress import CalibrationLogger

    draw = CalibrationLogger.plot_progress_png
    monkeypatch.setattr(CalibrationLogger, "plot_progress_png", lambda *_: None)
    return draw
