"""The line that stands under every table of the measurements."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path


def machine(packages: Iterable[str]) -> str:
    """Processor, cores, and the versions of Python and of some packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    python = f"Python {platform.python_version()}"
    return ", ".join([names[0], f"{os.cpu_count()} cores", python, *versions]) + "."
