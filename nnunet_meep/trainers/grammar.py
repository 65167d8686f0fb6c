"""The grammar of trainer names, defined only here. Standard library only.

``nnUNetTrainer`` + segmentation loss + term + options::

    nnUNetTrainerMEEP_KL                          nnU-Net's Dice + CE, MEEP-KL with lambda 0.3
    nnUNetTrainerDiceMEEP_H_lambda0p5_50epochs    Dice alone, MEEP-H with lambda 0.5, 50 epochs
    nnUNetTrainerMEEP_KL_lambdaauto               nnU-Net's Dice + CE, MEEP-KL, automatic lambda
    nnUNetTrainerFocal_gamma3_seed1               focal loss alone, a seeded initialisation

- segmentation loss (:data:`SEGMENTATION_LOSSES`): nothing = nnU-Net's default Dice + CE, or
  ``Dice``, ``CE``, ``Focal``; the default is spelt out as ``DiceCE`` if there is no term, so that
  every baseline takes the same options;
- term (:data:`TERMS`): ``MEEP_KL``, ``MEEP_H``, ``CP``, or nothing;
- options (:data:`OPTIONS`), in that order, each at most once.

Each experiment has one spelling, except that default values may be written out: nnU-Net's results
folder has this name, and one experiment in two folders would be trained twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "nnUNetTrainer"
#: Name in the grammar: its meaning. ``DiceCE`` is left out before a term.
SEGMENTATION_LOSSES = {
    "DiceCE": "nnU-Net's Dice + CE",
    "Dice": "Dice alone",
    "CE": "cross-entropy alone",
    "Focal": "focal loss (Lin 2017)",
}
TERMS = {
    "MEEP_KL": "mean KL(uniform || p) over misclassified voxels, added (MEEP paper, Eq. 2)",
    "MEEP_H": "mean entropy over misclassified voxels, subtracted (MEEP paper, Eq. 1)",
    "CP": "confidence penalty: mean entropy over all voxels, subtracted (Pereyra et al. 2017)",
}
#: Default lambda of the MEEP terms: for Dice and for CE, the smaller of the paper's two best
#: values; Dice + CE and focal loss are not in the paper.
DEFAULT_LAMBDA = {"DiceCE": 0.3, "Dice": 0.5, "CE": 0.1, "Focal": 0.1}
DEFAULT_LAMBDA_CP = 0.2
DEFAULT_GAMMA = 2.0
#: The paper's optimisation (``_paper``).
PAPER_EPOCHS, PAPER_ITERATIONS = 200, 40
PAPER_LEARNING_RATE, PAPER_DECAY, PAPER_DECAY_EVERY = 1e-4, 0.85, 10

EXAMPLE = f"{PREFIX}MEEP_KL_lambda0p3_50epochs_100iters"
#: The trainer for whoever has no reason for another one.
RECOMMENDED = f"{PREFIX}MEEP_H_lambdaauto"

#: The value of ``_lambda`` that is not a number: lambda is found during training.
AUTO = "auto"
_NUMERAL = "(?:0|[1-9][0-9]{0,8})(?:p[0-9]{0,8}[1-9])?"
_NUMBER = f"({_NUMERAL})"
_FROM_1 = r"([1-9][0-9]{0,8})"
_A_NUMBER = (
    "a number >= 0 with a p for the decimal point, no superfluous zeros, up to nine decimals"
)
_A_COUNT = "a whole number from 1, of up to nine digits without leading zeros"


@dataclass(frozen=True)
class Option:
    """One option of the grammar: its spelling and its meaning."""

    example: str
    pattern: re.Pattern[str]
    allowed: str
    meaning: str


#: In the order in which they follow in a name.
OPTIONS = {
    "lambda": Option(
        "_lambda0p3",
        re.compile(f"lambda({AUTO}|{_NUMERAL})"),
        f"{_A_NUMBER}, or {AUTO}",
        "weight of the term, a p for the decimal point; _lambdaauto lets the training find it "
        "(MEEP terms)",
    ),
    "gamma": Option(
        "_gamma2",
        re.compile("gamma" + _NUMBER),
        _A_NUMBER,
        "exponent of the focal loss (default 2)",
    ),
    "epochs": Option(
        "_50epochs",
        re.compile(_FROM_1 + "epochs"),
        _A_COUNT,
        "instead of nnU-Net's 1000",
    ),
    "iters": Option(
        "_100iters",
        re.compile(_FROM_1 + "iters"),
        _A_COUNT,
        "training iterations per epoch instead of nnU-Net's 250; a fifth of them, at least 5 "
        "(with _lambdaauto 25), for validation",
    ),
    "seed": Option(
        "_seed1",
        re.compile("seed(0|[1-9][0-9]{0,8})"),
        "a whole number of up to nine digits without leading zeros",
        "the network's initialisation; batches too, but only with nnUNet_n_proc_DA=0, because "
        "nnU-Net's background loaders stay random",
    ),
    "paper": Option(
        "_paper",
        re.compile("(paper)"),
        "no value",
        f"the MEEP paper's optimisation: Adam {PAPER_LEARNING_RATE:g}, x{PAPER_DECAY} every "
        f"{PAPER_DECAY_EVERY} epochs, {PAPER_EPOCHS} epochs of {PAPER_ITERATIONS} iterations "
        "unless said otherwise; deep supervision, augmentation and batch stay nnU-Net's",
    ),
    "fg": Option(
        "_fg0p9",
        re.compile(r"fg(1|0(?:p[0-9]{0,8}[1-9])?)"),
        "a probability from 0 to 1 with a p for the decimal point and no superfluous zeros",
        "each training patch is centred on foreground with this probability",
    ),
}


@dataclass(frozen=True)
class Experiment:
    """What a trainer name specifies. None stands for nnU-Net's own value."""

    name: str
    segmentation_loss: str  # a key of SEGMENTATION_LOSSES
    term: str | None  # a key of TERMS
    weight: float  # lambda; 0 without a term, and if the training finds lambda
    auto: bool = False  # whether the training finds lambda
    gamma: float = DEFAULT_GAMMA  # of the focal loss
    epochs: int | None = None
    iterations: int | None = None  # per epoch
    seed: int | None = None
    paper: bool = False  # the paper's optimiser and learning rate
    foreground: float | None = None  # probability of a patch centred on foreground

    @property
    def active_term(self) -> str | None:
        """The term that is computed; None if lambda is fixed at 0."""
        return self.term if self.weight or self.auto else None

    @property
    def validation_iterations(self) -> int | None:
        """A fifth of the training iterations, at least 5; nnU-Net has 50 for 250.

        At least 25 if lambda is found on them, because fewer contain too few errors.
        """
        return (
            None if self.iterations is None else max(25 if self.auto else 5, self.iterations // 5)
        )


def default_lambda(segmentation_loss: str, term: str) -> float:
    """The weight of a term if the name gives none."""
    return DEFAULT_LAMBDA_CP if term == "CP" else DEFAULT_LAMBDA[segmentation_loss]


def base_name(segmentation_loss: str, term: str | None) -> str:
    """The name without options."""
    if term is None:
        return PREFIX + segmentation_loss
    return PREFIX + ("" if segmentation_loss == "DiceCE" else segmentation_loss) + term


BASES = {
    base_name(loss, term): (loss, term) for loss in SEGMENTATION_LOSSES for term in (None, *TERMS)
}


def base_names() -> list[str]:
    """Every name without options, in the order of the README."""
    return list(BASES)


def starts_with(name: str, bases: Iterable[str]) -> str | None:
    return next((base for base in bases if name == base or name.startswith(base + "_")), None)
