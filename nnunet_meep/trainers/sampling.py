"""Control and query which patches nnU-Net's data loaders centre on foreground."""

from __future__ import annotations

from typing import Any

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


def oversample_with_probability(augmenter: Any, probability: float) -> None:
    """Centre each patch on foreground with a given probability, not a fixed number per batch.

    Args:
        augmenter: the object that nnU-Net draws training batches from.
        probability: in [0, 1].

    Raises:
        TypeError: the augmenter does not use nnU-Net's own data loader.
    """
    loader = _loader(augmenter)
    if loader is None:
        raise TypeError(
            f"_fg: expected nnU-Net's own data loader, got {type(augmenter).__name__}; a trainer "
            "with other loaders has to set its sampling itself"
        )
    loader.oversample_foreground_percent = probability
    loader.get_do_oversample = loader._probabilistic_oversampling
    if hasattr(augmenter, "restart"):  # workers hold copies of the loader as it was
        augmenter.restart()


def unforced_patches(augmenter: Any) -> list[int]:
    """Indices of the patches in a batch that nnU-Net does not centre on foreground.

    Empty if that is unknown, or random for each patch.
    """
    loader = _loader(augmenter)
    if loader is None or loader.get_do_oversample != loader._oversample_last_XX_percent:
        return []
    return [i for i in range(loader.batch_size) if not loader.get_do_oversample(i)]


def _loader(augmenter: Any) -> nnUNetDataLoader | None:
    """nnU-Net's loader inside an augmenter with or without workers; None if it is another one."""
    loader = getattr(augmenter, "generator", getattr(augmenter, "data_loader", None))
    return loader if isinstance(loader, nnUNetDataLoader) else None
