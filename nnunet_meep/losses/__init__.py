"""The MEEP terms, their rivals, and the loss that adds a term to a segmentation loss.

Needs only torch.

Source: Larrazabal, Martinez, Dolz, Ferrante: Maximum Entropy on Erroneous Predictions, MICCAI
2023 (Eq. 1, Eq. 2 and the global objective). Those of the rivals are named in their functions.
"""

from nnunet_meep.losses.binned import ml1_ace
from nnunet_meep.losses.dscpp import DSCppLoss, dscpp_loss
from nnunet_meep.losses.focal import FocalLoss, focal_loss
from nnunet_meep.losses.regularized import RegularizedLoss
from nnunet_meep.losses.smoothed import label_smoothing, mbls, nacl, svls
from nnunet_meep.losses.terms import confidence_penalty, meep_entropy, meep_kl

__all__ = [
    "DSCppLoss",
    "FocalLoss",
    "RegularizedLoss",
    "confidence_penalty",
    "dscpp_loss",
    "focal_loss",
    "label_smoothing",
    "mbls",
    "meep_entropy",
    "meep_kl",
    "ml1_ace",
    "nacl",
    "svls",
]
