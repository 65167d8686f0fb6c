"""Thresholds and volume intervals in ``calibrator.json``."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nnunet_meep as nm
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.calibrated import fitted_cases


@pytest.fixture(scope="module")
def made():
    """Intervals after thresholds after a temperature, and probabilities."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (10, 60))
    p = np.float32([rng.dirichlet((1, 1, 1), 60).T ** 0.2 + 0.4 * np.eye(3)[:, of] for of in y])
    given = list(p / p.sum(axis=1, keepdims=True)), list(y)
    temperature = nm.fit_calibrator("temperature", *given)
    thresholds = nm.fit_thresholds(*given, fnr=0.3, after=temperature)
    return nm.fit_volume_intervals(*given, after=thresholds), given[0][0]


@pytest.fixture
def chain(made, tmp_path):
    """The file of the calibrator, the calibrator, and probabilities."""
    made[0].save(tmp_path / "chain.json")
    return tmp_path / "chain.json", *made


def test_a_chain_comes_back_from_its_file(chain):
    path, calibrator, p = chain
    again = nm.read_calibrator(path)
    assert again.to_dict() == calibrator.to_dict()
    assert [step.method for step in again.steps] == ["temperature", "threshold", "volume"]
    assert again.thresholds.fnr == 0.3
    assert again.intervals.coverage == 0.9
    temperature = again.steps[0]
    np.testing.assert_array_equal(again(p), temperature(p))
    assert np.abs(temperature(p) - p).max() > 0.05
    # Thresholds count, and not the largest probability: both segmentations differ.
    assert (again.segmentation(again(p)) != temperature.segmentation(again(p))).any()


def at(content, *names):
    for name in names:
        content = content[name]
    return content


@pytest.mark.parametrize(
    ("where", "name", "value", "problem"),
    [
        ((), "coverage", 1.0, "1.0 is no number between 0 and 1"),
        ((), "coverage", True, "True is no number"),
        (("classes", "1"), "half_width", -0.1, "-0.1 is no half width"),
        (("classes", "1"), "half_width", "wide", "'wide' is no half width"),
        ((), "classes", {"1": {"half_width": 0.1}}, "classes 1$"),
        ((), "classes", [], "no attribute 'items'"),
        (("after",), "goal", "best", "'best' is no goal"),
        (("after",), "fnr", 0, "0 is no number between"),
        (("after", "classes", "2"), "threshold", None, "None is no number between"),
        (("after", "after"), "method", "volume", "expected the parameters of volume"),
        (("after",), "labels", {"background": 0, "other": 1}, "expected the labels that the"),
        (("after",), "format", 1, "expected a calibrator in format 3, got format 1"),
        ((), "after", "t.json", "expected a calibrator of meep-calib-fit, got another file"),
        (("after", "fitted_on"), "cases", 3, "no cases that it was fitted to"),
    ],
)
def test_a_damaged_file_is_one_line(where, name, value, problem, chain):
    path, _, _ = chain
    content = json.loads(path.read_text())
    at(content, *where)[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"^{path}: .*{problem}") as error:
        nm.read_calibrator(path)
    assert "\n" not in str(error.value)


def test_what_calibrates_comes_first_and_each_once(chain):
    path, _, _ = chain
    content = json.loads(path.read_text())
    intervals = {k: v for k, v in content.items() if k != "after"}
    path.write_text(json.dumps({**content["after"]["after"], "after": intervals}))
    with pytest.raises(InputError, match="temperature after volume"):
        nm.read_calibrator(path)
    path.write_text(json.dumps({**intervals, "after": intervals}))
    with pytest.raises(InputError, match="volume after volume"):
        nm.read_calibrator(path)


def test_the_cases_of_all_steps_count_once():
    a, b, c = (
        {"case": name, "probabilities": f"p {name}", "reference": f"r {name}"} for name in "abc"
    )
    first = {"method": "platt", "fitted_on": {"cases": [a, b]}}
    content = {"method": "volume", "fitted_on": {"cases": [b, c]}, "after": first}
    assert fitted_cases(content) == (a, b, c)
