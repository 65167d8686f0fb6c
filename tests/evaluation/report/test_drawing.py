"""Pictures drawn by another process."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
from functools import partial
from multiprocessing.context import SpawnProcess

import numpy as np
import pytest
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report.drawing import Drawing, Picture
from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure


@pytest.fixture
def drawing(monkeypatch):
    """A process that draws, as in a command that has not loaded matplotlib."""
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "matplotlib.figure")
        started = Drawing.started()
        drawing = started.__enter__()
    yield drawing
    started.__exit__(None, None, None)
    assert not multiprocessing.active_children()


@pytest.fixture
def evaluation(tmp_path):
    folder = PredictionFolder(tmp_path / "data", LABELS)
    for i, case in enumerate("abc"):
        folder.add(case, *softmax_case(np.random.default_rng(i), (4, 5, 6)))
    return evaluate(folder.gt, folder.pred, surface=False, lesions=0)


def picture(folder):
    bins = {"count": [2, 1], "mean_p": [0.2, 0.9], "mean_y": [0.1, 1.0], "edges": [0, 0.5, 1]}
    panels = {"lesion": [Layer("all cases", bins)]}
    draw = partial(reliability_figure, panels, "two bins")
    return Picture(draw, folder / "reliability.png", folder / "reliability.svg")


def files(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.*") if p.suffix != ".json"}


def test_a_process_with_matplotlib_needs_no_other() -> None:
    with Drawing.started() as drawing:
        assert drawing is None


def test_where_no_process_can_be_started_this_one_draws(monkeypatch) -> None:
    def start(process):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    monkeypatch.setattr(SpawnProcess, "start", start)
    with Drawing.started() as drawing:
        assert drawing is None


def test_pictures_are_the_same_to_the_byte(drawing, evaluation, tmp_path) -> None:
    write_evaluation_report(evaluation, tmp_path / "there", drawing)
    write_evaluation_report(evaluation, tmp_path / "here")
    there = files(tmp_path / "there")
    assert there == files(tmp_path / "here")
    assert sum(name.endswith(".svg") for name in there) == 3


def test_an_error_there_is_one_here_and_the_next_pictures_are_drawn(drawing, tmp_path) -> None:
    drawing.begin([picture(tmp_path / "none")])
    with pytest.raises(FileNotFoundError) as error:
        drawing.is_done()
    assert error.value.filename == str(tmp_path / "none" / "reliability.png")
    drawing.begin([picture(tmp_path)])
    assert drawing.is_done()
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("killed", ["before", "after"])
def test_if_the_process_is_killed_this_one_draws(drawing, evaluation, tmp_path, killed) -> None:
    (process,) = multiprocessing.active_children()
    if killed == "before":
        process.kill()
        process.join()
    else:
        begin = drawing.begin
        drawing.begin = lambda pictures: (begin(pictures), process.kill())
    write_evaluation_report(evaluation, tmp_path, drawing)
    assert {"reliability.png", "reliability.svg"} < set(files(tmp_path))


def test_the_command_draws_in_another_process(tmp_path) -> None:
    """It does not load matplotlib itself."""
    folder = PredictionFolder(tmp_path / "data", LABELS)
    folder.add("a", *softmax_case(np.random.default_rng(0), (4, 5, 6)))
    code = (
        "import sys\n"
        "from nnunet_meep.cli.calib_eval import main\n"
        "if __name__ == '__main__':\n"
        "    code = main(sys.argv[1:])\n"
        "    sys.exit(9 if 'matplotlib.figure' in sys.modules else code)\n"
    )
    (tmp_path / "command.py").write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "command.py"), str(folder.gt), str(folder.pred)]
    ended = subprocess.run([*command, "-o", str(out), "-np", "2"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (out / "reliability.png").read_bytes()[:4] == b"\x89PNG"
