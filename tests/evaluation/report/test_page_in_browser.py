"""``report.html`` in a headless Chromium: what happens where somebody clicks, on any width."""

from __future__ import annotations

import base64
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import PredictionFolder, softmax_case

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report import page, scans
from nnunet_meep.evaluation.report.comparison_report import write_comparison_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A comparison of two models on seven cases; class 2 is missing in most of them."""
    root = tmp_path_factory.mktemp("report")
    evaluations = {}
    for i, name in enumerate(("first model", "second")):
        folder = PredictionFolder(root / name, {"background": 0, "Anterior": 1, "Posterior": 2})
        rng = np.random.default_rng(i)
        for k in range(7):
            p, reference = softmax_case(rng, (5, 6, 7))
            folder.add(f"case_{k}", p, np.where(reference == 2, 2 * (k < 2), reference))
        evaluations[name] = evaluate(folder.gt, folder.pred, lesions=0)
    comparison = compare(
        {**evaluations, "second": [evaluations["second"]] * 2},
        notes=[("second", f"/a{'_long' * 30}_path/calibration.json: as stored")],
    )
    images = root / "images"
    images.mkdir()
    for case in comparison.cases:
        image = sitk.GetImageFromArray(rng.random((5, 6, 7)).astype(np.float32))
        sitk.WriteImage(image, images / f"{case}_0000.nii.gz")
    curves = {"second": [{"name": "seed 1", "values": {"loss": [1.0, 0.5, 0.25]}}]}
    write_comparison_report(comparison, root / "out", images=images, n_worst=2, curves=curves)
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Shown:
    """The page as it was opened, and what can be done with it."""

    def __init__(self, browser, report, width=1280):
        self.browser = browser
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(report.as_uri())

    def run(self, script):
        return self.browser.execute_script(f"return {script}")

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def choose(self, selector, text):
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_visible_text(text)


@pytest.fixture
def shown(browser, report):
    return Shown(browser, report)


def test_it_opens_without_errors_and_loads_nothing_else(shown) -> None:
    assert shown.browser.get_log("browser") == []
    loaded = shown.run("performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert shown.run("[...document.images].every((image) => image.naturalWidth > 100)")


def test_a_heading_sorts_by_number_up_and_down_with_the_undefined_last(shown) -> None:
    shown.choose("#pick-class", "Posterior (label 2)")
    shown.choose("#pick-metric", "HD mm")
    heading = "#all-cases thead th:nth-child(2) button"
    column = "#all-cases tbody td:nth-child(2)"
    for direction in ("ascending", "descending"):
        shown.one(heading).click()
        assert shown.one("#all-cases thead th:nth-child(2)").get_attribute("aria-sort") == direction
        values = shown.texts(column)
        n = sum(value != "-" for value in values)
        assert 0 < n < 7
        numbers = [float(value) for value in values[:n]]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert values[n:] == ["-"] * (7 - n)


def test_the_tables_of_results_sort_too(shown) -> None:
    table = "table[aria-labelledby='results-1']"
    assert shown.texts(f"{table} tbody th") == ["first model", "second"]
    for expected in (["first model", "second"], ["second", "first model"]):
        shown.one(f"{table} thead th:first-child button").click()
        assert shown.texts(f"{table} tbody th") == expected


def test_a_number_opens_what_is_behind_it(shown) -> None:
    number = shown.one("button.number[data-key='1'][data-metric='ece'][data-model='second']")
    number.click()
    dialog = shown.one("dialog[open]")
    assert "ECE e-3: second, Anterior (label 1)" in dialog.text
    assert "Expected calibration error" in dialog.text
    assert "95 % interval of the mean (BCa bootstrap over cases)" in dialog.text
    assert "whole images" in dialog.text
    assert "second/pred" in dialog.text
    assert "nll_clip" not in dialog.text  # settings have their own section
    shown.one("dialog .close").click()
    assert shown.all("dialog[open]") == []


@pytest.mark.parametrize(
    ("ends", "text"),
    [("[null, null]", "-"), ("[0, 0]", "0.00 to 0.00"), ("[0.01, 0.02]", "10.00 to 20.00")],
)
def test_an_interval_has_two_ends_and_none_is_one_dash(shown, ends, text) -> None:
    shown.run(f"data.summary['second']['1'].ece.ci95 = {ends}")
    shown.run("explain('second', '1', 'ece')")
    (row,) = [row for row in shown.texts("dialog tr") if row.startswith("95 % interval")]
    assert row == f"95 % interval of the mean (BCa bootstrap over cases) {text}"
    shown.one("dialog .close").click()


def test_the_verdict_is_seen_without_scrolling(shown) -> None:
    in_short, once = shown.texts("ul.verdict > li")
    assert in_short.startswith("Whether second differs from first model in Dice, ECE")
    assert "were trained" in once or "was trained" in once
    verdict = shown.one("ul.verdict").rect
    assert verdict["y"] + verdict["height"] < 900
    assert not shown.all("details.verdict")  # no metric in the tables is better or worse


def test_a_question_mark_says_what_a_metric_is(shown) -> None:
    shown.one("a.what[href='#def-brier_plus']").click()
    assert "which background cannot swamp" in shown.one("dialog[open]").text
    shown.run("document.getElementById('dialog').close()")
    shown.one("a.what[href='#def-curve-loss']").click()
    assert "without the term" in shown.one("dialog[open]").text
    shown.run("document.getElementById('dialog').close()")


def test_a_bin_is_read_with_the_pointer_and_with_the_arrow_keys(shown) -> None:
    from selenium.webdriver import ActionChains, Keys

    picture = shown.one("#reliability-panels svg[data-key='1']")
    # The middle of the picture's square, x in its own units: 56 + 340 / 2 of 410 across.
    across = (56 + 170) / 410 - 0.5
    width = picture.rect["width"]
    shown.run("document.getElementById('reliability').scrollIntoView()")
    ActionChains(shown.browser).move_to_element_with_offset(picture, across * width, 0).perform()
    bins = shown.run("data.bins['1']['second']")

    def is_read(i):
        low, high = bins["low"][i], bins["high"][i]
        in_words = f"bin {bins['edges'][i]:.3f} to {bins['edges'][i + 1]:.3f}"
        assert shown.texts("#readout caption") == [in_words]
        assert shown.texts("#readout tbody tr:last-child > *") == [
            "second",
            f"{bins['mean_p'][i]:.4f}",
            f"{bins['mean_y'][i]:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{bins['count'][i]:,.0f} ({100 * bins['count'][i] / sum(bins['count']):.3g} %)",
        ]
        assert picture.get_attribute("aria-valuenow") == str(i + 1)

    is_read(7)
    picture.send_keys(Keys.ARROW_LEFT)
    is_read(6)
    picture.send_keys(Keys.HOME)
    picture.send_keys(Keys.ARROW_LEFT)
    is_read(0)


def test_the_highest_bin_with_voxels_is_read_first(shown) -> None:
    assert shown.texts("#readout caption") == ["bin 0.933 to 1.000"]
    shown.run("data.models.forEach((model) => data.bins['1'][model].count.fill(0, 7))")
    shown.run("(readAt = undefined, readBin())")
    assert shown.texts("#readout caption") == ["bin 0.400 to 0.467"]


def test_classes_are_chosen_and_models_switched_off(shown) -> None:
    def visible(selector):
        return [e for e in shown.all(selector) if e.is_displayed()]

    select = ".pick-panel[data-target='reliability-panels']"
    shown.choose(select, "All classes (top label)")
    (figure,) = visible("#reliability-panels figure")
    assert figure.get_attribute("data-key") == "top_label"
    assert shown.texts("#readout tbody th") == ["first model", "second"]
    shown.one("input[data-model='0']").click()
    groups = visible("#reliability-panels figure[data-key='top_label'] g[data-model]")
    assert [g.get_attribute("data-model") for g in groups] == ["1"]
    assert shown.texts("#readout tbody th") == ["second"]
    shown.one("input[data-model='1']").click()
    assert shown.texts("#readout tbody th") == []


def test_cases_are_found_by_rank_and_by_name_with_numbers_and_pictures(shown) -> None:
    ranked = shown.run("data.ranked")
    pictured = {e.get_attribute("data-case") for e in shown.all(".case-pictures")}
    assert {ranked["dice"][0], ranked["dice"][1]} <= pictured
    for order, metric in (("lowest Dice first", "dice"), ("highest ECE first", "ece")):
        shown.choose("#pick-order", order)
        assert [text.split()[1] for text in shown.texts("#pick-case option")] == ranked[metric]
        for rank, i in (("worst", 0), ("median", 3), ("best", 6)):
            shown.one(f"button[data-rank='{rank}']").click()
            assert shown.one("#one-case h3").text == ranked[metric][i]
            (visible,) = [e for e in shown.all(".case-pictures") if e.is_displayed()]
            assert visible.get_attribute("data-case") == ranked[metric][i]
            assert shown.texts("tr.chosen button.case") == [ranked[metric][i]]
    shown.choose("#pick-order", "by name")
    first = shown.texts("#scans button.case")[0]
    shown.run("document.querySelector('#scans button.case').click()")
    assert shown.one("#one-case h3").text == first
    wrong_lesion = "#lesions tbody button.case"
    name = shown.run(f"document.querySelector('{wrong_lesion}').textContent")
    shown.run(f"document.querySelector('{wrong_lesion}').click()")
    assert shown.one("#one-case h3").text == name
    shown.run("document.querySelectorAll('#all-cases button.case')[3].click()")
    assert shown.one("#one-case h3").text == "case_3"
    index = shown.run("data.cases.indexOf('case_3')")
    expected = shown.run(f"data.values['second']['1'].ece[{index}]")
    assert f"{1e3 * expected:.2f}" in shown.one("#one-case").text
    without = next(c for c in shown.run("data.cases") if c not in pictured)
    shown.choose("#pick-case", without)
    assert not [e for e in shown.all(".case-pictures") if e.is_displayed()]
    assert "no pictures of this case" in shown.one("#one-case").text


def test_very_many_cases_are_written_when_somebody_asks(browser, tmp_path, monkeypatch) -> None:
    for module in (page, scans):
        monkeypatch.setattr(module, "MANY_CASES", 3)
    folder = PredictionFolder(tmp_path / "m", {"background": 0, "Anterior": 1})
    for i in range(4):
        folder.add(f"case_{i}", *softmax_case(np.random.default_rng(i), (5, 6, 7), 2))
    comparison = compare({"m": evaluate(folder.gt, folder.pred, surface=False)})
    write_comparison_report(comparison, tmp_path / "out", n_worst=1)
    shown = Shown(browser, tmp_path / "out" / "report.html")
    assert shown.browser.get_log("browser") == []
    assert shown.all("#all-cases tr") == []
    worst = shown.one("#one-case h3").text
    shown.one("#cases details summary").click()
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(shown.browser, 10).until(lambda _: shown.all("#all-cases tbody tr"))
    assert shown.texts("#all-cases tbody button") == [f"case_{i}" for i in range(4)]
    assert shown.texts("tr.chosen button.case") == [worst]
    (points,) = shown.all("#scans svg path.many")
    assert points.get_attribute("d").count("M") == 4
    assert "Point at one" not in shown.one("#scans").text
    assert len(shown.all("#scans button.case")) == 3


def test_planes_are_chosen_and_outlines_switched_off(shown) -> None:
    for plane in ("axial", "coronal", "sagittal"):
        shown.choose("#pick-plane", plane)
        (figure,) = [f for f in shown.all(".case-pictures figure") if f.is_displayed()]
        assert f", {plane} slice " in figure.text
        assert len(figure.find_elements("css selector", "image")) == 2 + 2 * 3
    for name in ("reference", "prediction"):
        outlines = f"[...document.querySelectorAll('.outline.{name}:not(.under)')]"
        displays = f"{outlines}.map((e) => getComputedStyle(e).display)"
        assert set(shown.run(displays)) == {"inline"}
        shown.one(f"input[data-outline='{name}']").click()
        assert set(shown.run(displays)) == {"none"}


def test_trainings_and_curves_are_seen_at_once(shown) -> None:
    dots = [e for e in shown.all("#trainings .dot") if e.is_displayed()]
    plots = [e for e in shown.all("#trainings figure svg") if e.is_displayed()]
    assert len(dots) == 3 * len(plots) > 0
    (curve,) = shown.all("#curves figure .line")
    assert curve.is_displayed()


@pytest.mark.parametrize("width", [320, 390, 800])
def test_nothing_but_wide_tables_needs_scrolling_sideways(browser, report, width) -> None:
    shown = Shown(browser, report, width)
    assert shown.run("document.documentElement.scrollWidth") <= width
    rights = shown.run(
        "[...document.querySelectorAll('.grid img, svg, select')]"
        ".map((e) => e.getBoundingClientRect().right)"
    )
    assert max(rights) <= width


def test_on_a_telephone_each_row_says_its_model_value_difference_and_p(browser, report) -> None:
    shown = Shown(browser, report, 390)
    shown.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    rows = [r for r in shown.all("#differences tbody tr") if r.is_displayed()]
    assert len(rows) > 10
    for row in rows[:3]:
        name, *values = row.find_elements("css selector", "th, td:not(:empty)")
        assert name.text == "second"
        labels = [value.get_attribute("data-label") for value in values]
        assert {"mean", "difference", "p"} <= set(labels)
    cells = shown.run(
        "[...document.querySelectorAll('.cards tr > *')]"
        ".map((e) => e.getBoundingClientRect()).map((box) => [box.left, box.right])"
    )
    assert len(cells) > 200
    assert all(0 <= left <= right <= 390 for left, right in cells)
    # A number that does not fit would stick out of its cell and be cut.
    stick_out = ".filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.dataset.label)"
    assert shown.run(f"[...document.querySelectorAll('.cards td')]{stick_out}") == []


def test_without_scripts_the_numbers_are_there(browser, report) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown = Shown(browser, report)
        assert "calibration.json" in shown.one(".no-script").text
        figures = shown.all(".case-pictures figure, #reliability-panels figure")
        assert len(figures) > 3 * 3
        assert all(figure.is_displayed() for figure in figures)
        assert len(shown.all("#results td button.number")) > 20
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_in_print_all_cases_and_classes_are_there_and_nothing_to_click(shown) -> None:
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        cases = shown.all(".case-pictures")
        assert len(cases) > 3
        assert all(e.is_displayed() for e in (*cases, *shown.all("#reliability-panels figure")))
        for selector in ("nav", ".pick", "a.what", ".on-screen"):
            assert not [e for e in shown.all(selector) if e.is_displayed()], selector
        printed = shown.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    finally:
        shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
