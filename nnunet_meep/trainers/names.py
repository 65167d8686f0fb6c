"""Parse trainer names into experiments, and explain experiments in words. No torch."""

from __future__ import annotations

import re

from nnunet_meep.errors import printable
from nnunet_meep.trainers.control import BEGINS_AT, may_be_too_short
from nnunet_meep.trainers.grammar import (
    AUTO,
    BASES,
    DEFAULT_GAMMA,
    DEFAULT_MARGIN,
    NO_BASES,
    OPTIONS,
    PAPER_DECAY,
    PAPER_DECAY_EVERY,
    PAPER_EPOCHS,
    PAPER_ITERATIONS,
    PAPER_LEARNING_RATE,
    PREFIX,
    SEGMENTATION_LOSSES,
    TERMS,
    WITH_GAMMA,
    Experiment,
    base_name,
    misfit,
    number,
    starts_with,
)
from nnunet_meep.trainers.misspelt import corrected
from nnunet_meep.trainers.nearest import suggestion

_ALL_OPTIONS = ", ".join(option.example for option in OPTIONS.values())
_LOSSES = [loss for loss in SEGMENTATION_LOSSES if loss != "DiceCE"]
_ALL_BASES = (
    f"{', '.join(_LOSSES)} or nothing (= Dice + CE) and then {', '.join(list(TERMS)[:-1])} or "
    f"{list(TERMS)[-1]}; or with DiceCE, {', '.join(_LOSSES[:-1])} or {_LOSSES[-1]} alone"
)

# Parts meant as our options, valid or not; not the v2 of a user's own nnUNetTrainerDice_v2.
_OPTION_SHAPE = re.compile(
    r"(lambda|margin|gamma)([0-9.,+-].*|p[0-9].*|inf|nan)|lambda([Aa]uto.*)?|(seed|fg)[0-9.,+-].*"
    r"|[0-9.p-]+(epoch|iter)s?|paper"
)


class TrainerNameError(ValueError):
    """A name of ours that is wrong. One line: the name, the wrong part, the nearest valid name."""


def parse(name: str) -> Experiment | None:
    """The experiment that ``name`` stands for; None if the name is not ours.

    Trainer names are ours if they contain ``MEEP``, or if they consist of one of the grammar's
    losses, terms, or both, followed by nothing or by ``_`` and parts shaped like options, also with
    a typing error (:mod:`.misspelt`). What somebody may have called a class of their own on
    purpose, such as ``nnUNetTrainer_seed1`` or ``nnUNetTrainerDice_epochs50``, is not ours.

    Raises:
        TrainerNameError: the name is ours but wrong; the message gives the wrong part, the nearest
            valid name, and what of the name is not in it.
    """
    if not name.startswith(PREFIX):
        return None
    contains_meep = "MEEP" in name
    base = starts_with(name, BASES)
    if base is None:
        no_base = starts_with(name, NO_BASES)
        if no_base and _are_options(_parts(name, no_base)):
            raise _error(
                name, f"'{no_base[len(PREFIX) :]}' is no loss of ours: {NO_BASES[no_base]}"
            )
        if contains_meep:
            raise _error(name, f"'{name[len(PREFIX) :]}' has to begin with {_ALL_BASES}")
        return None
    parts = _parts(name, base)
    if not contains_meep and not _are_options(parts):
        return None  # a user's own nnUNetTrainerDice_something
    return _experiment(name, base, parts)


def _error(name: str, problem: str) -> TrainerNameError:
    # A name from a script with Windows line endings has a \r, which would hide the text before it.
    return TrainerNameError(printable(f"{name}: {problem}; {suggestion(name)}"))


def _parts(name: str, base: str) -> list[str]:
    return name[len(base) + 1 :].split("_") if name != base else []


def _are_options(parts: list[str]) -> bool:
    return all(_OPTION_SHAPE.fullmatch(corrected(part)) for part in parts)


def _experiment(name: str, base: str, parts: list[str]) -> Experiment:
    loss, term = BASES[base]
    values: dict[str, str] = {}
    remaining = list(parts)
    for key, option in OPTIONS.items():
        match = option.pattern.fullmatch(remaining[0]) if remaining else None
        if match:
            values[key] = match[1]
            remaining.pop(0)
    if remaining:
        raise _error(name, f"'{remaining[0]}' {_what_is_wrong(remaining[0])}")
    for key, value in values.items():
        if problem := misfit(key, value, loss, term):
            raise _error(name, f"'{key}{value}' {problem}")

    auto = values.get("lambda") == AUTO
    if auto:
        values["lambda"] = "0"

    def real(key: str, default: float) -> float:
        return number(values[key]) if key in values else default

    def whole(key: str, default: int | None) -> int | None:
        return int(values[key]) if key in values else default

    paper = "paper" in values
    return Experiment(
        name=name,
        segmentation_loss=loss,
        term=term,
        weight=real("lambda", TERMS[term].weights[loss]) if term else 0.0,
        auto=auto,
        margin=real("margin", DEFAULT_MARGIN),
        gamma=real("gamma", DEFAULT_GAMMA),
        epochs=whole("epochs", PAPER_EPOCHS if paper else None),
        iterations=whole("iters", PAPER_ITERATIONS if paper else None),
        seed=whole("seed", None),
        paper=paper,
        foreground=real("fg", 0.0) if "fg" in values else None,
    )


def _key(part: str) -> str | None:
    """The key of the option that a part of a name is; None if it is none."""
    return next((key for key, option in OPTIONS.items() if option.pattern.fullmatch(part)), None)


def _what_is_wrong(part: str) -> str:
    """Why a part of a name is not accepted."""
    if _key(part):
        return f"stands twice or in the wrong place (the order is {_ALL_OPTIONS})"
    key = next((key for key in OPTIONS if key in corrected(part).lower()), None)
    if key:
        option = OPTIONS[key]
        return f"is not an option; {key} takes {option.allowed}, for example {option.example}"
    return f"is not an option (the options are {_ALL_OPTIONS})"


def with_seed(name: str, seed: int) -> str:
    """The name of the same experiment with a seed, at its place among the options.

    Args:
        name: a trainer name of ours without a seed.
        seed: a whole number from 0, of up to nine digits.

    Raises:
        TrainerNameError: the name is wrong, not ours, or has a seed; or the seed is no such number.
    """
    experiment = parse(name)
    if experiment is None:
        same = base_name("DiceCE", None)
        instead = f"{same} has the same loss and takes seeds: {same}_seed{seed}"
        raise TrainerNameError(
            f"{name!r} takes no seed, because it is no name of nnunet-meep"
            + (f"; {instead}" if name == PREFIX else "")
        )
    if experiment.seed is not None:
        raise TrainerNameError(
            f"{name}: expected a name without a seed, got one with the seed {experiment.seed}"
        )
    base = base_name(experiment.segmentation_loss, experiment.term)
    keys = list(OPTIONS)
    behind = keys[keys.index("seed") :]
    before = [part for part in _parts(name, base) if _key(part) not in behind]
    after = [part for part in _parts(name, base) if _key(part) in behind]
    seeded = "_".join([base, *before, f"seed{seed}", *after])
    parse(seeded)
    return seeded


def without_seed(name: str) -> tuple[str, int | None]:
    """A name without its seed, and the seed; of a name without one, or not ours, itself and None.

    Trainings whose names are the same without seeds are of one experiment.

    Raises:
        TrainerNameError: the name is ours but wrong.
    """
    experiment = parse(name)
    if experiment is None or experiment.seed is None:
        return name, None
    base = base_name(experiment.segmentation_loss, experiment.term)
    others = [part for part in _parts(name, base) if _key(part) != "seed"]
    return "_".join([base, *others]), experiment.seed


def _shown(value: float) -> str:
    """A number with all its digits: a rounded one would be another experiment."""
    return repr(value).removesuffix(".0")


def too_short(experiment: Experiment) -> str:
    """What is wrong with a training that may end before its term begins; else "".

    The end of a sentence that begins with the trainer.
    """
    n = experiment.epochs or 1000
    if not experiment.auto or not may_be_too_short(n):
        return ""
    return (
        f"may be trained without its term: in {n} epoch{'s' * (n != 1)} lambda may be 0 to the "
        f"end; give it more epochs"
    )


def explain(experiment: Experiment) -> dict[str, str]:
    """An experiment in words: {aspect: explanation}, in a fixed order."""
    e = experiment
    loss = SEGMENTATION_LOSSES[e.segmentation_loss]
    if e.segmentation_loss in WITH_GAMMA:
        loss += f", gamma {_shown(e.gamma)}"
    term = "none"
    if e.term:
        meaning = TERMS[e.term].meaning
        if "margin" in TERMS[e.term].options:
            meaning += f", margin {_shown(e.margin)}"
        term = f"{e.term} with lambda {_shown(e.weight)}: {meaning}"
        if e.auto:
            term = (
                f"{e.term} with a lambda that the training finds (the term is off for at least the "
                f"first {BEGINS_AT:.0%} of the training): {meaning}"
            )
            if problem := too_short(e):
                term += f". This name {problem}"
        elif not e.weight:
            term = f"{e.term} with lambda 0: none, this is the plain loss"
    epochs = f"{e.epochs or 1000} epochs of {e.iterations or 250} iterations"
    optimiser = "nnU-Net's own (SGD, learning rate 0.01, polynomial decay)"
    if e.paper:
        optimiser = (
            f"the MEEP paper's (Adam, learning rate {PAPER_LEARNING_RATE:g}, multiplied by "
            f"{PAPER_DECAY} every {PAPER_DECAY_EVERY} epochs); deep supervision, augmentation, "
            "batch and patch size are nnU-Net's"
        )
    sampling = "nnU-Net's own (a third of the patches in a batch, rounded: one of two patches)"
    if e.foreground is not None:
        sampling = (
            f"a training patch is centred on foreground with probability {_shown(e.foreground)}; "
            "validation patches are chosen as by nnU-Net"
        )
    seed = "none: repeated trainings give different networks"
    if e.seed is not None:
        seed = (
            f"{e.seed} for the initialisation; with nnUNet_n_proc_DA=0 also for the batches "
            "(otherwise nnU-Net's background loaders choose patches at random)"
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
