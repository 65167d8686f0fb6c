"""The MEEP terms, the focal loss, and the loss that adds a term to a segmentation loss.

Needs only torch.

Source: Larrazabal, Martinez, Dolz, Ferrante: Maximum Entropy on Erroneous Predictions, MICCAI
2023 (Eq. 1, Eq. 2 and the global objective).
"""

from nnunet_meep.losses.focal import FocalLoss, focal_loss
from nnunet_meep.losses.regularized import RegularizedLoss
from nnunet_meep.losses.terms import confidence_penalty, meep_entropy, meep_kl

__all__ = [
    "FocalLoss",
    "RegularizedLoss",
    "confidence_penalty",
    "focal_loss",
    "meep_entropy",
    "meep_kl",
]
