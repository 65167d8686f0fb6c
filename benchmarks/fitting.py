"""How long does ``meep-calib-fit`` take on a whole validation set, and how much memory?

Makes 20 cases as nnU-Net writes them (88 x 576 x 576 voxels, the size of the left atrium scans; one
case, linked 20 times), of two and of four classes, and runs, each in a process of its own:

- ``numpy.load`` of all files, one after the other;
- ``meep-calib-fit`` with each method.

    python benchmarks/fitting.py WORK_FOLDER -o benchmarks/fitting.md
"""

from __future__ import annotations

import argparse
import os
import sys
from multiprocessing import get_context
from pathlib import Path

from calibration import SHAPE, make_case, measure
from machine import machine
from tqdm import tqdm

N_CASES = 20
METHODS = ("platt", "isotonic", "temperature", "vector", "class-conditional")
LOAD = "import glob, numpy\nfor npz in glob.glob({!r}): numpy.load(npz)['probabilities']"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for the cases, 0.5 GB")
    parser.add_argument("-o", type=Path, help="Markdown file to write the table into as well")
    options = parser.parse_args()
    work = options.work.resolve()
    command = str(Path(sys.executable).with_name("meep-calib-fit"))
    rows = []
    for n_classes in tqdm((2, 4), unit="data set"):
        folder = work / f"{n_classes}_classes"
        # In another process: Linux counts the memory of this one for those that it starts.
        making = get_context("spawn").Process(target=make_cases, args=(folder, n_classes))
        making.start()
        making.join()
        load = LOAD.format(str(folder / "pred" / "*.npz"))
        jobs = {"`numpy.load` of all files": [sys.executable, "-c", load]}
        for method in METHODS:
            output = str(folder / f"{method}.json")
            arguments = [method, str(folder / "gt"), str(folder / "pred"), "-o", output]
            jobs[f"`meep-calib-fit {method}`"] = [command, *arguments]
        reading = 0.0
        for what, job in jobs.items():
            seconds, megabytes = measure(job)
            reading = reading or seconds
            rows.append((n_classes, what, seconds, seconds / reading, megabytes))
    text = report(rows)
    print(text)
    if options.o:
        options.o.write_text(text)


def make_cases(folder: Path, n_classes: int) -> None:
    """Make one case, linked under many names."""
    if (folder / "pred" / f"case_{N_CASES - 1:02d}.npz").exists():
        return
    make_case(folder, "case_00", SHAPE, n_classes)
    for i in range(1, N_CASES):
        for name in ("pred/case_{:02d}.npz", "gt/case_{:02d}.nii.gz"):
            os.link(folder / name.format(0), folder / name.format(i))


def report(rows: list[tuple[int, str, float, float, float]]) -> str:
    """The report in Markdown."""
    lines = [
        "# How long fitting a calibrator takes",
        "",
        f"`python benchmarks/fitting.py WORK_FOLDER`: {N_CASES} cases of "
        f"{' x '.join(map(str, SHAPE))} voxels. Each run is a process of its own, including "
        "start-up and the picture. The last two methods come from the package fiducio, whose torch "
        "alone takes 0.5 GB.",
        "",
        "| classes | what | seconds | times numpy.load | memory, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {n} | {what} | {s:.0f} | {x:.2f} | {m:.0f} |" for n, what, s, x, m in rows]
    versions = ("numpy", "numba", "scikit-learn", "torch", "fiducio")
    return "\n".join([*lines, "", machine(versions), ""])


if __name__ == "__main__":
    main()
