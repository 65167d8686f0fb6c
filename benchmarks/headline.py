"""The headline of comparisons as a Markdown table: means over cases, classes and trainings.

    python benchmarks/headline.py COMPARISON.json ...

Takes what ``meep-benchmark report`` writes for each comparison. In brackets the 95 % interval of
the difference to the first model of its comparison, over trainings and cases, if it is without 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nnunet_meep.evaluation.comparison import HEADLINE, Comparison, without_0
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report.tables import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path)
    paths = parser.parse_args().comparisons
    comparisons = [Comparison.from_dict(json.loads(path.read_bytes())) for path in paths]
    rows = [["trained with", "trainings", *(_heading(*where) for where in HEADLINE)]]
    for comparison in comparisons:
        for model in comparison.models:
            cells = [_cell(comparison, model, *where) for where in HEADLINE]
            rows.append([model, str(comparison.n_trainings[model]), *cells])
    print(markdown_table(rows))


def _heading(key: str, metric: str) -> str:
    return ("top-label " if key == "top_label" else "") + CATALOGUE[metric].heading


def _cell(comparison: Comparison, model: str, key: str, metric: str) -> str:
    entry = comparison.headline[model].get(key, {}).get(metric)
    if entry is None:
        return "-"
    heading = CATALOGUE[metric]
    text = heading.number(entry["mean"])
    if model == comparison.models[0]:
        return text
    ends = comparison.headline_differences[model][key][metric]["ci95_trainings"]
    if not without_0(ends):
        return text
    return f"{text} ({' to '.join(heading.number(end, '+') for end in ends)})"


if __name__ == "__main__":
    main()
