"""How commands end, and what they write where a terminal, a file or nothing may be."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_meep.cli._run import run, say
from nnunet_meep.errors import InputError, printable

#: A class or file may be called so.
EVIL = "a\x1b[2Jb\nc\rd\udce9e\u202ef"
#: And so it is shown, in one line.
SHOWN = r"a\x1b[2Jb\nc\rd\udce9e\u202ef"


@pytest.fixture
def not_in_background() -> Iterator[None]:
    """The tests may run under nohup, or in the background of a script, where Ctrl-C is ignored."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_printable_is_one_line_and_leaves_letters_alone() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("ventrículo 左心房 $x$ <b> 100 %") == "ventrículo 左心房 $x$ <b> 100 %"


def test_an_error_is_one_line_whatever_a_file_is_called(capsys) -> None:
    def fail() -> None:
        raise InputError(f"{EVIL}: expected a file")

    assert run(fail) == 1
    say(f"Warning: {EVIL}")
    assert capsys.readouterr().err == f"Error: {SHOWN}: expected a file\nWarning: {SHOWN}\n"


def test_several_problems_are_a_line_each(capsys) -> None:
    def fail() -> None:
        raise InputError(f"{EVIL}: one", "two")

    assert run(fail) == 1
    assert capsys.readouterr().err == f"Error: {SHOWN}: one\ntwo\n"
    error = pickle.loads(pickle.dumps(InputError(EVIL, "two")))  # as from another process
    assert str(error) == f"{SHOWN}\ntwo"


def test_names_in_the_output_send_nothing_to_the_terminal(capsys) -> None:
    assert run(lambda: print("a\x1b[2J\udce9\tb\nc")) == 0
    assert capsys.readouterr().out == "a\\x1b[2J\\udce9\tb\nc\n"


SCRIPT = """
import sys
from nnunet_meep.cli._run import run
from nnunet_meep.errors import InputError

def action():
    print("x µ\u4e2d" * 50_000)
    with open(sys.argv[1], "w") as file:  # must not be where stdout was
        print("table", flush=True)
        print("bar", file=sys.stderr)
        file.write("whole")
    if sys.argv[2:]:
        raise InputError("bad")

sys.exit(run(action))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a shell of POSIX")
@pytest.mark.parametrize(
    ("redirection", "fails", "code"),
    [(">&-", False, 0), ("2>&-", False, 0), (">&- 2>&- <&-", True, 1), ("| true", False, 141)],
)
def test_streams_that_are_closed(redirection, fails, code, tmp_path) -> None:
    python = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), *["fail"] * fails]
    shell = f'set -o pipefail; "$@" {redirection}'
    result = subprocess.run(
        ["bash", "-c", shell, "-", *python], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if code != 141:
        assert (tmp_path / "out").read_text() == "whole"


def test_letters_that_the_terminal_does_not_have(tmp_path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out")],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, b"bar\n")
    assert result.stdout.startswith(b"x \xb5\\u4e2dx")


def test_a_backend_that_does_not_exist_keeps_no_picture_from_being_drawn() -> None:
    script = (
        "import sys; from nnunet_meep.cli._run import run\n"
        "sys.exit(run(lambda: __import__('matplotlib.figure')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MPLBACKEND": "nonsense"},
        capture_output=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_help_where_the_terminal_does_not_have_its_letters() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from nnunet_meep.cli.calib_eval import main; main(['--help'])"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"B\\u0142asiok" in result.stdout


@pytest.mark.parametrize("arguments", [["nnunet_meep.cli.trainers", "--help"], ["nnunet_meep"]])
def test_help_into_a_pipe_that_nobody_reads(arguments) -> None:
    read, write = os.pipe()
    os.close(read)
    start = "import sys, runpy; runpy.run_module('nnunet_meep', run_name='__main__')"
    if arguments[1:]:
        start = f"import sys; from {arguments[0]} import main; sys.exit(main({arguments[1:]}))"
    try:
        result = subprocess.run(
            [sys.executable, "-c", start], stdout=write, stderr=subprocess.PIPE, timeout=120
        )
    finally:
        os.close(write)
    assert result.stderr == b""
    assert result.returncode in (0, 141, -13)  # argparse itself may swallow it


@pytest.mark.usefixtures("not_in_background")
def test_signals_end_like_ctrl_c_and_the_same_one_again_does_not_stop_the_cleaning_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    def action() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append(number)

    for number, code, said in (
        (signal.SIGTERM, 143, "Ended by SIGTERM\n"),
        (signal.SIGHUP, 129, "Ended by SIGHUP\n"),
    ):
        assert run(action) == code
        assert capsys.readouterr().err == said
        assert cleaned.pop() == number
        assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("not_in_background")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "Ended by SIGTERM\n"), (signal.SIGINT, 130, "Interrupted\n")],
)
class TestASignalIsNotLost:
    def test_that_arrives_in_a_destructor(self, number, code, said, capsys) -> None:
        """Python drops what is raised there, and would go on."""

        class Destroyed:
            def __del__(self) -> None:
                signal.raise_signal(number)

        def action() -> None:
            Destroyed()
            threading.Event().wait(60)
            raise AssertionError("it went on")

        hook = sys.unraisablehook
        assert run(action) == code
        assert capsys.readouterr().err == said
        assert sys.unraisablehook is hook

    def test_during_which_a_file_cannot_be_closed(self, number, code, said, capsys) -> None:
        def action() -> None:
            try:
                signal.raise_signal(number)
            finally:
                raise ValueError("an open writing handle")

        assert run(action) == code
        assert capsys.readouterr().err == said


def test_what_else_is_wrong_in_a_destructor_is_said_as_usual(monkeypatch) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: dropped.append(what.exc_value))

    class Destroyed:
        def __del__(self) -> None:
            raise ValueError("broken")

    assert run(lambda: Destroyed() and None) == 0
    assert [str(error) for error in dropped] == ["broken"]


def test_no_command_loads_anything_that_takes_long_before_it_runs() -> None:
    """So that --help is there at once, and Ctrl-C at the start gives no traceback."""
    script = """
import pkgutil, sys
import nnunet_meep.cli
for module in pkgutil.iter_modules(nnunet_meep.cli.__path__, "nnunet_meep.cli."):
    __import__(module.name)
print([name for name in ("numpy", "torch", "SimpleITK", "matplotlib") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


FORK = """
import os, signal, sys
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # at its start
from nnunet_meep.cli._run import run

def action():
    child = os.fork()
    if child == 0:
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    signal.raise_signal(signal.SIGTERM)

sys.exit(run(action))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_end_by_the_signal_whenever_it_comes() -> None:
    """Else a library that ends its pool could wait for it forever."""
    result = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (143, "Ended by SIGTERM\n")


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(lambda: signal.raise_signal(signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_runs_in_any_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("a.npz: expected this, got that"), "a.npz: expected this, got that"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "b"), "b: No space left on device"),
        # Copied: the second one is written.
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "b", None, "c"), "c: File too large"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError("encoder error -2"), "encoder error -2"),
    ],
)
def test_errors_are_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        raise error

    assert run(action) == 1
    assert capsys.readouterr().err == f"Error: {said}\n"


@pytest.mark.usefixtures("not_in_background")
def test_it_does_not_matter_that_the_terminal_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path(os.devnull).open() as closed:  # every write to it fails
        monkeypatch.setattr("sys.stderr", closed)
        assert run(lambda: signal.raise_signal(signal.SIGHUP)) == 129
