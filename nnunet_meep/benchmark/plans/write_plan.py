"""Write plans: one for a data set of the user, and those of the MEEP paper's Table 1."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from nnunet_meep.benchmark.plans.paper import Paper, table_1
from nnunet_meep.benchmark.plans.plan import THEN
from nnunet_meep.trainers.grammar import RECOMMENDED

#: What a plan for a data set trains beside nnU-Net's default.
TERMS = (RECOMMENDED, "nnUNetTrainerMEEP_KL_lambdaauto")
DEFAULT = "nnUNetTrainerDiceCE"


def plan_for(
    dataset: str, *, n_cases: int, n_test: int, left_out: Sequence[int], is_2d: bool, file: str
) -> str:
    """The text of a plan for a data set, ready to run.

    Args:
        dataset: ``DatasetXXX_NAME``.
        n_cases: number of training cases.
        n_test: number of test scans with labels.
        left_out: for each fold, how many of the training cases it neither trains nor validates on.
        is_2d: whether its images have two dimensions.
        file: the name of the plan's file, for the comments in it.
    """
    name = _short(dataset)
    folds = '"all five"' if len(left_out) == 5 else str(list(range(len(left_out))))
    if n_test:
        evaluated, folds = f"the {n_test} test scans (imagesTs, labelsTs)", "[0]"
    elif all(left_out):
        evaluated = "the cases that each fold neither trains nor validates on"
    else:
        evaluated = "the validation cases of each fold, as there are no test scans with labels"
    if n_test or all(left_out):
        methods, reference = '["temperature", "isotonic"]', f"{THEN}temperature"
        calibrated = "# Each training is also calibrated afterwards, on its validation cases."
    else:
        methods, reference = "[]", ""
        calibrated = (
            "# Calibration after the training is fitted to validation cases, and so needs test "
            "scans\n# with labels (imagesTs, labelsTs) to be evaluated on."
        )
    terms = "\n".join(f'    "{trainer}",' for trainer in TERMS)
    return f"""\
{_head(file)}
# {n_cases} training cases; evaluated: {evaluated}.
[data.{name}]
dataset = "{dataset}"
configuration = "{"2d" if is_2d else "3d_fullres"}"
folds = {folds}        # [0], [0, 1] ... or "all five"

# A smaller network for a machine without a GPU; it gets nnU-Net plans of its own name. Another one
# for the same data set, also in another plan, needs another name.
# [data.{name}.network]
# plans = "nnUNetPlansBenchmark"
# patch_size = {"[128, 128]" if is_2d else "[32, 64, 64]"}
# batch_size = 2
# features_per_stage = [8, 16, 32, 64]    # further stages as the last one

# nnU-Net's default loss, and the two terms with a lambda that the training finds.
# meep-trainers lists all names; with _250epochs behind it a training is a quarter as long (then
# change the name at reference below, too).
[[training]]
trainers = [
    "{DEFAULT}",
{terms}
]
seeds = [0, 1, 2]

{calibrated}
[calibrate]
methods = {methods}

[evaluate]
roi = ["image", "boundary:5"]        # whole images; within 5 mm of the surfaces

# All others are compared with this one: a name from above, as it stands there.
[[compare]]
reference = "{DEFAULT}{reference}"
"""


def paper_plan(paper: Paper, dataset: str, file: str) -> str:
    """The text of the plan of Table 1 on one of the paper's data sets: all thirteen rows."""
    rows = table_1(paper)
    listed = "\n".join(f"#   {row:<14} {model}" for row, model in rows.items())
    trainers = dict.fromkeys(model.split(THEN)[0] for model in rows.values())
    trained = "\n".join(f'    "{trainer}",' for trainer in trainers)
    return f"""\
{_head(file)}
# The thirteen rows of Table 1 of the MEEP paper on {paper.value},
# with the paper's lambdas and optimisation; patch, batch and network are those that nnU-Net plans.
#
{listed}
[data.{paper.name.lower()}]
dataset = "{dataset}"
folds = [0]        # the paper's training and validation scans

[[training]]
trainers = [
{trained}
]
seeds = [0, 1, 2]

[calibrate]
methods = ["platt", "isotonic"]        # the paper's PS and IR

[evaluate]
roi = ["image"]

{_compare(rows, "dice")}
{_compare(rows, "CE")}"""


def _compare(rows: dict[str, str], loss: str) -> str:
    models = [m for row, m in rows.items() if row.startswith(f"{loss} ") or row == "focal"]
    listed = "\n".join(f'    "{model}",' for model in models)
    return f"""\
[[compare]]
reference = "{rows[loss]}"
models = [
{listed}
]
"""


def _head(file: str) -> str:
    name = shlex.quote(file)
    return f"""\
# A benchmark. Run it, stop it whenever you like, and go on with the same command:
#
#   meep-benchmark run {name}
#   meep-benchmark status {name}
"""


def _short(dataset: str) -> str:
    """``Dataset501_LA`` as ``la``; only letters, digits, _ and -, which need no quotes in TOML."""
    name = re.sub("[^a-z0-9_-]+", "_", dataset.split("_", 1)[1].lower())
    return name.strip("_-") or "data"
