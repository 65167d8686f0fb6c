"""A benchmark so small that it tries the installation out: a plan, its data, and its words."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_meep.atomic import is_temporary, replacing_file
from nnunet_meep.benchmark.plans.plan import DATASET, DATASET_NAME
from nnunet_meep.benchmark.run import Options, run
from nnunet_meep.benchmark.running.data_sets import given_test_scans, is_2d, labelled_cases
from nnunet_meep.benchmark.running.prepare import link
from nnunet_meep.datasets import synthetic
from nnunet_meep.errors import InputError
from nnunet_meep.trainers.grammar import RECOMMENDED

_LENGTH = "_3epochs_12iters"
SYNTHETIC_DATASET = "Dataset001_SyntheticLA"
CAVEAT = (
    "Such a short training (3 epochs of 12 iterations; nnU-Net trains 1000 of 250) tests the\n"
    "installation, not the method."
)
PLAN = """\
# Made by meep-quickstart. A benchmark of your own begins with: meep-benchmark init
[data.{name}]
dataset = "{dataset}"
{configuration}
[[training]]
trainers = ["nnUNetTrainerDiceCE{length}", "{recommended}{length}"]
seeds = [0]

[evaluate]
roi = ["image"]
"""
#: Without background workers, two runs on one machine give the same numbers. No toy trainings in
#: the user's account.
ENVIRONMENT = {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "0", "nnUNet_wandb_enabled": "0"}


def quickstart(folder: Path, *, data: Path | None = None, device: str | None = None) -> None:
    """Train, predict, evaluate and compare inside ``folder``, with progress on stdout.

    Args:
        folder: new, empty, or left by an earlier quickstart of the same data, which goes on.
        data: a ``DatasetXXX_NAME`` folder in nnU-Net's raw format, which is only read; None makes
            a synthetic data set. The test scans are evaluated if they have labels, otherwise the
            validation cases of fold 0.
        device: ``cpu``, ``cuda`` or ``mps``; None: ``cuda`` if available, else ``cpu``.

    Raises:
        InputError: ``folder`` holds something else, ``data`` is not nnU-Net raw data, or a
            command failed; the message then names its log file.
    """
    dataset = SYNTHETIC_DATASET if data is None else data.name
    if data is not None:
        _check(data, folder)
    name = "synthetic" if data is None else "data"
    configuration = 'configuration = "2d"\n' if data is not None and is_2d(data) else ""
    text = PLAN.format(
        name=name,
        dataset=dataset,
        configuration=configuration,
        length=_LENGTH,
        recommended=RECOMMENDED,
    )
    plan, raw = folder / "plan.toml", folder / "nnUNet_raw" / dataset
    if data is not None and raw.is_symlink() and os.path.realpath(raw) != os.path.realpath(data):
        raise InputError(
            f"{folder}: expected the folder of an earlier run on {data}, found that of one on "
            f"{os.path.realpath(raw)}; give another folder with -o"
        )
    _begin(folder, plan, text)
    if not raw.exists():
        synthetic.make_dataset(raw) if data is None else link(data, raw)
    print(
        f"nnU-Net's default loss and MEEP-H with a lambda that the training finds, on "
        f"{data or 'a small synthetic data set'}.\n{CAVEAT}\n"
        f"It trains both, predicts, evaluates, compares and writes a report: two to three minutes "
        f"on two\nidle cores for the synthetic data, hours for scans of clinical size on a CPU. "
        f"Your own nnU-Net\nfolders are not used.\n",
        flush=True,
    )
    run(Options(plan, work=folder, device=device, jobs=2, environment=ENVIRONMENT))
    print(
        f"\n{CAVEAT}\nNext, on your own data: meep-benchmark init DATASET, or "
        f"nnUNetv2_train DATASET 3d_fullres 0 -tr {RECOMMENDED}"
    )


def _check(data: Path, folder: Path) -> None:
    """Refuse what is not nnU-Net raw data, before anything is written."""
    if not data.is_dir():
        raise InputError(f"{data}: expected a folder with nnU-Net raw data, found none")
    if not DATASET.fullmatch(data.name):
        raise InputError(f"{data}: expected nnU-Net raw data, a folder named {DATASET_NAME}")
    inside, outside = (Path(os.path.realpath(path)) for path in (data, folder))
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise InputError(f"{folder}: the working folder and the data {data} must not overlap")
    labelled_cases(data)
    given_test_scans(data)


def _begin(folder: Path, plan: Path, text: str) -> None:
    """Write the plan, unless it is there from an earlier quickstart; refuse any other folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder or nothing, found a file")
    if plan.is_file() and plan.read_text(encoding="utf-8", errors="replace") == text:
        print(f"{folder} is from an earlier run, which goes on; delete it to begin anew.\n")
        return
    found = folder.iterdir() if folder.exists() else ()
    if others := sorted(path for path in found if not is_temporary(path)):
        raise InputError(
            f"{folder}: found {others[0].name}, which is not from a meep-quickstart of these data; "
            f"give another folder with -o"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_file(plan) as temporary:
        temporary.write_text(text, encoding="utf-8")
