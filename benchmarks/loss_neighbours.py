"""The loss on a machine whose cores other processes use as well, as nnU-Net's augmentation does."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from loss_cases import Case
from tqdm import tqdm

#: Processes that do nothing but compute, at the priority of this one.
NEIGHBOURS = (0, 1, 2, 4)
NAMES = ("nnU-Net", "ours")


@contextlib.contextmanager
def neighbours(n: int) -> Iterator[None]:
    """``n`` processes that always want a core."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def table(classes: list[int], size: int, n_rounds: int) -> list[str]:
    """The section of the report, in Markdown."""
    lines = [
        "## Beside other processes",
        "",
        "nnU-Net's Dice + CE and ours on a CPU while other processes keep the same cores busy "
        "(`while True: pass`): the median, and the time that nine runs out of ten stay below.",
        "",
        "| K | processes | nnU-Net, ms | ours | ours / nnU-Net | nnU-Net, 90 % | ours "
        "| ours / nnU-Net |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for n_classes in tqdm(classes, unit="number of classes", leave=False):
        for n in NEIGHBOURS:
            with neighbours(n):
                times = Case(n_classes, "cpu", "float32", size).seconds(NAMES, n_rounds)
            cells = [str(n_classes), str(n)]
            for position in (0.5, 0.9):
                own, ours = (1e3 * quantile(times[name], position) for name in NAMES)
                cells += [f"{own:.0f}", f"{ours:.0f}", f"{ours / own:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def quantile(values: list[float], position: float) -> float:
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[round(10 * position) - 1]
