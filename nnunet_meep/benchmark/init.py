"""Write a plan for a data set."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_meep.atomic import replacing_file
from nnunet_meep.benchmark.plans.paper import Paper
from nnunet_meep.benchmark.plans.plan import DATASET, DATASET_NAME
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.plans.write_plan import paper_plan, plan_for
from nnunet_meep.benchmark.running.data_sets import (
    given_test_scans,
    is_2d,
    labelled_cases,
)
from nnunet_meep.benchmark.running.folds import cases_left_out
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import not_set


def init(
    dataset: str,
    file: Path,
    *,
    paper: str | None = None,
) -> None:
    """Write a plan; print what it trains.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``.
        file: the plan; must not exist yet.
        paper: ``LA`` or ``WMH`` for the plan of the MEEP paper's Table 1.

    Raises:
        InputError: there is no such data set, its ``splits_final.json`` is none, or the file
            exists.
    """
    if file.exists():
        raise InputError(f"{file}: expected no file yet, found one; give another name with -o")
    if file.suffix != ".toml" or not file.name.isprintable():
        raise InputError(f"{file}: expected a name on one line that ends with .toml (-o)")
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: expected a folder for the plan, found none (-o)")
    raw = _find(dataset)
    if not DATASET.fullmatch(raw.name):
        raise InputError(f"{raw}: expected {DATASET_NAME}, so that a plan can name it; rename it")
    n_cases, n_test = len(labelled_cases(raw)), len(given_test_scans(raw))
    if paper is not None:
        text = paper_plan(Paper[paper], raw.name, file.name)
    else:
        text = plan_for(
            raw.name,
            n_cases=n_cases,
            n_test=n_test,
            left_out=cases_left_out(raw),
            is_2d=is_2d(raw),
            file=file.name,
        )
    with replacing_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    plan = read_plan(file)
    n = len(list(plan.trainings()))
    print(f"Written: {file}, a plan of {n} trainings on {raw.name}.")
    print(
        f"Read it, change what you like, and run it: meep-benchmark run {file}\n"
        f"How long that takes is told by meep-benchmark time {file}: weeks without a GPU, unless "
        f"the plan\nhas a smaller network ([data.NAME.network]) and shorter trainings "
        f"(_50epochs)."
    )


def _find(dataset: str) -> Path:
    """The data set's folder in the user's ``nnUNet_raw``."""
    place = os.environ.get("nnUNet_raw")
    if not place:
        raise InputError(not_set("nnUNet_raw"))
    there = sorted(p.name for p in Path(place).glob("Dataset[0-9][0-9][0-9]_*") if p.is_dir())
    name = Path(dataset).name  # also with the slash of a completed folder name
    start = f"Dataset{int(dataset):03d}_" if re.fullmatch(r"\d{1,3}", dataset) else None
    found = [Path(place) / n for n in there if (n.startswith(start) if start else n == name)]
    if len(found) != 1:
        raise InputError(
            f"{dataset}: expected one data set in {place} with this number or name, found "
            f"{', '.join(p.name for p in found) or 'none'} (there: {', '.join(there) or 'none'})"
        )
    return found[0]
