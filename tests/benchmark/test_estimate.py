"""How long trainings will take: with a command in place of nnU-Net's, which takes no time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import pytest
from made_up import DATASET, PLAN, prepared

from nnunet_meep.benchmark.estimate import in_words, tell_time
from nnunet_meep.benchmark.run import Options
from nnunet_meep.errors import InputError

#: Notes its process and arguments, says that its epochs took 9 and 5 s, and then waits or fails.
TRAIN = """\
import os, pathlib, signal, sys
def main():
    pathlib.Path(os.environ["NOTE"]).write_text(" ".join([str(os.getpid()), *sys.argv[1:]]))
    print("Epoch 0\\nEpoch time: 9.0 s\\nEpoch 1", flush=True)
    if "-device mps" in " ".join(sys.argv):
        raise SystemExit("ValueError: on purpose")
    print("Epoch time: 5.0 s", flush=True)
    while True:
        signal.pause()
"""


@pytest.fixture
def note(tmp_path_factory, monkeypatch) -> Path:
    """What the command notes; it is found before nnU-Net's own."""
    place = tmp_path_factory.mktemp("installed")
    (place / "timed.py").write_text(TRAIN)
    (place / "timed-1.dist-info").mkdir()
    (place / "timed-1.dist-info" / "METADATA").write_text("Name: timed\nVersion: 1\n")
    entry = "[console_scripts]\nnnUNetv2_train = timed:main\n"
    (place / "timed-1.dist-info" / "entry_points.txt").write_text(entry)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *([known] if known else [])]))
    monkeypatch.setenv("NOTE", str(place / "note"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    return place / "note"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_iterations_are_timed_and_nothing_is_left(tmp_path, note, capsys, device) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    prepared(tmp_path / "work")
    options = Options(tmp_path / "plan.toml", tmp_path / "work", device=device)
    if device == "cpu":
        tell_time(options)
        printed = capsys.readouterr().out
        # Two trainers with two seeds each, 2 epochs of 250 iterations: 2000 of 0.2 s.
        assert "hip: 0.2 s per iteration, 7 minutes for 4 trainings" in printed
        assert "About 7 minutes on this machine (cpu)" in printed
        assert f"$ nnUNetv2_train {DATASET} 3d_fullres 0 " in printed
    else:
        with pytest.raises(InputError, match=r"nnUNetv2_train failed: ValueError: on purpose"):
            tell_time(options)
    process, *arguments = note.read_text().split()
    assert arguments[:3] == [DATASET, "3d_fullres", "0"]
    psutil.wait_procs([psutil.Process(int(process))] if psutil.pid_exists(int(process)) else [])
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "1 minute"), (89 * 60, "89 minutes"), (7300, "2 hours"), (9e6, "104 days")],
)
def test_durations_in_words(seconds, words) -> None:
    assert in_words(seconds) == words
