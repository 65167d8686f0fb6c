"""Real processes: killed and refused by the system, ended by signals, two at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from crash import assert_whole, read_state, recover, same, write_state
from matplotlib.figure import Figure
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.atomic import is_temporary
from nnunet_meep.cli import calib_apply, calib_compare, calib_eval, calib_fit
from nnunet_meep.evaluation.stored_results import read_evaluation

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unrendered")]


@pytest.fixture
def folder(tmp_path: Path) -> PredictionFolder:
    folder = PredictionFolder(tmp_path / "data", LABELS)
    for i, case in enumerate("ab"):
        folder.add(case, *softmax_case(np.random.default_rng(i), (4, 5, 6)))
    return folder


def arguments(folder: PredictionFolder, out: Path, *others: str) -> list[str]:
    return [str(folder.gt), str(folder.pred), "-o", str(out), "--no-surface", *others]


#: Without pictures, which take most of the time.
UNDRAWN = """\
import sys
from pathlib import Path
from matplotlib.figure import Figure
def savefig(figure, target, **how):
    target.write(b"drawn") if hasattr(target, "write") else Path(target).write_text("drawn")
Figure.savefig = savefig
"""
#: Like this, and without progress bars.
QUIET = f"""\
{UNDRAWN}
from tqdm import tqdm
init = tqdm.__init__
tqdm.__init__ = lambda bar, *args, **how: init(bar, *args, **{{**how, "disable": True}})
"""
EVALUATE = f"{QUIET}from nnunet_meep.cli.calib_eval import main\n"


def environment(tmp_path: Path) -> dict[str, str]:
    """With a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(tmp_path / "temporary")}


# The system


@cache
def strace() -> str:
    """Why processes cannot be traced here; empty if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    traced = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return traced.stderr if traced.returncode else ""


@pytest.fixture
def traced(tmp_path: Path):
    """``traced(arguments, calls, what)``: exit code and stderr of a Python process whose calls are
    tampered with, and the calls it made."""
    if reason := strace():
        pytest.skip(reason)

    def run(arguments: list[str], calls: str, what: str = "") -> tuple[int, str, list[str]]:
        log = tmp_path / "calls.txt"
        command = ["strace", "-f", "-qq", "-y", "-o", str(log)]
        command += ["-e", f"trace={calls}", "-e", "signal=none"]
        command += ["-e", f"inject={calls}:{what}"] if what else []
        ended = subprocess.run(
            [*command, sys.executable, "-c", *arguments],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stderr, log.read_text().splitlines()

    return run


@pytest.mark.parametrize("command", ["evaluate", "apply"])
def test_tampered_with_by_the_system(command, folder, tmp_path, traced, monkeypatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: path.write_text("drawn"))
    out, calibrator = tmp_path / "out", str(tmp_path / "c.json")
    out.mkdir()
    if command == "evaluate":
        given, module = arguments(folder, out, "-np", "1"), calib_eval
        assert module.main([*given, "--bins", "10"]) == 0
    else:
        fitted = ["platt", str(folder.gt), str(folder.pred), "-o", calibrator]
        assert calib_fit.main(fitted) == 0
        given, module = [calibrator, str(folder.pred), "-o", str(out)], calib_apply
    script = [f"{QUIET}from {module.__name__} import main\nsys.exit(main(sys.argv[1:]))", *given]
    before = read_state(out)
    code, said, calls = traced(script, "write")
    assert (code, said) == (0, "")
    after = recover(out)
    # The system counts those of each thread; only the main one writes results.
    calls = [call for call in calls if "resumed" not in call]
    (main,) = {call.split()[0] for call in calls if "/.tmp-meep-" in call}
    mine = [call for call in calls if call.split()[0] == main]
    ours = [i for i, call in enumerate(mine, 1) if "/.tmp-meep-" in call]
    for tampered, what in [
        ("write", f"signal=KILL:when={ours[0]}"),
        ("write", f"error=ENOSPC:when={ours[-1]}"),
        ("/^rename", "signal=KILL:when=2"),
        ("fsync", "error=EIO:when=4"),
    ]:
        write_state(out, before)
        code, said, _ = traced(script, tampered, what)
        if "KILL" in what:
            assert code == -signal.SIGKILL
        else:
            (line,) = said.splitlines()
            assert code == 1
            assert re.match(rf"Error: {out}.*: (No space|Input/output)", line)
            assert not any(is_temporary(path) for path in out.rglob("*"))
        left = {name: c for name, c in read_state(out).items() if ".tmp-meep-" not in name}
        assert_whole(left, before, after)
        assert module.main(given) == 0
        assert same(read_state(out), after)


# Signals

#: meep-calib-eval that waits for its input to end before it reads the second case.
WAITING = f"""{EVALUATE}
from nnunet_meep.evaluation.pool import Job
read = Job._read
def waiting(job, case):
    if case.name == "b":
        print("middle", flush=True)
        sys.stdin.read()
    return read(job, case)
Job._read = waiting
sys.exit(main(sys.argv[1:]))
"""


def _not_in_background() -> None:
    """The tests may run under nohup, or in the background of a script, where Ctrl-C is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def in_the_middle(folder: PredictionFolder, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An evaluation with worker processes, which has read one of two cases."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *arguments(folder, tmp_path / "out", "-np", "2")],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_not_in_background,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "middle\n"
        yield process


@pytest.mark.parametrize(
    ("number", "to_group", "code", "said"),
    [
        (signal.SIGINT, True, 130, "Interrupted\n"),
        (signal.SIGTERM, False, 143, "Ended by SIGTERM\n"),
        (signal.SIGTERM, True, 143, "Ended by SIGTERM\n"),
        (signal.SIGHUP, True, 129, "Ended by SIGHUP\n"),
        (signal.SIGKILL, False, -9, ""),
    ],
)
def test_ended_by_a_signal_with_its_workers(folder, tmp_path, number, to_group, code, said) -> None:
    temporary = tmp_path / "temporary"
    with in_the_middle(folder, tmp_path) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        (os.killpg if to_group else os.kill)(process.pid, number)
        _, errors = process.communicate()
    assert process.returncode == code
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    if number != signal.SIGKILL:
        assert errors == said
        assert list(temporary.iterdir()) == []
        assert not any(is_temporary(path) for path in tmp_path.rglob("*"))
    else:
        again = f"{EVALUATE}sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", again, *arguments(folder, tmp_path / "out", "-np", "2")]
        subprocess.run(command, check=True, env=environment(tmp_path), stdout=subprocess.DEVNULL)
        assert list(temporary.iterdir()) == []
        assert not any(is_temporary(path) for path in tmp_path.rglob("*"))
        assert len(read_evaluation(tmp_path / "out").cases) == 2


# Odd surroundings


@pytest.mark.parametrize(
    "others",
    [
        dict.fromkeys(
            ["HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TMPDIR", "XDG_CACHE_HOME"], "{}/x"
        ),
        {"LC_ALL": "C", "PYTHONOPTIMIZE": "2", "COLUMNS": "40"},
        {"LC_ALL": "tr_TR.UTF-8", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["nothing can be written but the output", "optimized, narrow, plain", "Turkish"],
)
def test_odd_surroundings_change_nothing(folder, tmp_path, others) -> None:
    assert calib_eval.main(arguments(folder, tmp_path / "out", "-np", "1")) == 0
    no_folder = tmp_path / "a file"
    no_folder.touch()
    ended = subprocess.run(
        [
            *(sys.executable, "-c", f"{EVALUATE}sys.exit(main(sys.argv[1:]))"),
            *arguments(folder, tmp_path / "odd", "-np", "2"),
        ],
        env={**os.environ, **{name: text.format(no_folder) for name, text in others.items()}},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in (tmp_path / "odd").iterdir()} == names
    csv = "calibration.csv"
    assert (tmp_path / "odd" / csv).read_bytes() == (tmp_path / "out" / csv).read_bytes()


# Two at once


@pytest.mark.parametrize("command", ["apply", "compare"])
def test_two_of_the_same_give_the_result_of_one(command, folder, tmp_path) -> None:
    data = [str(folder.gt), str(folder.pred)]
    calibrator, result = tmp_path / "c.json", tmp_path / "result"
    if command == "apply":
        assert calib_fit.main(["platt", *data, "-o", str(calibrator)]) == 0
    if command == "compare":
        assert calib_eval.main(arguments(folder, result, "-np", "1")) == 0

    def started(out: Path) -> subprocess.Popen[str]:
        given = {
            "apply": [str(calibrator), str(folder.pred), "-o", str(out)],
            "compare": [f"A={result}", f"B={result}", "--as-stored", "-o", str(out)],
        }
        script = f"{UNDRAWN}from nnunet_meep.cli.calib_{command} import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", script, *given[command]],
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    alone, both = tmp_path / "alone", tmp_path / "both"
    for out in (alone, both):
        out.mkdir()
    for out, running in ((alone, [started(alone)]), (both, [started(both), started(both)])):
        errors = [process.communicate()[1] for process in running]
        assert [process.returncode for process in running] == [0] * len(running), errors
        assert not any(is_temporary(path) for path in out.rglob("*"))
    assert same(read_state(both), read_state(alone))


def test_two_evaluations_into_one_folder_while_it_is_compared(folder, tmp_path) -> None:
    out = tmp_path / "out"
    assert calib_eval.main(arguments(folder, out, "-np", "1")) == 0
    several = "[main([*sys.argv[1:], '--bins', str(n)]) for n in range(9, 15)]"
    script = f"{EVALUATE}sys.exit(max({several}))"
    command = [sys.executable, "-c", script, *arguments(folder, out, "-np", "1")]
    running = [
        subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    n_read = 0
    while None in [process.poll() for process in running]:
        assert len(read_evaluation(out).cases) == 2
        n_read += 1
        if n_read % 100 == 1:
            compared = [f"A={out}", f"B={out}", "--as-stored", "-o", str(tmp_path / "compared")]
            assert calib_compare.main(compared) == 0
    assert [process.wait() for process in running] == [0, 0]
    assert not any(is_temporary(path) for path in tmp_path.rglob("*"))
    assert read_evaluation(out).settings["bins"] == 14
