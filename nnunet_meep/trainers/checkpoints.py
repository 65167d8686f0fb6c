"""Read nnU-Net's checkpoints without running any code in them; say what to do with a torn one.

Checkpoints are pickles, which can run any code. They are refused if they hold anything but tensors,
numbers, strings, and lists and dictionaries of these.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.unfinished import is_whole_zip

#: What nnU-Net's checkpoints hold beyond what torch considers safe: numpy scalars, in the log.
#: The function that creates them is in different modules in numpy 1 and numpy 2.
_scalar = np.float64(0).__reduce__()[0]
SAFE_GLOBALS: list[Any] = [
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def read_checkpoint(path: Path, *, weights: bool = True) -> dict[str, Any]:
    """What a checkpoint of nnU-Net holds, on the CPU.

    Args:
        path: ``checkpoint_*.pth`` in the folder of a fold.
        weights: False does not read the tensors, which makes it fast whatever the size of the
            network. They must not be used: a training may overwrite the file, which is mapped.

    Raises:
        InputError: there is no such file; it is damaged, or not nnU-Net's; it holds something
            that is not safe.
    """
    if not path.is_file():
        what = "a folder" if path.exists() else "nothing"
        raise InputError(f"{path}: expected a checkpoint of nnU-Net, checkpoint_*.pth, got {what}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_GLOBALS):
            warnings.simplefilter("ignore")  # torch warns of a format that is then refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=not weights)
    except PermissionError:
        raise
    except Exception as error:  # a broken file can raise anything in torch, even OSError
        other = re.search(r"GLOBAL (\S+)|got <class '(\S+)'>", str(error))
        problem = f"not a checkpoint of nnU-Net, or cut short ({type(error).__name__})"
        if other:
            problem = (
                f"refused and not run: it holds {other[1] or other[2]}; a checkpoint of nnU-Net "
                "holds tensors, numbers and texts only"
            )
        raise InputError(f"{path}: {problem}") from error
    needed = {"network_weights": dict, "logging": dict, "init_args": dict, "trainer_name": str}
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(key), kind) for key, kind in needed.items()
    ):
        raise InputError(f"{path}: not a checkpoint of nnU-Net: it needs {', '.join(needed)}")
    return checkpoint


def refuse_torn(path: Path, error: Exception) -> None:
    """Raise if a checkpoint that could not be loaded was not written to its end.

    Args:
        path: ``checkpoint_*.pth`` in the folder of a fold.
        error: with which loading it has failed.

    Raises:
        InputError: it is cut short; the message names the one to go on from.
    """
    if path.is_file() and not is_whole_zip(path):
        raise InputError(
            f"{path}: expected a checkpoint, found one that is cut short: the training ended while "
            f"it was saved; remove it, then {go_on_from(path.parent, without=path)}"
        ) from error


def go_on_from(fold: Path, *, without: Path | None = None) -> str:
    """From which checkpoint in the folder of a fold nnU-Net's ``--c`` goes on, as words.

    Args:
        fold: ``fold_X``.
        without: a checkpoint that will be gone.
    """
    for name in ("final", "latest", "best"):
        path = fold / f"checkpoint_{name}.pth"
        if path != without and is_whole_zip(path):
            try:
                epoch = f", epoch {read_checkpoint(path, weights=False).get('current_epoch')}"
            except InputError:  # of a trainer that keeps objects of its own in it
                epoch = ""
            return f"--c goes on from {path.name}{epoch}"
    return "there is no whole checkpoint, so begin the training anew"
