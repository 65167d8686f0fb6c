from pathlib import Path

import numpy as np
import pytest

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.labels import UnknownLabels, read_labels

PATH = Path("dataset.json")
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


def test_labels() -> None:
    labels = read_labels({"labels": {"background": 0, "b": 2, "a": 1, "ignore": 3}}, PATH)
    assert labels.keys == ("1", "2")
    assert labels.names == ("a", "b")
    assert labels.n_channels == 3
    assert [labels.channel(i) for i in range(2)] == [1, 2]
    assert labels.ignore_label == 3


def test_regions() -> None:
    labels = read_labels({"labels": REGIONS, "regions_class_order": [1, 2]}, PATH)
    assert labels.keys == ("(1, 2)", "2")
    assert labels.n_channels == 2
    assert labels.values == (0, 1, 2)
    # Codes 0, 1, 2 and nowhere.
    assert labels.y_of_code(labels.members(0)).tolist() == [0, 1, 1, 2]
    assert labels.y_of_code(labels.members(1)).tolist() == [0, 0, 1, 2]
    assert labels.predicted_label == (0, 1, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_codes_are_positions_among_the_labels_and_the_ignore_label_is_nowhere(dtype) -> None:
    gaps = {"background": 0, "all": [7, 100], "core": 100, "ignore": 101}
    labels = read_labels({"labels": gaps, "regions_class_order": [7, 100]}, PATH)
    codes = labels.encode(np.array([[0, 7], [100, 101]], dtype))
    assert codes.tolist() == [[0, 1], [2, labels.nowhere]]
    assert codes.dtype == np.uint8


def test_codes_of_labels_without_gaps_are_the_labels() -> None:
    labels = read_labels({"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, PATH)
    assert labels.encode(np.arange(4.0)[None]).tolist() == [[0, 1, 2, 3]]
    assert labels.nowhere == 3


@pytest.mark.parametrize("n", [255, 256, 300])
def test_many_labels_have_codes_of_their_own(n) -> None:
    names = {"background": 0, **{f"c{i}": i for i in range(1, n)}}
    labels = read_labels({"labels": names}, PATH)
    every = np.arange(n, dtype=np.float32)[None]
    assert np.array_equal(labels.encode(every), every)
    assert labels.nowhere == n


@pytest.mark.parametrize("value", [3, -1, 0.5, 255, 256, 65536, np.nan, np.inf])
@pytest.mark.parametrize("values", [[1, 2], [1, 9]])
def test_unknown_labels_are_named(values, value) -> None:
    names = {"background": 0, "all": values, "core": values[1]}
    labels = read_labels({"labels": names, "regions_class_order": values}, PATH)
    with pytest.raises(UnknownLabels) as error:
        labels.encode(np.array([[0, values[0]], [values[1], value]], np.float32))
    assert np.array_equal(error.value.args[0], [value], equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "b": 2, "a": 1, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
        (REGIONS, [1, 2]),
        ({"background": 0, "a": [1], "b": [2]}, None),
    ],
)
def test_agrees_with_nnunets_label_manager(labels, order) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    ours = read_labels({"labels": labels, "regions_class_order": order}, PATH)
    theirs = LabelManager(labels, order)
    assert ours.ignore_label == theirs.ignore_label
    assert ours.n_channels == theirs.num_segmentation_heads
    assert list(ours.classes) == (
        theirs.foreground_regions if theirs.has_regions else list(theirs.foreground_labels)
    )
    p = np.random.default_rng(0).random((ours.n_channels, 5, 6)).astype(np.float32)
    expected = theirs.convert_probabilities_to_segmentation(p)
    if order is None:
        winner = p.argmax(0)
    else:  # the last channel above one half, counted from 1
        winner = np.max([(q > 0.5) * (i + 1) for i, q in enumerate(p)], axis=0)
    assert np.array_equal(np.array(ours.predicted_label)[winner], expected)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({}, "labels"),
        ({"labels": {"a": 1}}, "background"),
        ({"labels": {"background": 0, "a": "1"}}, '"a"'),
        ({"labels": {"background": 0, "a": []}}, '"a"'),
        ({"labels": {"background": 0, "a": 2}}, "without gaps"),
        ({"labels": {"background": 0}}, "at least one"),
        ({"labels": {"background": 0, "a": 1, "ignore": 5}}, "highest label, 2"),
        ({"labels": REGIONS}, "regions_class_order"),
        ({"labels": REGIONS, "regions_class_order": [1]}, "2 labels"),
    ],
)
def test_what_nnunet_would_refuse_is_one_line(content, part) -> None:
    with pytest.raises(InputError, match=part) as error:
        read_labels(content, PATH)
    assert "\n" not in str(error.value)
