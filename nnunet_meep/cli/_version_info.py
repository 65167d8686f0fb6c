"""What a report of a bug has to say: versions, devices and nnU-Net's folders."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

from nnunet_meep import __version__

_PACKAGES = ("nnunetv2", "torch", "numpy", "SimpleITK")
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")


def version_info() -> str:
    """Versions of packages, Python and CUDA, devices, and nnU-Net's variables: a line for each.

    Values are aligned. The home directory is shown as ``~``. What is missing or cannot be imported
    is said in its line.
    """
    rows = {
        "nnunet-meep": __version__,
        **{package: _version(package) for package in _PACKAGES},
        **_devices(),
        "Python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _without_home(os.environ.get(name) or "not set") for name in _VARIABLES},
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    """CUDA's version and the devices that torch can use."""
    try:
        import torch
    except Exception as error:  # of a broken installation, which may be why there is a report
        return {"devices": f"torch cannot be imported: {type(error).__name__} {error}"}
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return {
        "CUDA": torch.version.cuda or "not in this torch",
        "devices": ", ".join([*names, "cpu"]),
    }


def _without_home(folders: str) -> str:
    """Folders, joined as in ``PATH``, with ``~`` for the home directory at the start of each."""
    home = os.path.expanduser("~").rstrip(os.sep)
    if home in ("", "~"):  # the root, or unknown
        return folders
    start = rf"(^|{re.escape(os.pathsep)}){re.escape(home)}"
    return re.sub(rf"{start}(?=$|[{re.escape(os.sep + os.pathsep)}])", r"\1~", folders)
