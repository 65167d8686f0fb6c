"""The catalogue: each metric once, explained nowhere else."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from predictions import LABELS, softmax_case

import nnunet_meep
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE, TOP_LABEL_TABLE

PACKAGE = Path(nnunet_meep.__file__).parent


@pytest.mark.parametrize("labels", [LABELS, {"background": 0, "whole": [1, 2], "core": [2]}])
def test_every_metric_of_a_result_is_in_it_in_its_order(make_folder, labels) -> None:
    order = {} if labels is LABELS else {"regions_class_order": [1, 2]}
    folder = make_folder(labels, **order)
    p, reference = softmax_case(np.random.default_rng(0), (4, 5, 6))
    folder.add("a", p if labels is LABELS else p[1:], reference)
    evaluation = evaluate(folder.gt, [folder.pred], processes=1)
    result = json.loads(json.dumps(evaluation.to_dict()))
    entries = [*result["classes"].values(), *([result["top_label"]] if result["top_label"] else [])]
    found = {metric for entry in entries for metric in entry["per_case"]}
    if result["top_label"]:
        found.add("classwise_ece")
    assert found <= set(CATALOGUE)
    assert list(result["classes"]["1" if labels is LABELS else "(1, 2)"]["per_case"]) == [
        metric for metric in CATALOGUE if metric in evaluation.class_metrics
    ]


def test_names_are_different_and_definitions_are_sentences() -> None:
    assert len({metric.heading for metric in CATALOGUE.values()}) == len(CATALOGUE)
    assert all(
        not m.definition[0].islower() and m.definition[-1] in ".?" for m in CATALOGUE.values()
    )
    assert {*CLASS_TABLE, *TOP_LABEL_TABLE} <= set(CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE)
def test_its_function_is_there_and_gives_it(metric) -> None:
    module, _, name = f"nnunet_meep.{CATALOGUE[metric].function}".rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("metric", CATALOGUE)
def test_it_is_explained_nowhere_else(metric) -> None:
    """Not by the beginning of its definition, and not by a heading of one's own."""
    begin = CATALOGUE[metric].definition[:40]
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".j2", ".js") and path.name != "catalogue.py":
            assert begin not in path.read_text(encoding="utf-8")


def test_the_documentation_has_its_tables() -> None:
    """After a change: ``python docs/metrics_tables.py``."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    sys.path.insert(0, str(docs))
    try:
        made = importlib.import_module("metrics_tables")
    finally:
        sys.path.remove(str(docs))
    page = made.PAGE.read_text(encoding="utf-8")
    assert page == made.with_tables(page)
    assert all(f"`{key}`" in page for key in CATALOGUE)
