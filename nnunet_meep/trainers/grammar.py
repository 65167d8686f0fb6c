"""The grammar of trainer names, defined only here. Standard library only.

``nnUNetTrainer`` + segmentation loss + term + options::

    nnUNetTrainerMEEP_KL                          nnU-Net's Dice + CE, MEEP-KL with lambda 0.3
    nnUNetTrainerDiceMEEP_H_lambda0p5_50epochs    Dice alone, MEEP-H with lambda 0.5, 50 epochs
    nnUNetTrainerMEEP_KL_lambdaauto               nnU-Net's Dice + CE, MEEP-KL, automatic lambda
    nnUNetTrainerFocal_gamma3_seed1               focal loss alone, a seeded initialisation
    nnUNetTrainerCEMbLS_lambda0p1_margin10        cross-entropy, MbLS with its published weight

- segmentation loss (:data:`SEGMENTATION_LOSSES`): nothing = nnU-Net's default Dice + CE, or
  ``Dice``, ``CE``, ``Focal``, ``DSCpp``; the default is spelt out as ``DiceCE`` if there is no
  term, so that every baseline takes the same options;
- term (:data:`TERMS`): a MEEP term, one of its rivals, or nothing. Each is added to the
  segmentation loss with the weight lambda. Also those that were published as another target of
  the cross-entropy: against (1 - lambda) y + lambda s, it is the cross-entropy against y plus
  lambda times a term (:mod:`nnunet_meep.losses.smoothed`). They need a cross-entropy to be added
  to, so not every term goes with every segmentation loss (:attr:`Term.weights`);
- options (:data:`OPTIONS`), in that order, each at most once. Which of them fit a segmentation
  loss and a term is said by :func:`misfit`.

Each experiment has one spelling, except that default values may be written out: nnU-Net's results
folder has this name, and one experiment in two folders would be trained twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PREFIX = "nnUNetTrainer"
#: Name in the grammar: its meaning. ``DiceCE`` is left out before a term.
SEGMENTATION_LOSSES = {
    "DiceCE": "nnU-Net's Dice + CE",
    "Dice": "Dice alone",
    "CE": "cross-entropy alone",
    "Focal": "focal loss (Lin 2017)",
    "DSCpp": "DSC++: Dice that punishes confident errors more (Yeung et al. 2023)",
}
#: The segmentation losses with an exponent gamma.
WITH_GAMMA = ("Focal", "DSCpp")
DEFAULT_GAMMA = 2.0
DEFAULT_MARGIN = 10.0


@dataclass(frozen=True)
class Term:
    """One term of the grammar.

    Attributes:
        meaning: in a phrase.
        weights: the segmentation losses that it may be added to, each with the lambda that it has
            there if the name gives none.
        largest: of lambda.
        weighed: whether the name may give lambda; else ``_lambdaauto`` at most.
        not_auto: why ``_lambdaauto`` is refused; "" if it is not.
        not_regions: why nnU-Net's region-based training is refused; "" if it is not.
        options: keys of :data:`OPTIONS` that no other term has.
    """

    meaning: str
    weights: Mapping[str, float]
    largest: float = math.inf
    weighed: bool = True
    not_auto: str = ""
    not_regions: str = ""
    options: tuple[str, ...] = ()

    @property
    def needs_cross_entropy(self) -> bool:
        return "Dice" not in self.weights


# For Dice and for CE, the smaller of the paper's two best values; the others are not in the paper.
_MEEP = {"DiceCE": 0.3, "Dice": 0.5, "CE": 0.1, "Focal": 0.1, "DSCpp": 0.5}
_WITH_CROSS_ENTROPY = ("DiceCE", "CE")
_NOT_MONOTONE = (
    "more of it does not always lower confidence, but raises that of an underconfident network"
)
_NO_CLASSES = "it spreads each label over classes that exclude each other, and regions overlap"


def _on_all(weight: float) -> dict[str, float]:
    return dict.fromkeys(SEGMENTATION_LOSSES, weight)


#: Those after CP with their published weights, relative to Dice and CE with a weight of 1 each.
TERMS = {
    "MEEP_KL": Term(
        "mean KL(uniform || p) over misclassified voxels, added (MEEP paper, Eq. 2)", _MEEP
    ),
    "MEEP_H": Term("mean entropy over misclassified voxels, subtracted (MEEP paper, Eq. 1)", _MEEP),
    "CP": Term(
        "confidence penalty: mean entropy over all voxels, subtracted (Pereyra et al. 2017)",
        _on_all(0.2),
    ),
    "LS": Term(
        "label smoothing: spreads a share lambda of each label over all classes (Szegedy et al. "
        "2016)",
        dict.fromkeys(_WITH_CROSS_ENTROPY, 0.1),
        largest=1.0,
        not_regions=_NO_CLASSES,
    ),
    "SVLS": Term(
        "spatially varying label smoothing, over a voxel's neighbours (Islam & Glocker 2021)",
        dict.fromkeys(_WITH_CROSS_ENTROPY, 1.0),
        largest=2.0,  # above it, shares of the target become negative
        weighed=False,
        not_regions=_NO_CLASSES,
    ),
    "MbLS": Term(
        "penalty for logits more than a margin below the largest logit, added (Liu et al. 2022)",
        _on_all(0.1),
        options=("margin",),
    ),
    "NACL": Term(
        "distance of the logits from the class shares of the neighbours, added (Murugesan et al. "
        "2023)",
        _on_all(0.1),
    ),
    "mL1ACE": Term(
        "calibration error of each image and class in hard bins, added (Barfoot et al. 2024)",
        _on_all(1.0),
        not_auto=_NOT_MONOTONE,
    ),
    "mL1ACEsoft": Term(
        "calibration error of each image and class in soft bins, added (Barfoot et al. 2025)",
        _on_all(1.0),
        not_auto=_NOT_MONOTONE,
    ),
}
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
        "weight of the term, with p for the decimal point; with _lambdaauto, the training adjusts "
        "lambda (not for mL1ACE and mL1ACEsoft; SVLS takes only _lambdaauto)",
    ),
    "margin": Option(
        "_margin10",
        re.compile("margin" + _NUMBER),
        _A_NUMBER,
        "margin of MbLS, in units of the logits (default 10)",
    ),
    "gamma": Option(
        "_gamma2",
        re.compile("gamma" + _NUMBER),
        _A_NUMBER,
        "exponent gamma of the focal loss or of DSC++ (default 2)",
    ),
    "epochs": Option(
        "_50epochs",
        re.compile(_FROM_1 + "epochs"),
        _A_COUNT,
        "number of epochs (nnU-Net: 1000)",
    ),
    "iters": Option(
        "_100iters",
        re.compile(_FROM_1 + "iters"),
        _A_COUNT,
        "training iterations per epoch (nnU-Net: 250); validation has a fifth as many, at least 5 "
        "(with _lambdaauto at least 25)",
    ),
    "seed": Option(
        "_seed1",
        re.compile("seed(0|[1-9][0-9]{0,8})"),
        "a whole number of up to nine digits without leading zeros",
        "seed of the network's initialisation; batches are reproducible only with "
        "nnUNet_n_proc_DA=0, because nnU-Net's background loaders choose patches at random",
    ),
    "paper": Option(
        "_paper",
        re.compile("(paper)"),
        "no value",
        f"the MEEP paper's optimisation: Adam, learning rate {PAPER_LEARNING_RATE:g}, multiplied "
        f"by {PAPER_DECAY} every {PAPER_DECAY_EVERY} epochs; {PAPER_EPOCHS} epochs of "
        f"{PAPER_ITERATIONS} iterations unless the name gives other numbers; deep supervision, "
        "augmentation, batch and patch size stay nnU-Net's",
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
    margin: float = DEFAULT_MARGIN  # of MbLS
    gamma: float = DEFAULT_GAMMA  # of the focal loss and of DSC++
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
    def changes_loss(self) -> bool:
        """Whether anything is asked for instead of the trainer's own loss, or beside it."""
        return self.active_term is not None or self.segmentation_loss != "DiceCE"

    @property
    def validation_iterations(self) -> int | None:
        """A fifth of the training iterations, at least 5; nnU-Net has 50 for 250.

        At least 25 if lambda is found on them, because fewer contain too few errors.
        """
        return (
            None if self.iterations is None else max(25 if self.auto else 5, self.iterations // 5)
        )


def number(spelt: str) -> float:
    """A number of a name: 0.5 for ``0p5``."""
    return float(spelt.replace("p", "."))


def misfit(key: str, value: str, segmentation_loss: str, term: str | None) -> str | None:
    """Why an option does not belong to a segmentation loss and a term; None if it does.

    Args:
        key: of :data:`OPTIONS`.
        value: what its pattern has found.
    """
    if key == "gamma" and segmentation_loss not in WITH_GAMMA:
        return f"belongs to the {' and '.join(WITH_GAMMA)} losses alone"
    owners = [name for name, one in TERMS.items() if key in one.options]
    if owners and term not in owners:
        return f"belongs to {' and '.join(owners)} alone"
    if key != "lambda":
        return None
    if term is None:
        return "needs a term to weigh"
    found = TERMS[term]
    if value == AUTO:
        return f"is not for {term}: {found.not_auto}" if found.not_auto else None
    if not found.weighed:
        return f"is not for {term}, which has no weight; _lambda{AUTO} lets the training find one"
    if number(value) > found.largest:
        return f"is too large: for {term}, lambda is a share from 0 to {found.largest:g}"
    return None


def base_name(segmentation_loss: str, term: str | None) -> str:
    """The name without options."""
    if term is None:
        return PREFIX + segmentation_loss
    return PREFIX + ("" if segmentation_loss == "DiceCE" else segmentation_loss) + term


BASES = {
    base_name(loss, term): (loss, term)
    for loss in SEGMENTATION_LOSSES
    for term in (None, *(name for name, one in TERMS.items() if loss in one.weights))
}
#: Names of a segmentation loss and a term that do not make a base: why.
NO_BASES = {
    f"{PREFIX}{loss}{term}": (
        f"{loss} is left out before a term"
        if loss in one.weights
        else f"{term} changes the target of the cross-entropy, and {loss} has none"
    )
    for loss in SEGMENTATION_LOSSES
    for term, one in TERMS.items()
    if f"{PREFIX}{loss}{term}" not in BASES
}


def base_names() -> list[str]:
    """Every name without options, in the order of the README."""
    return list(BASES)


def starts_with(name: str, bases: Iterable[str]) -> str | None:
    return next((base for base in bases if name == base or name.startswith(base + "_")), None)
