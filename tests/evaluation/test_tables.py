"""Tables whose names have characters that mean something in Markdown and LaTeX."""

from __future__ import annotations

import csv
import re

from predictions import files_of

from nnunet_meep.evaluation import tables
from nnunet_meep.evaluation.compare import Model, compare

NAME = r"a|b_c & 50% #1 {x} $y^2$ ~ \z"
ESCAPED = r"a|b\_c \& 50\% \#1 \{x\} \$y\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}z"


def result(shift):
    cases = [
        {"case": f"c{i}", "classes": {"1": {"dice": 0.5 + i / 100 + shift, "ece": 0.01 * i}}}
        for i in range(5)
    ]
    settings = {"bins": 15, "regions": ["image"]}
    files = files_of(case["case"] for case in cases)
    return {"settings": settings, "classes": {"1": {"name": NAME}}, "cases": cases, "files": files}


def compared():
    return compare([Model("plain", (result(0),)), Model(NAME, (result(0.1),))])


def test_markdown_has_as_many_cells_in_each_row() -> None:
    lines = tables.markdown(compared()).splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {3, 7}
    assert [row[0].strip() for row in rows[2:4]] == ["plain", NAME.replace("|", r"\|")]


def test_latex_shows_the_name_as_it_is_and_marks_nothing_where_all_are_equal() -> None:
    tex = tables.latex(compared())
    (line,) = [line for line in tex.splitlines() if line.startswith("a|")]
    assert line == rf"{ESCAPED} & \textbf{{0.620 (0.016)}} & 20.00 (15.81) \\"


def test_csv_keeps_it(tmp_path) -> None:
    tables.write(compared(), tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        models = {row["model"] for row in csv.DictReader(file)}
    assert models == {"plain", NAME}
