"""A triage as a table for the terminal and as CSV."""

from __future__ import annotations

import math
from pathlib import Path

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report.tables import text_table, write_csv
from nnunet_meep.evaluation.triage import METRICS, Triage

#: Name of the list in a folder of predictions.
TRIAGE = "triage.csv"


#: How the list begins.
_FIRST_COLUMNS = b"case,dice_expected,class,name"


def check_target(path: Path) -> None:
    """Check that a list can be written to ``path``; to be called before any work.

    Raises:
        InputError: it is a folder, or would replace a file that is no such list.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder (-o)")
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    found = b""
    if path.is_file():
        with path.open("rb") as file:
            found = file.read(len(_FIRST_COLUMNS))
    if found != _FIRST_COLUMNS:
        raise InputError(
            f"{path}: expected an earlier list to replace, found another file; give another name "
            f"(-o), or remove it first"
        )


def write_triage(triage: Triage, path: Path) -> None:
    """Write ``Triage.rows`` as CSV; an old file is replaced once the new one is complete.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing_file(path) as temporary:
        write_csv(temporary, triage.columns, triage.rows())


def triage_table(triage: Triage) -> str:
    """A row for each case, the one to review first at the top, with its least sure class."""
    rows = [["case", "class", *(CATALOGUE[metric].heading for metric in METRICS)]]
    for case in triage.cases:
        key = case.lowest
        of_class = case.classes[key]
        rows.append(
            [
                case.case,
                f"{key} {triage.classes[key]}",
                *(
                    "-" if math.isnan(of_class[m]) else CATALOGUE[m].number(of_class[m])
                    for m in METRICS
                ),
            ]
        )
    return text_table(rows)
