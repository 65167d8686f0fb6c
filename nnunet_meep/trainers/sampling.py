"""How nnU-Net's data loaders choose patches, and which of them are centred on foreground."""

from __future__ import annotations

from typing import Any

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


def oversample_with_probability(augmenter: Any, probability: float) -> None:
    """Let each patch be centred on foreground with a probability, instead of some in each batch.

    Args:
        augmenter: what nnU-Net draws training batches from.
        probability: in [0, 1].

    Raises:
        TypeError: it does not draw from nnU-Net's own data loader.
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
    """The patches of each batch that nnU-Net does not centre on foreground; none if unknown."""
    loader = _loader(augmenter)
    if loader is None or loader.get_do_oversample != loader._oversample_last_XX_percent:
        return []
    return [i for i in range(loader.batch_size) if not loader.get_do_oversample(i)]


def _loader(augmenter: Any) -> nnUNetDataLoader | None:
    """nnU-Net's loader inside of what draws from it in the background, or not; None if other."""
    loader = getattr(augmenter, "generator", getattr(augmenter, "data_loader", None))
    return loader if isinstance(loader, nnUNetDataLoader) else None
