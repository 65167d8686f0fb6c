"""How long does ``meep-calib-eval`` take, and how much memory, beside loading the file?

Makes cases as nnU-Net writes them (88 x 576 x 576 voxels, the size of the left atrium scans;
padding, smooth errors, compressed), and runs in turn, each in a process of its own, several times:

- ``meep-calib-eval --no-surface`` on that case, and on one of 66 x 64 x 64 voxels for the start-up
  and the pictures, which are taken off (it is the smallest for which the compiled loops are
  loaded);
- ``numpy.load`` of the same file;
- one metric of other libraries on the loaded arrays (those that are installed), loading included,
  twice;
- what takes no time but to start: ``--help``, a case of 8 x 8 x 8 voxels with and without
  pictures, and matplotlib alone, drawing two plots;
- with --long also 16 classes, and 20 copies of the case with one process and with two.

    pip install scikit-learn torchmetrics netcal fiducio      # whichever you want to compare with
    python benchmarks/calibration.py WORK_FOLDER -o benchmarks/calibration.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import machine
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

SHAPE = (88, 576, 576)
STARTING, TINY = (66, 64, 64), (8, 8, 8)
#: Commands that only start, by their title in the report.
STARTS = {
    "`--help`": "help",
    "8 x 8 x 8 voxels, without pictures (`--part 1/1`)": "tiny part",
    "8 x 8 x 8 voxels, with pictures": "tiny",
    "for comparison: matplotlib alone, two plots as PNG and SVG": "matplotlib",
}
GT = "gt/case_{:02d}.nii.gz"
PLOTS = (
    "import io\n"
    "from matplotlib.figure import Figure\n"
    "figure = Figure(figsize=(4, 6))\n"
    "for ax in figure.subplots(2):\n"
    "    ax.plot([0, 1], [0, 1])\n"
    "for kind in ('png', 'svg'):\n"
    "    figure.savefig(io.BytesIO(), dpi=150, format=kind)"
)
LOAD = "import numpy; p = numpy.load({npz!r})['probabilities']"
#: One metric of each other library, computed as in its documentation, on arrays in memory.
PEERS = {
    "scikit-learn": "from sklearn.calibration import calibration_curve\n"
    "calibration_curve(y, p[1].ravel(), n_bins=15)",
    "torchmetrics": "import torch\n"
    "from torchmetrics.functional.classification import binary_calibration_error\n"
    "binary_calibration_error(torch.from_numpy(p[1].ravel()), torch.from_numpy(y), n_bins=15)",
    "netcal": "from netcal.metrics import ECE\nECE(15).measure(p[1].ravel(), y)",
    "fiducio": "import torch\n"
    "from fiducio.metrics import expected_calibration_error\n"
    "expected_calibration_error(torch.from_numpy(p)[None], torch.from_numpy(y.reshape(p[1].shape))"
    "[None])",
}
REFERENCE = (
    "import SimpleITK\n"
    "y = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage({gt!r})).ravel().astype('int64')\n"
)


def make_case(folder: Path, name: str, shape: tuple[int, ...], n_classes: int) -> None:
    """Write a case: ellipsoid (nested ones for more classes), mostly confident network, padding."""
    rng = np.random.default_rng(0)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    radii = (0.6, 0.25, 0.3)
    depth = 1 - np.sqrt(sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)))
    logits = np.zeros((n_classes, *shape), np.float32)
    for k in range(1, n_classes):
        noise = gaussian_filter(rng.standard_normal(shape, np.float32), 1.5)
        logits[k] = np.clip((depth - (k - 1) / n_classes) * 12, -9, 9) + 1.2 * noise / noise.std()
    bumps = gaussian_filter(rng.standard_normal(shape, np.float32), 4)
    reference = np.floor((depth + 1.6 * bumps) * n_classes).clip(0, n_classes - 1).astype(np.uint8)
    if n_classes == 2:
        reference = (depth + 1.6 * bumps > 0).astype(np.uint8)
    # nnU-Net averages logits in half precision.
    logits = logits.astype(np.float16).astype(np.float32)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    for axis, n in enumerate(shape[1:], start=2):  # padding: background 1, all others 0
        for edge in (slice(0, n // 50), slice(n - n // 50, n)):
            where = [slice(None)] * logits.ndim
            where[axis] = edge
            logits[tuple(where)] = 0
            where[0] = 0
            logits[tuple(where)] = 1
    image = sitk.GetImageFromArray(reference)
    image.SetSpacing((0.625, 0.625, 0.625))
    for part in ("gt", "pred"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, folder / "gt" / f"{name}.nii.gz", True)
    segmentation = sitk.GetImageFromArray(logits.argmax(axis=0).astype(np.uint8))
    segmentation.CopyInformation(image)
    sitk.WriteImage(segmentation, folder / "pred" / f"{name}.nii.gz", True)
    np.savez_compressed(folder / "pred" / f"{name}.npz", probabilities=logits)
    labels = {"background": 0, **{f"class {k}": k for k in range(1, n_classes)}}
    dataset = {"labels": labels, "file_ending": ".nii.gz"}
    (folder / "pred" / "dataset.json").write_text(json.dumps(dataset))
    (folder / "pred" / "plans.json").write_text('{"image_reader_writer": "SimpleITKIO"}')


def ours(folder: Path, *flags: str) -> list[str]:
    """The command for a folder, from which results of earlier runs are removed."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = str(Path(sys.executable).with_name("meep-calib-eval"))
    return [
        *(command, str(folder / "gt"), str(folder / "pred"), "-o", str(folder / "out")),
        *("--no-surface", *flags),
    ]


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return seconds, and the peak memory of its largest process in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{error}")
    return seconds, usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for the cases, 0.2 GB (--long: 4 GB)")
    parser.add_argument("-o", type=Path, help="Markdown file to write the table into as well")
    parser.add_argument("--repeats", type=int, default=10, help="of each (default: 10)")
    parser.add_argument("--long", action="store_true", help="16 classes and 20 cases, too")
    options = parser.parse_args()

    work = options.work.resolve()
    folders = {"tiny": (TINY, 2, 1), "starting": (STARTING, 2, 1), "one": (SHAPE, 2, 1)}
    if options.long:
        folders |= {"16": (SHAPE, 16, 1), "20": (SHAPE, 2, 20)}
    for name, (shape, n_classes, n_cases) in folders.items():
        if not (work / name / "pred" / f"case_{n_cases - 1:02d}.npz").exists():
            # In its own process, so that its memory is not counted in those that are measured.
            made = multiprocessing.get_context("spawn").Process(
                target=make_case, args=(work / name, "case_00", shape, n_classes)
            )
            made.start()
            made.join()
            for i in range(1, n_cases):
                for path in ("pred/case_{:02d}.npz", "pred/case_{:02d}.nii.gz", GT):
                    shutil.copy(work / name / path.format(0), work / name / path.format(i))

    without = work / "without a segmentation"
    if not without.exists():
        shutil.copytree(work / "one", without)
        (without / "pred" / "case_00.nii.gz").unlink()

    npz, gt = (str(work / "one" / p) for p in ("pred/case_00.npz", GT.format(0)))
    load = LOAD.format(npz=npz)
    python = [sys.executable, "-W", "ignore", "-c"]
    jobs = {
        "help": lambda: [ours(work / "tiny")[0], "--help"],
        "tiny part": lambda: ours(work / "tiny", "--part", "1/1"),
        "tiny": lambda: ours(work / "tiny"),
        "matplotlib": lambda: [*python, PLOTS],
        "start-up": lambda: ours(work / "starting"),
        "meep-calib-eval": lambda: ours(work / "one"),
        "without": lambda: ours(without),
        "python": lambda: [*python, "import numpy"],
        "np.load": lambda: [*python, load],
    }
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    for name in [n for n in PEERS if n in installed]:
        imports = "\n".join(x for x in PEERS[name].splitlines() if "import" in x)
        code = "\n".join([load, REFERENCE.format(gt=gt), PEERS[name]])
        jobs[f"start-up of {name}"] = lambda i=imports: [*python, f"import SimpleITK\n{i}"]
        jobs[name] = lambda c=code: [*python, c]
    if options.long:
        jobs["16 classes"] = lambda: ours(work / "16")
        jobs["20 cases, -np 2"] = lambda: ours(work / "20", "-np", "2")
        jobs["20 cases, -np 1"] = lambda: ours(work / "20", "-np", "1")

    for job in ("start-up", "np.load"):  # warm-up: compiles, fills caches
        measure(jobs[job]())
    peers = tuple(PEERS)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in tqdm(range(options.repeats), unit="round"):
        for name, job in jobs.items():
            rounds = 1 if name.startswith(("16", "20")) else 2 if name.endswith(peers) else None
            if len(results[name]) == rounds:
                continue
            results[name].append(measure(job()))
    text = report(results, os.path.getsize(npz))
    print(text)
    if options.o:
        options.o.write_text(text)


def report(results: dict[str, list[tuple[float, float]]], size: int) -> str:
    """The report in Markdown; seconds are medians."""
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in results.items()}
    memory = {name: max(m for _, m in runs) for name, runs in results.items()}

    def net(name: str, start_up: str) -> list[float]:
        pairs = zip(results[name], results[start_up], strict=True)
        return [a[0] - b[0] for a, b in pairs]

    np_load = net("np.load", "python")
    lines = [
        "# How long the evaluator takes",
        "",
        f"`python benchmarks/calibration.py WORK_FOLDER`: a case of {' x '.join(map(str, SHAPE))} "
        f"voxels, two classes, {size / 1e6:.0f} MB of npz. Each run is a process of its own; all "
        f"take turns in {len(results['np.load'])} rounds (other libraries: 2). Times are medians, "
        "with the lowest and highest in brackets. The start-up of each (imports; for us the same "
        f"command on {' x '.join(map(str, STARTING))} voxels, pictures included) is subtracted. "
        "Memory is that of the largest process.",
        "",
        "| what | seconds | times np.load | memory, MB | start-up, seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = [
        ("`meep-calib-eval --no-surface`, all metrics", "meep-calib-eval", "start-up"),
        ("the same without a segmentation to compare with the argmax", "without", "start-up"),
        ("`numpy.load` alone", "np.load", "python"),
    ]
    rows += [(f"one metric of {n}", n, f"start-up of {n}") for n in PEERS if n in results]
    for title, name, start_up in rows:
        own = net(name, start_up)
        times = [a / b for a, b in zip(own, np_load, strict=False)]
        lines.append(
            f"| {title} | {statistics.median(own):.2f} | {statistics.median(times):.2f} "
            f"({min(times):.2f} to {max(times):.2f}) | {memory[name]:.0f} "
            f"| {seconds[start_up]:.2f} |"
        )
    lines += ["", "The whole command, on a case with hardly any voxels:", ""]
    lines += ["| `meep-calib-eval` | seconds |", "| --- | --- |"]
    lines += [f"| {title} | {seconds[name]:.2f} |" for title, name in STARTS.items()]
    if "16 classes" in results:
        lines += [
            "",
            f"16 classes of that size: {seconds['16 classes']:.1f} s, "
            f"{memory['16 classes']:.0f} MB. 20 cases of two classes: "
            f"{seconds['20 cases, -np 1']:.1f} s and "
            f"{memory['20 cases, -np 1']:.0f} MB in one process, "
            f"{seconds['20 cases, -np 2']:.1f} s and {memory['20 cases, -np 2']:.0f} MB with two.",
        ]
    versions = ("numpy", "numba", "isal", *(n for n in PEERS if n in results))
    return "\n".join([*lines, "", machine(versions), ""])


if __name__ == "__main__":
    main()
