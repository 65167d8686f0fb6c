"""``report.html`` in a headless Chromium: what happens where somebody clicks, on any width."""

from __future__ import annotations

import base64
import shutil

import numpy as np
import pytest
from predictions import PredictionFolder, softmax_case

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report.comparison_report import N_WORST
from nnunet_meep.evaluation.report.write_report import write_report

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
        evaluations[name] = evaluate(folder.gt, folder.pred)
    write_report(compare(evaluations), root / "out")
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
    assert "bins 15" in dialog.text
    assert "second/pred" in dialog.text
    shown.one("dialog .close").click()
    assert shown.all("dialog[open]") == []


@pytest.mark.parametrize(
    ("ends", "text"),
    [("[null, null]", "-"), ("[0.01, 0.010001]", "10.00"), ("[0.01, 0.02]", "10.00 to 20.00")],
)
def test_an_interval_without_width_is_one_number_and_none_is_one_dash(shown, ends, text) -> None:
    shown.run(f"data.summary['second']['1'].ece.ci95 = {ends}")
    shown.run("explain('second', '1', 'ece')")
    (row,) = [row for row in shown.texts("dialog tr") if row.startswith("95 % interval")]
    assert row == f"95 % interval of the mean (BCa bootstrap over cases) {text}"
    shown.one("dialog .close").click()


def test_the_verdict_is_seen_without_scrolling(shown) -> None:
    (sentence,) = shown.texts(".verdict li")
    assert sentence.startswith("7 cases are too few to show a difference between first model")
    assert shown.one(".verdict").rect["y"] + shown.one(".verdict").rect["height"] < 900


def test_a_question_mark_says_what_a_metric_is(shown) -> None:
    shown.one("a.what[href='#def-brier_plus']").click()
    assert "which background cannot swamp" in shown.one("dialog[open]").text
    shown.run("document.getElementById('dialog').close()")


def test_the_case_picker_shows_numbers_and_slices_of_one_case(shown) -> None:
    options = {text.split(" ")[0]: text for text in shown.texts("#pick-case option")}
    with_picture = [case for case, text in options.items() if text.endswith("(with picture)")]
    assert len(options) == 7
    assert len(with_picture) == N_WORST
    for case in (with_picture[-1], next(c for c in options if c not in with_picture)):
        shown.choose("#pick-case", options[case])
        assert shown.one("#one-case h3").text == case
        visible = [f for f in shown.all("figure.slices") if f.is_displayed()]
        assert [f.get_attribute("data-case") for f in visible] == [case] * (case in with_picture)
        assert shown.texts("tr.chosen button.case") == [case]
    index = shown.run("data.cases.indexOf('case_3')")
    shown.run("document.querySelectorAll('button.case')[3].click()")
    assert shown.one("#one-case h3").text == "case_3"
    expected = shown.run(f"data.values['second']['1'].ece[{index}]")
    assert f"{1e3 * expected:.2f}" in shown.one("#one-case").text


@pytest.mark.parametrize("width", [320, 390, 800])
def test_on_a_narrow_screen_only_tables_scroll_sideways(browser, report, width) -> None:
    shown = Shown(browser, report, width)
    assert shown.run("document.documentElement.scrollWidth") <= width
    grids = shown.run(
        "[...document.querySelectorAll('.grid img')].map((i) => i.getBoundingClientRect().right)"
    )
    assert max(grids) <= width
    heights = shown.run(
        "[...document.querySelectorAll('#results tbody tr')].map((r) => r.offsetHeight)"
    )
    assert max(heights) < 120  # names are not broken into letters


def test_without_scripts_the_numbers_are_there(browser, report) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown = Shown(browser, report)
        assert "calibration.json" in shown.one(".no-script").text
        assert len([f for f in shown.all("figure.slices") if f.is_displayed()]) == 5
        assert len(shown.all("#results td button.number")) > 20
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_in_print_all_slices_are_there_and_nothing_to_click(shown) -> None:
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert len([f for f in shown.all("figure.slices") if f.is_displayed()]) == 5
        for selector in ("nav", ".pick", "a.what", ".on-screen"):
            assert not [e for e in shown.all(selector) if e.is_displayed()], selector
        printed = shown.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    finally:
        shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
