"""References on their way to another process."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nnunet_meep.evaluation.counting.reference import PackedCodes, Reference

shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)


@given(npst.arrays(st.sampled_from([np.uint8, np.uint16]), shapes), st.sampled_from("CF"))
def test_label_maps_come_back_from_their_packing(codes, order) -> None:
    codes = np.asarray(codes, order=order)
    found = PackedCodes.of(codes).unpacked()
    assert found.dtype == codes.dtype
    np.testing.assert_array_equal(found, codes)
    assert found.flags.writeable  # else the compiled loops would be compiled anew


def test_a_reference_comes_back_from_another_process() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(0, 3, (4, 5, 1)).astype(np.uint8), 600_000, axis=2)
    near, segmentation = np.where(codes > 0, codes, np.uint8(3)), PackedCodes.of(codes[::-1])
    for predicted in (segmentation, None):
        sent = pickle.dumps(Reference(codes, {"b:1": near}, (3.0, 0.5, 1.0), predicted).packed())
        assert len(sent) < codes.nbytes / 20
        found = pickle.loads(sent).unpacked()
        np.testing.assert_array_equal(found.codes, codes)
        np.testing.assert_array_equal(found.restricted.pop("b:1"), near)
        assert not found.restricted
        assert found.spacing_mm == (3.0, 0.5, 1.0)
        assert found.segmentation == predicted
