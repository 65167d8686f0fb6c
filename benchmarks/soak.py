"""Does ``meep-calib-eval`` take more memory, or more time per case, the more cases there are?

Evaluates many small cases, and many large ones, in parts of different length; compares two models
of as many cases; and opens the page in a browser, if selenium and Chromium are installed.

    python benchmarks/soak.py WORK_FOLDER -o benchmarks/soak.md              # about an hour
    python benchmarks/soak.py WORK_FOLDER --small 100 200 --large 2 4        # a try
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_meep import __version__

LARGE = (88, 576, 576)
SMALL = (8, 16, 16)
CLASSES = ("Anterior", "Posterior")
NOTE = """\
Small cases are evaluated twice; the shorter time and the larger memory are given. The memory is
that of all processes, one for each core and one that reads the references. The numbers of each case
go to a temporary file; less than 1 kB of each stays in memory. The resamples of the bootstrap are
kept for up to 3,355 cases; for more cases they are drawn again for each table and picture. A
comparison holds the numbers of all cases of its models at once, here about 30 kB for each case.
"""


class Run(NamedTuple):
    """A command: its time, and the largest memory of it and its processes in each half."""

    seconds: float
    first_mb: float
    second_mb: float


def make_cases(folder: Path, shape: tuple[int, ...], n: int, seed: int) -> tuple[Path, Path]:
    """A folder of references and one of predictions; large cases are links to one."""
    gt, pred = folder / "gt", folder / f"pred{seed}"
    for made in (gt, pred):
        made.mkdir(parents=True, exist_ok=True)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(CLASSES)}},
        "numTraining": n,
        "file_ending": ".nii.gz",
    }
    (pred / "dataset.json").write_text(json.dumps(dataset))
    (pred / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    n_made = 1 if shape == LARGE else n
    for i in tqdm(range(n), desc=f"{pred.name} of {shape}", unit="case"):
        name = f"case_{i:05d}"
        if i >= n_made:
            for made, ending in ((gt, ".nii.gz"), (pred, ".nii.gz"), (pred, ".npz")):
                if not (link := made / f"{name}{ending}").exists():
                    os.link(made / f"case_{i % n_made:05d}{ending}", link)
            continue
        if (pred / f"{name}.npz").exists():
            continue
        rng = np.random.default_rng([seed, i])
        truth = np.random.default_rng(i).integers(0, 3, shape, np.uint8)
        logits = rng.normal(size=(3, *shape)).astype(np.float32)
        logits += 2 * (truth == np.arange(3).reshape(3, 1, 1, 1))
        p = np.exp(logits) / np.exp(logits).sum(0)
        for made, labels in ((gt, truth), (pred, p.argmax(0).astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(labels), str(made / f"{name}.nii.gz"))
        np.savez_compressed(pred / f"{name}.npz", probabilities=p)
    return gt, pred


def run(*command: str) -> Run:
    """Run a command, and look at its memory twice a second, which itself takes time."""
    start, seen = time.monotonic(), []
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        seen.append((time.monotonic() - start, _memory_mb(process)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {' '.join(command)}")
    seconds = time.monotonic() - start
    halves = ([mb for at, mb in seen if (at > seconds / 2) == late] for late in (False, True))
    return Run(seconds, *(max(half, default=0) for half in halves))


def _memory_mb(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss / 2**20
        except psutil.Error:  # it has ended
            continue
    return total


def page_seconds(page: Path) -> float:
    """From the request until the page can be used."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options) as browser:
        browser.get("about:blank")
        browser.get(page.resolve().as_uri())
        timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        return float(browser.execute_script(f"return {timing}")) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", type=Path, help="write the tables there as Markdown")
    parser.add_argument("--small", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--large", type=int, nargs="+", default=[10, 30, 100])
    given = parser.parse_args()
    rows = [
        "| cases | voxels each | s | s a case | memory in the first half, MB | second half, MB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    pages = []
    for shape, counts in ((SMALL, given.small), (LARGE, given.large)):
        for n in counts:
            folder = given.work / f"{np.prod(shape)}_{n}"
            models, runs = [], []
            for seed in (1, 2) if shape == SMALL else (1,):
                gt, pred = make_cases(folder, shape, n, seed)
                output = folder / f"calibration{seed}"
                evaluation = [*_MEEP_EVAL, str(gt), str(pred), "-o", str(output), "--no-surface"]
                runs.append(run(*evaluation))
                models.append(f"model{seed}={output}")
            seconds = min(each.seconds for each in runs)
            first, second = (max(mb) for mb in zip(*(each[1:] for each in runs), strict=True))
            rows.append(
                f"| {n:,} | {np.prod(shape):,} | {seconds:.0f} | {seconds / n:.3f} | "
                f"{first:.0f} | {second:.0f} |"
            )
            if shape == SMALL:
                compared = run(*_MEEP_COMPARE, *models, "-o", str(folder / "comparison"))
                page = folder / "comparison" / "report.html"
                size = page.stat().st_size / 2**20
                pages.append(
                    f"| {n:,} | {compared.seconds:.0f} | {compared.second_mb:.0f} | {size:.1f} | "
                    f"{page_seconds(page):.2f} |"
                )
            print(rows[-1], flush=True)
    text = "\n".join(
        [
            "# Many cases",
            "",
            "`python benchmarks/soak.py WORK_FOLDER -o benchmarks/soak.md`",
            "",
            *rows,
            "",
            *NOTE.splitlines(),
            "",
            "| cases of two models | comparison, s | memory, MB | page, MB | page opens in, s |",
            "| ---: | ---: | ---: | ---: | ---: |",
            *pages,
            "",
            f"Machine: {os.cpu_count()} cores ({platform.machine()}); Python "
            f"{platform.python_version()}, nnunet-meep {__version__}, numpy {np.__version__}.",
            "",
        ]
    )
    print(text)
    if given.o:
        given.o.write_text(text)


def _command(module: str) -> list[str]:
    code = f"import sys; from nnunet_meep.cli.{module} import main; sys.exit(main())"
    return [sys.executable, "-c", code]


_MEEP_EVAL, _MEEP_COMPARE = _command("calib_eval"), _command("calib_compare")

if __name__ == "__main__":
    main()
