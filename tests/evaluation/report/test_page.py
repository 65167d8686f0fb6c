"""``report.html``: one file that needs nothing else, whose numbers are those of the comparison."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import escape
from predictions import softmax_case

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report import page
from nnunet_meep.evaluation.report.case_layers import case_pictures
from nnunet_meep.evaluation.report.comparison_pictures import comparison_pictures
from nnunet_meep.evaluation.report.slices import CaseSlice, ModelSlice
from nnunet_meep.evaluation.report.verdict import short_verdict, verdict_sentences

NASTY = """</script><b onclick="alert(1)">A & "B" 'C'</b>"""


class Page(HTMLParser):
    """Attributes of all elements, the text, and tables as rows of texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.tables: list[list[list[str]]] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._script = attributes.get("id", "code") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script:
            self.texts[self._script] = self.texts.get(self._script, "") + data
        elif self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from predictions import PredictionFolder

    labels = {"background": 0, NASTY: 1, "Posterior": 2}
    made = {}
    for i, name in enumerate(("default", NASTY)):
        folder = PredictionFolder(tmp_path_factory.mktemp(f"model{i}"), labels)
        rng = np.random.default_rng(i)
        for case in ("a", "b", "c"):
            folder.add(case, *softmax_case(rng, (5, 6, 7)))
        made[name] = evaluate(folder.gt, folder.pred)
    return made


def with_class_2(evaluation, **metrics):
    """The same evaluation with other metrics of class 2 in each case."""
    cases = list(evaluation.cases)
    for case in cases:
        case.rois["image"].classes["2"].update(metrics)
    return dataclasses.replace(evaluation, cases=cases)


def render(models, cases=(), warnings=(), curves=None, pages=None):
    comparison = compare(models)
    pictures = comparison_pictures(comparison)
    return page.render(comparison, pictures, cases, warnings, curves or {}, pages)


CURVES = {NASTY: [{"name": NASTY, "values": {NASTY: [1.0, 0.5, None]}, "costs": {NASTY: NASTY}}]}


@pytest.fixture(scope="module")
def pictures():
    """Of case b, in one plane, with a class and a model of a nasty name."""
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    p = np.full((4, 5), 0.5, np.float32)
    of_models = tuple(ModelSlice(name, p, mask, ~mask, p) for name in ("default", NASTY))
    image = np.arange(20.0).reshape(4, 5)
    return case_pictures(
        [
            CaseSlice(
                "b", NASTY, "axial slice 1 of 2", "axial", (1, 1), image, NASTY, mask, of_models
            )
        ]
    )


@pytest.fixture(scope="module")
def rendered(models, pictures):
    trainings = {**models, NASTY: [models[NASTY], models[NASTY]]}
    return render(trainings, [pictures], [f"note {NASTY}", *"1234"], CURVES)


def test_it_needs_no_other_file_and_no_network(rendered) -> None:
    found = Page(rendered)
    targets = [
        value or ""
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "srcset", "poster")
    ]
    assert len(targets) > 20
    assert [t for t in targets if not t.startswith(("data:", "#"))] == []
    outside = re.sub(r"data:[^\"]*", "", rendered)
    assert re.findall(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp", outside) == []
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {t[1:] for t in targets if t.startswith("#")} <= set(ids)


def test_other_pages_are_links(models) -> None:
    found = Page(render(models, pages={NASTY: "boundary_5/report.html"}))
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert [link for link in links if not link.startswith("#")] == ["boundary_5/report.html"]


def test_names_are_text_and_nothing_else(rendered) -> None:
    found = Page(rendered)
    assert not [tag for tag, attributes in found.elements if tag == "b" or "onclick" in attributes]
    assert len([tag for tag, _ in found.elements if tag == "script"]) == 3
    assert json.loads(found.texts["data"])["models"] == ["default", NASTY]
    numbers = [attributes for tag, attributes in found.elements if tag == "button"]
    assert NASTY in {attributes.get("data-model") for attributes in numbers}
    assert any(NASTY in row[0] for table in found.tables for row in table)


def test_tables_and_data_have_the_numbers_of_the_comparison(rendered, models) -> None:
    comparison, found = compare(models), Page(rendered)
    mean = comparison.summary["default"]["1"]["ece"]["mean"]
    of_class = found.tables[0]
    column = next(i for i, text in enumerate(of_class[0]) if text.startswith("ECE e-3"))
    assert of_class[1][0] == "default"
    assert of_class[1][column].startswith(f"{1e3 * mean:.2f} (")
    data = json.loads(found.texts["data"])
    assert data["summary"]["default"]["1"]["ece"]["mean"] == mean
    for model in models:
        for key in ("1", "2", "top_label"):
            for metric, values in data["values"][model][key].items():
                expected = comparison.values(model, key, metric)
                got = np.array(values, float)
                assert got == pytest.approx(expected, rel=1e-5, nan_ok=True), metric
    every = {row[0].rstrip("?") for table in found.tables for row in table}
    assert {CATALOGUE[m].heading for m in comparison.summary["default"]["1"]} <= every


def test_a_case_has_its_layers_and_outlines_that_are_drawn_once(rendered, pictures) -> None:
    found = Page(rendered)
    (plane,) = pictures.planes
    shown = [a["href"] for tag, a in found.elements if tag == "image"]
    of_models = [m[name] for m in plane["models"] for name in ("probability", "errors", "entropy")]
    assert shown == [plane["image"], plane["reference"], *of_models]
    outlines = [a for tag, a in found.elements if tag == "path" and "outline" in a.get("id", "")]
    assert [a["d"] for a in outlines] == [plane["outline"]] * 3
    used = [a for tag, a in found.elements if tag == "use"]
    # On the image those of the reference and both models, on maps two, on errors one; each twice.
    assert len(used) == 2 * (3 + 4 * 2 + 2)
    assert {a["href"][1:] for a in used} == {a["id"] for a in outlines}


def test_the_sections_stand_in_this_order(rendered) -> None:
    ids = [a["id"] for tag, a in Page(rendered).elements if tag == "section"]
    assert ids == [
        *("reliability", "results", "differences", "pictures", "scans", "cases"),
        *("trainings", "curves", "left-out", "settings", "definitions"),
    ]


def test_of_many_warnings_three_are_seen_above_and_all_are_listed_below(rendered) -> None:
    above, _, below = rendered.partition('<section id="left-out">')
    assert above.count("note &lt;/script&gt;") == below.count("note &lt;/script&gt;") == 1
    seen, folded, more = above.partition("<summary>2 more of 5 warnings</summary>")
    assert folded
    assert all(f"<p>{line}</p>" in seen for line in "12")
    assert all(f"<p>{line}</p>" in more for line in "34")
    assert all(f"<li>{line}</li>" in below for line in "1234")


def test_the_picture_of_reliability_has_a_point_for_each_bin_with_voxels(rendered, models) -> None:
    data = json.loads(Page(rendered).texts["data"])
    bins = data["bins"]["1"]["default"]
    comparison = compare(models)
    cases = [case.rois["image"].bins["1"] for case in models["default"].cases]
    assert bins["count"] == [sum(n) for n in zip(*(b["count"] for b in cases), strict=True)]
    assert all(low <= high for low, high in zip(bins["low"], bins["high"], strict=True) if high)
    picture = rendered[rendered.index('<figure data-key="1">') :]
    picture = picture[: picture.index("</figure>")]
    n = sum(n > 0 for m in comparison.models for n in data["bins"]["1"][m]["count"])
    assert picture.count('<path class="fill" transform=') == n > 20


def test_what_has_no_number_is_sorted_last(models) -> None:
    comparison = compare(models, cases=["a"])  # no interval over a single one
    text = page.render(comparison, comparison_pictures(comparison), (), (), {})
    sorted_by = re.findall(r'<td [^>]*data-v="([^"]*)"[^>]*>-</td>', text)
    assert len(sorted_by) > 20
    assert set(sorted_by) == {""}


def test_a_model_that_does_not_segment_a_class_is_named_in_its_tables(models) -> None:
    collapsed = with_class_2(models[NASTY], dice=0.0, ece=0.0)
    text = render({"default": models["default"], "collapsed": collapsed})
    results = [table for table in Page(text).tables if table and "ECE e-3?" in table[0]]
    names = [[row[0] for row in table[1:]] for table in results]
    assert names == [
        ["default", "collapsed"],
        ["default", "collapsednot segmented"],
        ["default", "collapsednot all classes segmented"],
    ]
    assert 'data-v="collapsed"' in text  # by which it is sorted
    best = re.search(r'class="best"><button[^>]*"default" data-key="2" data-metric="ece"', text)
    assert best


def test_the_verdict_and_below_it_the_warnings_stand_before_the_first_table(
    rendered, models
) -> None:
    comparison = compare({**models, NASTY: [models[NASTY], models[NASTY]]})
    sentences = short_verdict(comparison)
    assert len(sentences) == 2
    above = rendered[rendered.index("<body>") : rendered.index("<table")]
    places = [above.index(str(escape(line))) for line in (*sentences, f"note {NASTY}")]
    assert places == sorted(places)


def test_the_verdict_on_every_metric_is_there_if_any_is_better_or_worse(
    models, monkeypatch
) -> None:
    assert "in words</summary>" not in render(models)  # three cases show nothing
    comparison = compare(models)
    monkeypatch.setattr(type(comparison), "verdict", lambda *_: "better")
    text = page.render(comparison, comparison_pictures(comparison), (), (), {})
    folded = text[text.index("in words</summary>") :]
    assert str(escape(verdict_sentences(comparison)[0])) in folded


def test_what_is_not_segmented_is_a_warning_too(models) -> None:
    collapsed = with_class_2(models[NASTY], dice=0.0)
    text = render({"default": models["default"], "collapsed": collapsed})
    line = "collapsed does not segment 2 Posterior: Dice is 0 wherever the reference has it."
    above, _, below = text.partition('<section id="left-out">')
    assert f"<li>{line}</li>" in above
    assert f"<li>{line}</li>" in below
    assert "There are no warnings" not in text


def test_one_model_without_pictures(models) -> None:
    text = render({"default": models["default"]})
    assert "Differences" not in text
    assert "Calibration of default<" in text
    assert "best mean in bold" not in text
    assert 'id="trainings"' not in text
    assert 'id="curves"' not in text
    assert "There are no warnings" in text
    assert "Pictures are of 0 of 3 cases." in text


def test_each_row_of_differences_names_its_model_and_the_mean(rendered, models) -> None:
    found = Page(rendered)
    (table,) = [t for t in found.tables if t and t[0][:4] == ["model", "class", "metric", "mean"]]
    mean = compare(models).summary[NASTY]["1"]["dice"]["mean"]
    assert table[1][:4] == [NASTY, f"1 {NASTY}", "Dice", f"{mean:.3f}"]
    labels = {a.get("data-label") for tag, a in found.elements if tag == "td"}
    assert {"mean", "difference", "95 % interval", "Dice"} <= labels  # what a card of a row shows
    ratio = compare(models).summary[NASTY]["top_label"]["error_rate_ratio"]["distance"]
    (row,) = [row for row in table if row[2] == "expected / actual, distance to 1"]
    assert row[3] == f"{ratio:.2f}"
