"""Format rows of text as tables for the terminal, Markdown or CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate


def text_table(rows: Sequence[Sequence[str]], n_left: int = 2) -> str:
    """A table for the terminal, with a line below the heading.

    Args:
        rows: the first one is the heading.
        n_left: number of columns that are aligned left; the others are aligned right.
    """
    head, *body = rows
    # Annotated because tabulate has types only where its stubs are installed.
    table: str = tabulate(
        body, head, "simple", disable_numparse=True, colalign=_sides(head, n_left)
    )
    return table


def markdown_table(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """The same in Markdown."""
    head, *body = [[text.replace("|", r"\|") for text in row] for row in rows]
    table: str = tabulate(body, head, "pipe", disable_numparse=True, colalign=_sides(head, n_left))
    return table


def _sides(head: Sequence[str], n_left: int) -> list[str]:
    return ["left" if i < n_left else "right" for i in range(len(head))]


def ranking_text(entry: Mapping[str, Any]) -> str:
    """A statistic of :func:`.case_ranking` with its interval, as far as there are any."""
    if math.isnan(entry["value"]):
        return "-"
    low, high = entry["ci95"]
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    return f"{entry['value']:.3f}{interval}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, numbers with all their digits and NaN as an empty cell."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_csv_cell(value) for value in row])


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, and as escapes what is none: names of files may be of other bytes."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _csv_cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)
