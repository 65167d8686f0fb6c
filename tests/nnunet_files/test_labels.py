import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.labels import UnknownLabels, read_labels

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
    assert codes.tolist() == [[0, 1], [2, labels.ignored_code]]
    assert codes.dtype == np.uint8


def test_codes_of_labels_without_gaps_are_the_labels() -> None:
    labels = read_labels({"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, PATH)
    assert labels.encode(np.arange(4.0)[None]).tolist() == [[0, 1, 2, 3]]
    assert labels.ignored_code == 3


@pytest.mark.parametrize("n", [255, 256, 300])
def test_many_labels_have_codes_of_their_own(n) -> None:
    names = {"background": 0, **{f"c{i}": i for i in range(1, n)}}
    labels = read_labels({"labels": names}, PATH)
    every = np.arange(n, dtype=np.float32)[None]
    assert np.array_equal(labels.encode(every), every)
    assert labels.ignored_code == n


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


def dataset(*, order=None, **labels) -> dict:
    """The part of a ``dataset.json`` that is read."""
    return {"labels": {"background": 0, **labels}, "regions_class_order": order}


#: What nnU-Net's documentation and its conversions of public data sets write.
OF_NNUNET = {
    "BraTS": ({"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}, [1, 2, 3]),
    "BraTS as documented": ({"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
    "KiTS": ({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, [1, 3, 2]),
    "RibFrac": (
        {"fracture": [1, 2, 3, 4, 5], "displaced": 1, "other": 2, "buckle": 3, "segmental": 4},
        [5, 1, 2, 3, 4],
    ),
    "hippocampus": ({"hippocampus": [1, 2], "anterior": 1, "ignore": 3}, [2, 1]),
    "liver": ({"liver": [1, 2, 3], "vessels": 2, "tumors": 3}, [1, 2, 3]),
}


@pytest.mark.parametrize("name", OF_NNUNET)
def test_what_nnunet_documents_is_valid(name) -> None:
    regions, order = OF_NNUNET[name]
    labels = read_labels(dataset(order=order, **regions), PATH)
    assert labels.regions_class_order == tuple(order)


@pytest.mark.parametrize(
    ("labels", "order", "classes"),
    [
        # No label is left for the whole: a voxel in neither part becomes one of the first.
        ({"whole": [1, 2], "left": 1, "right": 2}, [1, 1, 2], ((1, 2), 1, 2)),
        # Nothing is nested.
        ({"a": [1, 4], "b": [2, 3]}, [4, 2], ((1, 4), (2, 3))),
        # Regions may have gaps.
        ({"whole": [7, 9], "core": [9]}, [7, 9], ((7, 9), (9,))),
        # Those of background alone are none for nnU-Net.
        ({"whole": [1, 2], "air": 0, "gas": [0], "core": 2}, [1, 2], ((1, 2), 2)),
    ],
)
def test_regions_that_can_be_read_back_are_valid(labels, order, classes) -> None:
    assert read_labels(dataset(order=order, **labels), PATH).classes == classes


def is_accepted(regions, order) -> bool:
    labels = {f"r{i}": list(r) for i, r in enumerate(regions)}
    try:
        read_labels(dataset(order=list(order), **labels), PATH)
    except InputError:
        return False
    return True


def dice_of_a_perfect_prediction(regions, order) -> list[float]:
    """Of each region, from the segmentation that nnU-Net writes for each label that there is."""
    truth = np.array([0, *sorted(set().union(*regions))])
    segmentation = np.zeros_like(truth)
    for members, label in zip(regions, order, strict=True):
        segmentation[np.isin(truth, members)] = label
    masks = [(np.isin(segmentation, r), np.isin(truth, r)) for r in regions]
    return [2 * np.sum(a & b) / np.sum(a.astype(int) + b) for a, b in masks]


@pytest.mark.parametrize("n_regions", [2, 3])
def test_orders_are_valid_where_a_perfect_prediction_has_a_dice_of_1(n_regions) -> None:
    """All systems of regions of three labels, with all orders."""
    every = [r for n in (1, 2, 3) for r in itertools.combinations((1, 2, 3), n)]
    n_accepted = 0
    for regions in itertools.permutations(every, n_regions):
        labels = sorted(set().union(*regions))
        if all(len(r) == 1 for r in regions):
            continue  # no regions but labels
        for order in itertools.product(labels, repeat=n_regions):
            perfect = dice_of_a_perfect_prediction(regions, order) == [1.0] * n_regions
            own = all(label in r for r, label in zip(regions, order, strict=True))
            assert is_accepted(regions, order) == (perfect and own), (regions, order)
            n_accepted += perfect and own
    assert n_accepted >= {2: 24, 3: 60}[n_regions]


@st.composite
def nested(draw) -> list[tuple[int, list[int]]]:
    """Of each region a label of its own and all its labels; outer ones come first."""
    n = draw(st.integers(2, 8))
    labels = draw(st.permutations(range(1, n + 1)))
    outer = [draw(st.integers(-1, i - 1)) for i in range(n)]  # which one it lies in, or none
    members = [{label} for label in labels]
    for i in reversed(range(n)):
        if outer[i] >= 0:
            members[outer[i]] |= members[i]
    return [(label, sorted(m)) for label, m in zip(labels, members, strict=True)]


@given(nested(), st.randoms(use_true_random=False))
def test_nested_regions_are_valid_outer_ones_first(regions, random) -> None:
    order = [label for label, _ in regions]
    members = [m for _, m in regions]
    assume(any(len(m) > 1 for m in members))  # else they are labels
    assert is_accepted(members, order)
    random.shuffle(regions)
    order, members = zip(*regions, strict=True)
    dice = dice_of_a_perfect_prediction(members, order)
    assert is_accepted(members, order) == (dice == [1.0] * len(dice))


NESTED = {"whole": [1, 2], "core": 2}
NO_LABEL = "expected a label or a list of labels (whole numbers >= 0) for"


@pytest.mark.parametrize(
    ("content", "mistakes"),
    [
        ({}, 'expected "labels" with "background": 0 as in nnU-Net\'s dataset.json, got null'),
        (
            {"labels": ["background"]},
            'expected "labels" with "background": 0 as in nnU-Net\'s dataset.json, '
            'got ["background"]',
        ),
        ({"labels": {"a": 1}}, 'expected "background": 0 in "labels", got null'),
        *(
            (
                {"labels": {"background": json.loads(value), "a": 1}},
                f'expected "background": 0 in "labels", got {value}',
            )
            for value in ("1", "false", "0.0", '"0"', "[0]", "null")
        ),
        *(
            (
                dataset(a=json.loads(value), b=2),
                f'{NO_LABEL} "a", got {value}',
            )
            for value in ("true", "1.0", '"1"', "null", "-1", "[]", "[[1]]", '["1"]', "{}")
        ),
        (
            dataset(whole=[1, "2"], core=2, order=[1, 2]),
            f'{NO_LABEL} "whole", got [1, "2"]',
        ),
        (
            dataset(**{"two\nlines": "1"}),
            'expected a name in one line of text, got "two\\nlines"; '
            f'{NO_LABEL} "two\\nlines", got "1"',
        ),
        # Names.
        (
            dataset(a=1, b=[1], c=2, d=2),
            'expected one name for 1, got "a" and "b"; expected one name for 2, got "c" and "d"',
        ),
        (
            dataset(a=1, air=0),
            'expected one name for 0, got "background" and "air"',
        ),
        (
            dataset(a=[1, 2], b=[2, 1], order=[1, 2]),
            'expected one name for [1, 2], got "a" and "b"',
        ),
        (
            dataset(a=[1, 2, 1], b=2, order=[1, 2]),
            'expected each label once in "a", got [1, 2, 1]',
        ),
        # Values.
        (dataset(), "expected at least one label beside the background, got none"),
        (
            dataset(a=2, ignore=3),
            "expected labels 0, 1, 2, ... without gaps, got [0, 2]",
        ),
        (
            dataset(a=[1, 65535], b=65535, order=[1, 65535]),
            "expected labels below 65535 (nnU-Net writes segmentations in 16 bits), got 65535",
        ),
        # The ignore label.
        *(
            (
                dataset(a=1, ignore=value),
                f'expected the highest label, 2, for "ignore", got {value}',
            )
            for value in (5, 1, 0, -1)
        ),
        *(
            (
                dataset(a=1, ignore=json.loads(value)),
                f'expected one label (a whole number) for "ignore", got {value}',
            )
            for value in ("[2]", "2.0", '"2"', "null", "true")
        ),
        # The order of regions.
        *(
            (
                dataset(**NESTED, order=json.loads(order)),
                'expected "regions_class_order" with 2 labels, one for each region, '
                f"got {order}",
            )
            for order in ("null", "[1]", "[1, 2, 1]", "{}", '"12"')
        ),
        (
            {"labels": {"background": 0, **NESTED}},
            'expected "regions_class_order" with 2 labels, one for each region, got null',
        ),
        *(
            (
                dataset(**NESTED, order=json.loads(order)),
                "expected labels beside the background, of [1, 2], in "
                f'"regions_class_order", got {wrong}',
            )
            for order, wrong in (
                ('["1", "2"]', '"1", "2"'),
                ("[1, 9]", "9"),
                ("[0, 2]", "0"),
                ("[null, null]", "null, null"),
                ("[true, 2]", "true"),
                ("[1, 2.0]", "2.0"),
                ("[1, -2]", "-2"),
                ("[1, [2]]", "[2]"),
            )
        ),
        (
            dataset(**NESTED, order=[2, 1]),
            'expected a label of "core", [2], in its place in "regions_class_order", got 1',
        ),
        (
            dataset(**NESTED, order=[2, 2]),
            'expected inner regions after outer ones, each with a label in "regions_class_order" '
            "that is in no region within it, got 1 written as 2",
        ),
        (
            dataset(core=[2, 3], whole=[1, 2, 3], rim=3, order=[2, 1, 3]),
            'expected inner regions after outer ones, each with a label in "regions_class_order" '
            "that is in no region within it, got 2 written as 1",
        ),
        (  # no order can say that a voxel is in both
            dataset(a=[1, 2], b=[2, 3], order=[1, 3]),
            'expected inner regions after outer ones, each with a label in "regions_class_order" '
            "that is in no region within it, got 2 written as 3",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(content, mistakes) -> None:
    with pytest.raises(InputError) as error:
        read_labels(content, PATH)
    assert str(error.value) == f"dataset.json: {mistakes}"
    assert "\n" not in str(error.value)


def test_all_mistakes_are_in_one_line() -> None:
    content = dataset(a=[1, 3], b=[3, 1], c=[4, 4], ignore=9, order=[1, "3"])
    content["labels"]["background"] = False
    with pytest.raises(InputError) as error:
        read_labels(content, PATH)
    assert str(error.value) == (
        'dataset.json: expected "background": 0 in "labels", got false; '
        'expected each label once in "c", got [4, 4]; '
        'expected one name for [1, 3], got "a" and "b"; '
        'expected the highest label, 5, for "ignore", got 9; '
        'expected "regions_class_order" with 3 labels, one for each region, got [1, "3"]; '
        'expected labels beside the background, of [1, 3, 4], in "regions_class_order", got "3"'
    )


def test_no_mistake_is_made_up_where_a_label_is_unknown() -> None:
    content = dataset(a="1", b=3, c=[4, 5], ignore=7, order=[1, 6, 4])
    with pytest.raises(InputError) as error:
        read_labels(content, PATH)
    assert str(error.value) == f'dataset.json: {NO_LABEL} "a", got "1"'


def test_a_name_that_no_file_can_hold() -> None:
    with pytest.raises(InputError) as error:
        read_labels(dataset(**{chr(0xD800): 1}), Path("dataset.json"))
    expected = 'dataset.json: expected a name in one line of text, got "\\ud800"'
    assert str(error.value) == expected
