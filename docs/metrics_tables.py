"""Writes the tables of ``reference/metrics.md`` from the catalogue of metrics.

python docs/metrics_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, metrics_of
from nnunet_meep.evaluation.metrics.metric import Of

PAGE = Path(__file__).parent / "reference" / "metrics.md"
HEADINGS = {
    Of.CLASS: "of a class, or one of nnU-Net's regions, against the rest",
    Of.TOP_LABEL: "of the predicted label",
    Of.REGION: "of a region, cut at p > 1/2",
}


def table(of: Of) -> str:
    """Key, name and explanation of each metric, as Markdown."""
    rows = [f"| {HEADINGS[of]} | | |", "| --- | --- | --- |"]
    for key in metrics_of(of):
        metric = CATALOGUE[key]
        rows.append(f"| `{key}` | {metric.heading} | {metric.explanation} |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """The page with the tables between its two marks."""
    tables = "\n\n".join(map(table, HEADINGS))
    return re.sub(
        r"(<!-- tables -->\n).*(\n<!-- end of tables -->)",
        lambda m: f"{m[1]}{tables}{m[2]}",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
