"""A few of the histories of ``histories.py``, which makes any number of them."""

from __future__ import annotations

import histories
import pytest


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_that_of_the_files(seed) -> None:
    histories.run_history(seed)


def test_a_wrong_number_would_be_found(monkeypatch) -> None:
    """With times in place of content, as it once was."""
    from nnunet_meep.evaluation.counting import cache

    monkeypatch.setattr(cache, "label_map_identity", lambda path: f"{path.stat().st_mtime_ns}")

    def several() -> None:
        for seed in range(20):
            histories.run_history(seed)

    with pytest.raises(histories.WrongNumber):
        several()
