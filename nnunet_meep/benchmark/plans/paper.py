"""The rows of the MEEP paper's Table 1, as models of a plan."""

from __future__ import annotations

from enum import Enum

from nnunet_meep.benchmark.plans.plan import THEN


class Paper(Enum):
    """The paper's data sets."""

    LA = "the left atrium"
    WMH = "white matter hyperintensities"


#: The lambdas of the MEEP terms that the paper's grid search found: with Dice, with CE.
LAMBDA = {Paper.LA: {"Dice": "0p5", "CE": "0p1"}, Paper.WMH: {"Dice": "1", "CE": "0p3"}}
LAMBDA_CP = "0p2"
#: Adam, 200 epochs of 40 iterations; for WMH, patches centred on foreground 9 times out of 10.
OPTIONS = {Paper.LA: "_paper", Paper.WMH: "_paper_fg0p9"}


def table_1(paper: Paper) -> dict[str, str]:
    """The model of each of the thirteen rows, by the row's name in the table."""
    rows = {}
    for row, loss in (("dice", "Dice"), ("CE", "CE")):
        weight, options = LAMBDA[paper][loss], OPTIONS[paper]
        plain = f"nnUNetTrainer{loss}{options}"
        rows[row] = plain
        rows[f"{row} + PS"] = f"{plain}{THEN}platt"
        rows[f"{row} + IR"] = f"{plain}{THEN}isotonic"
        rows[f"{row} + CP"] = f"nnUNetTrainer{loss}CP_lambda{LAMBDA_CP}{options}"
        rows[f"{row} + MEEP-H"] = f"nnUNetTrainer{loss}MEEP_H_lambda{weight}{options}"
        rows[f"{row} + MEEP-KL"] = f"nnUNetTrainer{loss}MEEP_KL_lambda{weight}{options}"
    rows["focal"] = f"nnUNetTrainerFocal{OPTIONS[paper]}"
    return rows
