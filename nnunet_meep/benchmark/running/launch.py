"""``python -m nnunet_meep.benchmark.running.launch``: run a command of nnU-Net or of this package.

The command runs in this process, as its console script would, but

- with a given number of threads: on a CPU nnU-Net gives torch as many as there are cores;
- it ends when the runner that started it is killed (Linux);
- at its end it writes the memory it took and the device into a file, as JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError

_PR_SET_PDEATHSIG = 1


def main(args: list[str] | None = None) -> Any:
    """Run the command; returns its exit code, or what its entry point returns."""
    parser = argparse.ArgumentParser(prog="nnunet_meep.benchmark.running.launch")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--usage", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(args)
    _end_with(options.parent)
    entry = entry_point(options.command[0]).load()
    sys.argv = [options.command[0], *options.command[1:]]
    if options.command[0].startswith("nnUNetv2_"):
        multiprocessing.cpu_count = lambda: options.threads  # what nnU-Net gives to torch
    try:
        return entry()
    finally:
        with replacing_file(options.usage) as temporary:
            temporary.write_text(json.dumps(usage()), encoding="utf-8")


def entry_point(command: str) -> EntryPoint:
    """Where the function behind a command of this environment is.

    Raises:
        InputError: there is no such command.
    """
    for found in entry_points(group="console_scripts", name=command):
        return found
    raise InputError(f"{command}: expected a command of this environment, found none")


def usage() -> dict[str, Any]:
    """Peak memory of this process in MB, of its GPU if it used one, and the device."""
    found: dict[str, Any] = {}
    if os.name == "posix":
        import resource

        unit = 1024 if sys.platform != "darwin" else 1024**2  # kB, but bytes on macOS
        found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["device"] = torch.cuda.get_device_name()
        found["gpu_memory_mb"] = torch.cuda.max_memory_reserved() / 1024**2
    return found


def _end_with(parent: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # no such call: the next runner ends what is left
        return
    if os.getppid() != parent:  # it was killed before the call
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
