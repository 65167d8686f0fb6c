"""How an interrupted training or prediction of nnU-Net goes on."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
import torch

from nnunet_meep.benchmark.running.resume import resume_prediction, resume_training

COMMAND = ["nnUNetv2_predict", "-i", "images"]
GOES_ON = [*COMMAND, "--continue_prediction"]


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ([], []),
        (["progress.png", "debug.json"], []),
        (["checkpoint_latest.pth", "checkpoint_best.pth"], ["--c"]),
        (["checkpoint_best.pth"], ["--c"]),
        (["checkpoint_final.pth", "checkpoint_best.pth"], ["--val"]),
    ],
)
def test_a_training_goes_on_from_its_checkpoint(tmp_path, files, flags) -> None:
    for name in files:
        np.savez(tmp_path / name, weights=np.eye(50))  # a zip file, as checkpoints are
        (tmp_path / f"{name}.npz").rename(tmp_path / name)
    command = ["nnUNetv2_train", "4", "3d_fullres", "0"]
    assert resume_training(tmp_path, command) == [*command, *flags]
    assert resume_training(tmp_path / "missing", command) == command


@pytest.mark.parametrize(
    ("whole", "torn", "flags"),
    [
        ("latest best", "final", ["--c"]),
        ("best", "final latest", ["--c"]),
        ("final", "latest best", ["--val"]),
        ("", "latest best", []),
    ],
)
@pytest.mark.parametrize("size", [0, 9000])
def test_checkpoints_that_were_not_written_to_the_end_are_left_out(
    tmp_path, whole, torn, flags, size
) -> None:
    for name in [*whole.split(), *torn.split()]:
        path = tmp_path / f"checkpoint_{name}.pth"
        torch.save({"weights": torch.eye(50)}, path)
        if name in torn.split():
            os.truncate(path, size)
    assert resume_training(tmp_path, COMMAND) == [*COMMAND, *flags]
    used = next((n for n in ("final", "latest", "best") if n in whole.split()), None)
    for name in ("final", "latest", "best"):  # nnU-Net takes the first one that is there
        if name == used:
            break
        assert not (tmp_path / f"checkpoint_{name}.pth").exists()


def predicted(folder, ending, cases="abc") -> None:
    """Cases as nnU-Net writes them, one after the other, the last one an hour later."""
    for i, case in enumerate(cases):
        np.savez_compressed(folder / f"{case}.npz", probabilities=np.eye(50, dtype=np.float32))
        segmentation = os.urandom(3000)
        path = folder / f"{case}{ending}"
        path.write_bytes(gzip.compress(segmentation) if ending.endswith(".gz") else segmentation)
        os.utime(path, (3600 * i, 3600 * i))


def cases(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_predictions_yet(tmp_path) -> None:
    assert resume_prediction(tmp_path / "missing", COMMAND, ".nii.gz") == COMMAND
    assert resume_prediction(tmp_path, COMMAND, ".nii.gz") == GOES_ON


@pytest.mark.parametrize("torn", ["a.npz", "a.nii.gz"])
@pytest.mark.parametrize("how", ["cut", "empty", "changed", "missing"])
def test_a_case_that_was_not_written_to_the_end_is_predicted_again(tmp_path, torn, how) -> None:
    predicted(tmp_path, ".nii.gz")
    # Not a part of case a, though it begins with its name.
    predicted(tmp_path, ".nii.gz", ["a.b"])
    path = tmp_path / torn
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        other = bytes([content[middle] ^ 255])
        changed = content[:middle] + other + content[middle + 1 :]
        path.write_bytes({"cut": content[:-9], "empty": b"", "changed": changed}[how])
    assert resume_prediction(tmp_path, COMMAND, ".nii.gz") == GOES_ON
    rest = ["a.b.nii.gz", "a.b.npz", "b.nii.gz", "b.npz", "c.nii.gz", "c.npz"]
    # nnU-Net takes no case without probabilities for predicted.
    assert cases(tmp_path) == (
        ["a.b.nii.gz", "a.b.npz", "a.nii.gz", *rest[2:]]
        if (torn, how) == ("a.npz", "missing")
        else rest
    )


def test_what_is_whole_stays(tmp_path) -> None:
    predicted(tmp_path, ".nii.gz")
    (tmp_path / "dataset.json").write_text("{}")
    before = cases(tmp_path)
    assert resume_prediction(tmp_path, COMMAND, ".nii.gz") == GOES_ON
    assert cases(tmp_path) == before


@pytest.mark.parametrize("ending", [".nii", ".mha", ".tif"])
def test_without_a_checksum_the_newest_segmentation_may_be_torn(tmp_path, ending) -> None:
    predicted(tmp_path, ending)
    (tmp_path / "a.npz").write_bytes(b"torn")
    assert resume_prediction(tmp_path, COMMAND, ending) == GOES_ON
    assert cases(tmp_path) == sorted([f"b{ending}", "b.npz"])
