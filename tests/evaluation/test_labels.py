from pathlib import Path

import numpy as np
import pytest

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.labels import read_labels

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
    segmentation = np.array([0, 1, 2, 3])
    assert labels.mask(segmentation, 0).tolist() == [False, True, True, False]
    assert labels.mask(segmentation, 1).tolist() == [False, False, True, False]


def test_segmentation_of_regions_writes_later_regions_over_earlier_ones() -> None:
    labels = read_labels({"labels": REGIONS, "regions_class_order": [1, 2]}, PATH)
    p = np.array([[0.5, 0.6, 0.9, 0.1], [0.1, 0.5, 0.8, 0.7]])
    assert labels.segmentation(p).tolist() == [0, 1, 2, 2]


def test_segmentation_of_labels_is_the_first_of_equal_probabilities() -> None:
    labels = read_labels({"labels": {"background": 0, "a": 1, "b": 2}}, PATH)
    p = np.array([[0.4, 0.2, 0.5], [0.4, 0.4, 0.0], [0.2, 0.4, 0.5]])
    assert labels.segmentation(p).tolist() == [0, 1, 0]


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
    assert np.array_equal(ours.segmentation(p), expected)


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
