"""Read from the output of nnU-Net's commands and ours how far they are."""

from __future__ import annotations

import re
from collections.abc import Callable


def training_progress(n_epochs: int) -> Callable[[str], str]:
    """A function that tells from the output of ``nnUNetv2_train`` how far it is."""

    def progress(log: str) -> str:
        validated = re.findall(r": predicting \S", log)
        if validated:
            n_cases = re.findall(r"and (\d+) validation cases", log)
            return f"validating, case {len(validated)} of {n_cases[-1] if n_cases else '?'}"
        epochs = re.findall(r": Epoch (\d+)\s*$", log, re.MULTILINE)
        return f"epoch {int(epochs[-1]) + 1} of {n_epochs}" if epochs else "starting"

    return progress


def prediction_progress(log: str) -> str:
    """How far ``nnUNetv2_predict`` is, according to its output."""
    predicted = re.findall(r"^Predicting \S+:\s*$", log, re.MULTILINE)
    n_cases = re.findall(r"^There are (\d+) cases that I would like to predict", log, re.MULTILINE)
    return f"case {len(predicted)} of {n_cases[-1]}" if predicted and n_cases else "starting"


def progress_bars(log: str) -> str:
    """How far a command is, according to the tqdm progress bars in its output."""
    bars = re.findall(r"([A-Za-z][\w ]*): +\d+%\|[^|]*\| (\d+)/(\d+)", log)
    if bars:
        return "{}, {} of {}".format(*bars[-1])
    bars = re.findall(r"\d+%\|[^|]*\| (\d+)/(\d+)", log)
    return "{} of {}".format(*bars[-1]) if bars else "running"


def last_error(log: str) -> str:
    """The last line that names an error, else the last line.

    nnU-Net's workers may still print lines after the error, while they are being ended. That they
    are no longer alive is what follows from the error of one of them.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)(:|$)", line)]
    first = [line for line in errors if "background workers are no longer alive" not in line]
    return (first or errors or lines or ["it said nothing"])[-1]
