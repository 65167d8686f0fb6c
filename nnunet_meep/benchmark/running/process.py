"""Start commands in processes of their own, and end them together with their workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.json_file import read_json

#: As much of the end of a log as is read to see how far a command is.
_TAIL = 1 << 20
#: Seconds in which a command may end by itself once it was asked to.
_PATIENCE = 5.0


class Process:
    """A running command, with its output in a log file.

    Args:
        command: of nnU-Net or of this package, with its arguments.
        log: is replaced.
        environment: of the process.
        threads: for torch on a CPU.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], threads: int
    ) -> None:
        self.log = log
        self._usage = log.with_suffix(".usage")
        log.parent.mkdir(parents=True, exist_ok=True)
        self._usage.unlink(missing_ok=True)
        launcher = [sys.executable, "-m", "nnunet_meep.benchmark.running.launch"]
        launcher += ["--threads", str(threads), "--usage", str(self._usage)]
        launcher += ["--parent", str(os.getpid())]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*launcher, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # so that it can be ended together with its workers
            )

    @property
    def group(self) -> int:
        """Its process group."""
        return self._process.pid

    def returncode(self) -> int | None:
        """Its exit code; None as long as it runs."""
        return self._process.poll()

    def output(self) -> str:
        """The end of what it has written; empty if its log was deleted."""
        return end_of(self.log)

    def usage(self) -> dict[str, Any]:
        """See :func:`.launch.usage`; empty if it was killed. Reading removes it."""
        try:
            return dict(read_json(self._usage))
        except (OSError, ValueError):
            return {}
        finally:
            self._usage.unlink(missing_ok=True)

    def send(self, number: int) -> None:
        """Send a signal to it and the workers that it started, which may outlive it."""
        if os.name != "posix":
            self._process.kill()
            return
        # All have ended already (Linux; macOS).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, but no longer than so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.0, seconds))


def end_of(log: Path) -> str:
    """The end of a log; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def end(processes: Sequence[Process]) -> None:
    """End processes and their workers, all at the same time.

    A second Ctrl-C meanwhile only means that they get no time to end by themselves.
    """
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        for process in processes:
            process.send(number)
        until = time.monotonic() + _PATIENCE
        with contextlib.suppress(KeyboardInterrupt):
            for process in processes:
                process.wait(until - time.monotonic())


def how_it_ended(returncode: int) -> str:
    if returncode == -getattr(signal, "SIGKILL", 9):
        return "killed, perhaps because memory ran out"
    return f"exit code {returncode}" if returncode > 0 else f"ended by signal {-returncode}"
