"""What a trainer name means: one grammar, here and nowhere else. Standard library only.

``nnUNetTrainer`` + segmentation loss + term + options::

    nnUNetTrainerMEEP_KL                          nnU-Net's Dice + CE, MEEP-KL with lambda 0.3
    nnUNetTrainerDiceMEEP_H_lambda0p5_50epochs    Dice alone, MEEP-H with lambda 0.5, 50 epochs
    nnUNetTrainerMEEP_KL_lambdaauto               nnU-Net's Dice + CE, MEEP-KL, lambda finds itself
    nnUNetTrainerFocal_gamma3_seed1               focal loss alone, a seeded initialisation

- segmentation loss (:data:`SEGMENTATION_LOSSES`): nothing = nnU-Net's default Dice + CE, or
  ``Dice``, ``CE``, ``Focal``; spelt out as ``DiceCE`` where there is no term, so that every
  baseline takes the same options;
- term (:data:`TERMS`): ``MEEP_KL``, ``MEEP_H``, ``CP``, or nothing;
- options (:data:`OPTIONS`), in that order, each at most once.

An experiment has one spelling, but for a default value, which may be written out: the name is
nnU-Net's results folder, and one experiment in two folders would be trained twice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from nnunet_meep.trainers.control import BEGINS_AT

PREFIX = "nnUNetTrainer"
#: name in the grammar: what it is. ``DiceCE`` is left out in front of a term.
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
#: lambda of the MEEP terms where the name gives none: the smaller of the paper's two best values
#: for Dice and for CE; Dice + CE and focal are not in the paper.
DEFAULT_LAMBDA = {"DiceCE": 0.3, "Dice": 0.5, "CE": 0.1, "Focal": 0.1}
DEFAULT_LAMBDA_CP = 0.2
DEFAULT_GAMMA = 2.0
#: The paper's optimisation (``_paper``).
PAPER_EPOCHS, PAPER_ITERATIONS = 200, 40
PAPER_LEARNING_RATE, PAPER_DECAY, PAPER_DECAY_EVERY = 1e-4, 0.85, 10

EXAMPLE = f"{PREFIX}MEEP_KL_lambda0p3_50epochs_100iters"

#: The value of ``_lambda`` that is none: it is found while training.
AUTO = "auto"
_NUMERAL = "(?:0|[1-9][0-9]{0,8})(?:p[0-9]{0,8}[1-9])?"
_NUMBER = f"({_NUMERAL})"
_FROM_1 = r"([1-9][0-9]{0,8})"
_A_NUMBER = "a number >= 0 with a p for the decimal point, no zero to spare, up to nine decimals"
_A_COUNT = "a whole number from 1, of up to nine digits without leading zeros"


@dataclass(frozen=True)
class Option:
    """One option of the grammar: how it is spelt and what it means."""

    example: str
    pattern: re.Pattern[str]
    allowed: str
    meaning: str


#: In the order in which a name has them.
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
        "a probability from 0 to 1 with a p for the decimal point and no zero to spare",
        "each training patch is centred on foreground with this probability",
    ),
}
_ALL_OPTIONS = ", ".join(option.example for option in OPTIONS.values())
_ALL_BASES = (
    "Dice, CE, Focal or nothing (= Dice + CE) and then MEEP_KL, MEEP_H or CP; or with DiceCE, "
    "Dice, CE or Focal alone"
)

# What is meant as an option of ours, right or wrong; a user's own nnUNetTrainerDice_v2 is not.
_OPTION_SHAPE = re.compile(
    r"(lambda|gamma)([0-9.,+-].*|p[0-9].*|inf|nan)|lambda([Aa]uto.*)?|(seed|fg)[0-9.,+-].*"
    r"|[0-9.p-]+(epoch|iter)s?|paper"
)


class TrainerNameError(ValueError):
    """A name that is ours and wrong. One line: the name, the wrong part, the nearest right one."""


@dataclass(frozen=True)
class Experiment:
    """What a trainer name asks for. None stands for nnU-Net's own value."""

    name: str
    segmentation_loss: str  # a key of SEGMENTATION_LOSSES
    term: str | None  # a key of TERMS
    weight: float  # lambda; 0 without a term, and where it starts if the training finds it
    auto: bool = False  # does the training find lambda?
    gamma: float = DEFAULT_GAMMA  # of the focal loss
    epochs: int | None = None
    iterations: int | None = None  # per epoch
    seed: int | None = None
    paper: bool = False  # the paper's optimiser and learning rate
    foreground: float | None = None  # probability of a patch centred on foreground

    @property
    def active_term(self) -> str | None:
        """The term that is computed: none with a fixed lambda of 0."""
        return self.term if self.weight or self.auto else None

    @property
    def validation_iterations(self) -> int | None:
        """A fifth of the training iterations, as nnU-Net has 50 for 250; at least 5.

        At least 25 where lambda is found on them: in fewer the errors are too few.
        """
        return (
            None if self.iterations is None else max(25 if self.auto else 5, self.iterations // 5)
        )


def default_lambda(segmentation_loss: str, term: str) -> float:
    """The weight of a term where the name gives none."""
    return DEFAULT_LAMBDA_CP if term == "CP" else DEFAULT_LAMBDA[segmentation_loss]


def base_name(segmentation_loss: str, term: str | None) -> str:
    """The name without options."""
    if term is None:
        return PREFIX + segmentation_loss
    return PREFIX + ("" if segmentation_loss == "DiceCE" else segmentation_loss) + term


_BASES = {
    base_name(loss, term): (loss, term) for loss in SEGMENTATION_LOSSES for term in (None, *TERMS)
}


def base_names() -> list[str]:
    """Every name without options, in the order of the README."""
    return list(_BASES)


def parse(name: str) -> Experiment | None:
    """The experiment that ``name`` stands for; None if the name is not ours.

    Ours are all names of trainers that contain ``MEEP``, and those of one of the grammar's losses,
    with ``CP`` or without, that go on with nothing, or with ``_`` and parts shaped like options.

    Raises:
        TrainerNameError: the name is ours and wrong; the message says which part, and the
            nearest right name.
    """
    if not name.startswith(PREFIX):
        return None
    contains_meep = "MEEP" in name
    base = _starts_with(name, _BASES)
    if base is None:
        spelt_out = _starts_with(name, [f"{PREFIX}DiceCECP"])
        if contains_meep or (spelt_out and _are_options(_parts(name, spelt_out))):
            raise _error(
                name,
                f"'{name[len(PREFIX) :]}' has to begin with {_ALL_BASES}",
            )
        return None
    parts = _parts(name, base)
    if not contains_meep and not _are_options(parts):
        return None  # a user's own nnUNetTrainerDice_something
    return _experiment(name, base, parts)


def _error(name: str, problem: str) -> TrainerNameError:
    message = f"{name}: {problem}; the nearest right name is {nearest(name)}"
    # A name from a script with Windows line ends has a \r, which would hide what precedes it.
    return TrainerNameError("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def _starts_with(name: str, bases: Iterable[str]) -> str | None:
    return next((base for base in bases if name == base or name.startswith(base + "_")), None)


def _parts(name: str, base: str) -> list[str]:
    return name[len(base) + 1 :].split("_") if name != base else []


def _are_options(parts: list[str]) -> bool:
    return all(_OPTION_SHAPE.fullmatch(part) for part in parts)


def _experiment(name: str, base: str, parts: list[str]) -> Experiment:
    loss, term = _BASES[base]
    values: dict[str, str] = {}
    remaining = list(parts)
    for key, option in OPTIONS.items():
        match = option.pattern.fullmatch(remaining[0]) if remaining else None
        if match:
            values[key] = match[1]
            remaining.pop(0)
    problem = None
    if remaining:
        problem = f"'{remaining[0]}' {_what_is_wrong(remaining[0])}"
    elif "lambda" in values and term is None:
        problem = f"'lambda{values['lambda']}' needs a term to weigh"
    elif values.get("lambda") == AUTO and term == "CP":
        problem = f"'lambda{AUTO}' belongs to the MEEP terms"
    elif "gamma" in values and loss != "Focal":
        problem = f"'gamma{values['gamma']}' belongs to the Focal loss alone"
    if problem:
        raise _error(name, problem)

    auto = values.get("lambda") == AUTO
    if auto:
        values["lambda"] = "0"

    def number(key: str, default: float) -> float:
        return float(values[key].replace("p", ".")) if key in values else default

    def whole(key: str, default: int | None) -> int | None:
        return int(values[key]) if key in values else default

    paper = "paper" in values
    return Experiment(
        name=name,
        segmentation_loss=loss,
        term=term,
        weight=number("lambda", default_lambda(loss, term)) if term else 0.0,
        auto=auto,
        gamma=number("gamma", DEFAULT_GAMMA),
        epochs=whole("epochs", PAPER_EPOCHS if paper else None),
        iterations=whole("iters", PAPER_ITERATIONS if paper else None),
        seed=whole("seed", None),
        paper=paper,
        foreground=number("fg", 0.0) if "fg" in values else None,
    )


def _what_is_wrong(part: str) -> str:
    """Why a part does not stand where it stands."""
    key = next((key for key, option in OPTIONS.items() if option.pattern.fullmatch(part)), None)
    if key:
        return f"stands twice or in the wrong place (the order is {_ALL_OPTIONS})"
    key = next((key for key in OPTIONS if key in part.lower()), None)
    if key:
        option = OPTIONS[key]
        return f"is not an option; {key} takes {option.allowed}, for example {option.example}"
    return f"is not an option (the options are {_ALL_OPTIONS})"


# Options as people write them, right or wrong: lambda0.30, Lambda_0p3, lamda0p3, auto, 50epoch.
_MEANT = re.compile(
    r"(?P<auto>auto(?:_?lamb?da)?)|(?P<key>lamb?da|gamma|seed|fg)"
    r"(?:(?!_?[0-9]+_?(?:epoch|iter))[_=]?(?P<value>auto|[0-9.,p+-]*[a-z]?))?"
    r"|(?<![0-9])(?P<count>[0-9]+)_?(?P<unit>epoch|iter)s?|(?P<paper>paper)",
    re.IGNORECASE | re.ASCII,
)


def nearest(name: str) -> str:
    """The right name nearest to a wrong one: what is meant, in the right spelling and order."""
    loss, term = _meant_base(_beside_options(name))
    values: dict[str, str] = {}
    for match in _MEANT.finditer(name):
        if match["paper"]:
            values.setdefault("paper", "_paper")
        elif match["auto"]:
            values.setdefault("lambda", f"_lambda{AUTO}")
        elif match["unit"]:
            key = match["unit"].lower() + "s"
            spelt = match["count"].lstrip("0") + key
            right = OPTIONS[key].pattern.fullmatch(spelt)
            values.setdefault(key, f"_{spelt}" if right else OPTIONS[key].example)
        else:
            key = "lambda" if match["key"].lower().startswith("l") else match["key"].lower()
            values.setdefault(key, _respelt(key, (match["value"] or "").lower()))
    if "gamma" in values:
        loss = "Focal"
    if "lambda" in values and term is None:
        term = "MEEP_KL"
    if term == "CP" and values.get("lambda") == f"_lambda{AUTO}":
        del values["lambda"]
    return base_name(loss, term) + "".join(values[key] for key in OPTIONS if key in values)


def meant(name: str) -> str | None:
    """The right name that a name which is not ours resembles; None if it is like none of them.

    Compared is what stands in front of the options, which are alike in names of all kinds.
    """
    first = _MEANT.search(name)
    own, options = (name[: first.start()], name[first.start() :]) if first else (name, "")
    own = own.rstrip("_")
    right = _starts_with(own, _BASES)
    if right and right != own:
        return None  # a user's own nnUNetTrainerDice_something
    letters = _letters(_without_prefix(own))
    # A misspelt prefix is still there; being long, it makes everything alike.
    for prefix, cutoff in (("", 0.8), (PREFIX, 0.9)):
        spellings = {_letters(prefix + base.removeprefix(PREFIX)): base for base in _BASES}
        close = difflib.get_close_matches(letters, spellings, n=1, cutoff=cutoff)
        if close:
            return nearest((spellings[close[0]] if prefix else own) + options)
    return None


def _without_prefix(name: str) -> str:
    return name[len(PREFIX) :] if name.lower().startswith(PREFIX.lower()) else name


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


def _beside_options(name: str) -> str:
    """What a wrong name has in front of its options, and behind them if that is where MEEP is."""
    before, *after = _MEANT.sub("\n", _without_prefix(name)).split("\n")
    return "_".join([before, *after]) if any("meep" in text.lower() for text in after) else before


def _meant_base(text: str) -> tuple[str, str | None]:
    letters = _letters(text)
    before, meep, after = letters.partition("meep")
    term: str | None = None
    if meep:
        term, letters = "MEEP_H" if after.startswith(("h", "ent")) else "MEEP_KL", before
    elif letters.endswith("cp"):
        term, letters = "CP", letters[:-2]
    if not letters:
        return "DiceCE", term
    if term is None:
        known = {base.removeprefix(PREFIX).replace("_", "").lower(): base for base in _BASES}
        return _BASES[known[difflib.get_close_matches(letters, known, n=1, cutoff=0.0)[0]]]
    losses = {loss.lower(): loss for loss in SEGMENTATION_LOSSES} | {"cedice": "DiceCE"}
    return losses[difflib.get_close_matches(letters, losses, n=1, cutoff=0.0)[0]], term


def _respelt(key: str, value: str) -> str:
    """An option in the one spelling of its value; its example where that is no value of it."""
    if key == "lambda" and value == AUTO:
        return f"_lambda{AUTO}"
    match = re.fullmatch(r"\+?([0-9]*)(?:[.,p]([0-9]*))?", value, re.ASCII)
    whole, decimals = (match[1] or "", match[2] or "") if match else ("", "")
    if not whole + decimals:
        return OPTIONS[key].example
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    spelt = f"_{key}{whole}" + (f"p{decimals}" if decimals else "")
    return spelt if OPTIONS[key].pattern.fullmatch(spelt[1:]) else OPTIONS[key].example


def _shown(value: float) -> str:
    """With all of its digits: a rounded one would be another experiment."""
    return repr(value).removesuffix(".0")


def explain(experiment: Experiment) -> dict[str, str]:
    """What an experiment is, in words: {aspect: explanation}, in a fixed order."""
    e = experiment
    loss = SEGMENTATION_LOSSES[e.segmentation_loss]
    if e.segmentation_loss == "Focal":
        loss += f", gamma {_shown(e.gamma)}"
    term = "none"
    if e.term:
        term = f"{e.term} with lambda {_shown(e.weight)}: {TERMS[e.term]}"
        if e.auto:
            term = (
                f"{e.term} with a lambda that the training finds, and none before {BEGINS_AT:.0%} "
                f"of it is over: {TERMS[e.term]}"
            )
        elif not e.weight:
            term = f"{e.term} with lambda 0: none, this is the plain loss"
    epochs = f"{e.epochs or 1000} epochs of {e.iterations or 250} iterations"
    optimiser = "nnU-Net's own (SGD 0.01, polynomial decay)"
    if e.paper:
        optimiser = (
            f"the MEEP paper's (Adam {PAPER_LEARNING_RATE:g}, x{PAPER_DECAY} every "
            f"{PAPER_DECAY_EVERY} epochs); deep supervision, augmentation and batch are nnU-Net's"
        )
    sampling = "nnU-Net's own (a third of a batch, rounded: one of two patches)"
    if e.foreground is not None:
        sampling = (
            f"a training patch is centred on foreground with probability {_shown(e.foreground)}; "
            "validation patches are nnU-Net's"
        )
    seed = "none, every training is another one"
    if e.seed is not None:
        seed = (
            f"{e.seed} for the initialisation; with nnUNet_n_proc_DA=0 for the batches too "
            "(nnU-Net's background loaders stay random)"
        )
    return {
        "segmentation loss": loss,
        "term": term,
        "length": epochs,
        "optimiser": optimiser,
        "foreground": sampling,
        "seed": seed,
        "results folder": f"{e.name}__PLANS__CONFIGURATION",
    }
