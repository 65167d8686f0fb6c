"""Run nnU-Net's commands and ours, each in its own process, and follow their progress.

A command is shown as a user would type it; its output goes into a log file, from which its
progress is read.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nnunet_meep.errors import InputError

#: Environment variables for a small machine, unless the user has set them.
SMALL_MACHINE = {
    "nnUNet_n_proc_DA": "1",
    "nnUNet_def_n_proc": "2",
    "nnUNet_npp": "1",
    "nnUNet_nps": "1",
    "nnUNet_compile": "0",
}


class Runner:
    """Runs commands one after the other; prints a line for each, with its output in a log file."""

    def __init__(self, folder: Path, n_commands: int) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.n_commands = n_commands
        self.n_started = 0
        folders = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        self.environment = {
            **SMALL_MACHINE,
            **os.environ,
            **{name: os.path.abspath(folder / name) for name in folders},
            "nnUNet_wandb_enabled": "0",  # no toy trainings in the user's account
            "PYTHONUNBUFFERED": "1",  # epochs appear in the log as they begin
        }

    def run(self, command: list[str], progress: Callable[[str], str]) -> None:
        """Run ``command`` to its end; ``progress`` turns its log into a text on its progress.

        Raises:
            InputError: the command is not installed, or it failed.
        """
        self.n_started += 1
        log = self.logs / f"{self.n_started}_{command[0]}.log"
        say(f"\n[{self.n_started}/{self.n_commands}] $ {shlex.join(command)}")
        status = Status()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [_find(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # so that it can be ended together with its workers
            )
            try:
                while process.poll() is None:
                    status.show(progress(_read(log)))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=1)
            finally:
                if process.returncode != 0:
                    _end(process)
                    status.close()
        if process.returncode != 0:
            raise InputError(
                f"{command[0]} failed ({_how(process.returncode)}): {_reason(_read(log))} "
                f"(all it said: {log})"
            )
        status.show("done")
        status.close()


class Status:
    """Shows what a command is doing: one line that is updated; without a terminal, new lines."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.shown = ""

    def show(self, text: str) -> None:
        line = f"      {text}, {clock(time.monotonic() - self.started)}"
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a full line would wrap
            print(f"\r{line[:width]:<{width}}", end="", flush=True)
        elif text != self.shown:
            say(line)
        self.shown = text

    def close(self) -> None:
        if sys.stdout.isatty():
            print(flush=True)


def training_progress(n_epochs: int) -> Callable[[str], str]:
    """A function that tells from the log of nnUNetv2_train how far it is."""

    def progress(log: str) -> str:
        validated = re.findall(r": predicting \S", log)
        if validated:
            n_cases = re.findall(r"and (\d+) validation cases", log)
            return f"validating, case {len(validated)} of {n_cases[-1] if n_cases else '?'}"
        epochs = re.findall(r": Epoch (\d+)\s*$", log, re.MULTILINE)
        return f"epoch {int(epochs[-1]) + 1} of {n_epochs}" if epochs else "starting"

    return progress


def prediction_progress(log: str) -> str:
    """How far nnUNetv2_predict is, according to its log."""
    predicted = re.findall(r"^Predicting \S+:\s*$", log, re.MULTILINE)
    n_cases = re.findall(r"^There are (\d+) cases that I would like to predict", log, re.MULTILINE)
    return f"case {len(predicted)} of {n_cases[-1]}" if predicted and n_cases else "starting"


def progress_bars(log: str) -> str:
    """How far a command is, according to the tqdm progress bars in its log."""
    bars = re.findall(r"([A-Za-z][\w ]*): +\d+%\|[^|]*\| (\d+)/(\d+)", log)
    return "{}, {} of {}".format(*bars[-1]) if bars else "starting"


def _reason(log: str) -> str:
    """The last line that names an error, else the last line.

    nnU-Net's workers may still print lines after the error, while they are being ended.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)(:|$)", line)]
    return (errors or lines or ["it said nothing"])[-1]


def _how(returncode: int) -> str:
    if returncode == -getattr(signal, "SIGKILL", 9):
        return "killed, perhaps because memory ran out"
    return f"exit code {returncode}" if returncode > 0 else f"ended by signal {-returncode}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the workers that it started, which may outlive it."""
    if os.name != "posix":
        process.kill()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all ended (Linux, macOS)
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def _find(command: str) -> str:
    """Find a command, first beside Python: a virtual environment need not be activated."""
    found = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
    if found is None:
        raise InputError(
            f"{command}: found neither beside {sys.executable} nor on PATH; "
            "install nnunet-meep into this environment"
        )
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text: str) -> None:
    print(text, flush=True)
