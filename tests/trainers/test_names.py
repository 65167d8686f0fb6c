"""The grammar of trainer names: what each name means, what is refused, what is left alone."""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import sys
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nnunet_meep import trainers
from nnunet_meep.trainers.grammar import base_names
from nnunet_meep.trainers.names import TrainerNameError, explain, parse, with_seed, without_seed
from nnunet_meep.trainers.nearest import nearest, suggestion

#: Lambda without an option, of the terms that each segmentation loss takes.
MEEP = {"DiceCE": 0.3, "Dice": 0.5, "CE": 0.1, "Focal": 0.1, "DSCpp": 0.5}
RIVALS = {"CP": 0.2, "MbLS": 0.1, "NACL": 0.1, "mL1ACE": 1.0, "mL1ACEsoft": 1.0}
SMOOTHED = {"LS": 0.1, "SVLS": 1.0}  # need a cross-entropy
#: name: (segmentation loss, term, lambda without an option)
BASES = {}
for _loss, _meep in MEEP.items():
    BASES[f"nnUNetTrainer{_loss}"] = (_loss, None, 0.0)
    _weights = {"MEEP_KL": _meep, "MEEP_H": _meep, **RIVALS}
    if "CE" in _loss:
        _weights |= SMOOTHED
    for _term, _weight in _weights.items():
        _before = _loss.replace("DiceCE", "")
        BASES[f"nnUNetTrainer{_before}{_term}"] = (_loss, _term, _weight)
WITH_TERM = [name for name, (_, term, _) in BASES.items() if term]
WITHOUT_TERM = [name for name in BASES if name not in WITH_TERM]
WITH_MEEP = [name for name in BASES if "MEEP" in name]
WITHOUT_MEEP = [name for name in BASES if "MEEP" not in name]
#: Enough of them where each is tried with many endings.
SOME_WITHOUT_MEEP = [
    *("nnUNetTrainerDiceCE", "nnUNetTrainerCP", "nnUNetTrainerDice", "nnUNetTrainerFocalCP"),
    *("nnUNetTrainerCE", "nnUNetTrainerLS", "nnUNetTrainerDSCpp", "nnUNetTrainermL1ACEsoft"),
]
WITHOUT_GAMMA = [name for name in BASES if "Focal" not in name and "DSCpp" not in name]
#: The largest lambda that a name may have; 0 of a term whose lambda the training alone may find.
LARGEST = {"LS": 1, "SVLS": 0}
#: What an experiment is where the name says nothing; None is nnU-Net's own value.
UNSAID = {
    "auto": False,
    "margin": 10.0,
    "gamma": 2.0,
    "epochs": None,
    "iterations": None,
    "seed": None,
    "paper": False,
    "foreground": None,
}
#: One of each option, in the order of the grammar: all that a name can have.
ALL_OPTIONS = ("lambda0p5", "gamma3", "50epochs", "100iters", "seed7", "paper", "fg0p5")
BILLION = 10**9


def spelt(number: Decimal) -> str:
    """The one spelling of a number: no exponent, no trailing zeros, a p for the point."""
    digits = f"{number:f}"
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits).replace(".", "p")


def fields_of(base: str) -> dict:
    loss, term, weight = BASES[base]
    return {"segmentation_loss": loss, "term": term, "weight": weight, **UNSAID}


@st.composite
def valid_names(draw):
    """(base, options in their order, all fields of the experiment but its name)."""
    base = draw(st.sampled_from(list(BASES)))
    fields = fields_of(base)
    options = []

    def option(values, spelling):
        value = draw(st.none() | values)
        if value is not None:
            options.append(spelling(value))
        return value

    largest = LARGEST.get(BASES[base][1], BILLION - 1)
    if base in WITH_TERM and largest:
        weight = option(st.decimals(0, largest, places=9), lambda x: f"lambda{spelt(x)}")
        fields["weight"] = fields["weight"] if weight is None else float(weight)
    if base.endswith("MbLS"):
        margin = option(st.decimals(0, BILLION - 1, places=9), lambda x: f"margin{spelt(x)}")
        fields["margin"] = 10.0 if margin is None else float(margin)
    if base not in WITHOUT_GAMMA:
        gamma = option(st.decimals(0, BILLION - 1, places=9), lambda x: f"gamma{spelt(x)}")
        fields["gamma"] = 2.0 if gamma is None else float(gamma)
    fields["epochs"] = option(st.integers(1, BILLION - 1), lambda n: f"{n}epochs")
    fields["iterations"] = option(st.integers(1, BILLION - 1), lambda n: f"{n}iters")
    fields["seed"] = option(st.integers(0, BILLION - 1), lambda n: f"seed{n}")
    if option(st.just(True), lambda _: "paper"):
        fields["paper"] = True
        fields["epochs"] = fields["epochs"] or 200
        fields["iterations"] = fields["iterations"] or 40
    foreground = option(st.decimals(0, 1, places=9), lambda x: f"fg{spelt(x)}")
    fields["foreground"] = None if foreground is None else float(foreground)
    return base, options, fields


@pytest.mark.parametrize("base", BASES)
def test_every_base_name_means_its_loss_its_term_and_the_defaults(base):
    assert asdict(parse(base)) == {"name": base, **fields_of(base)}


def test_the_list_of_base_names_is_complete():
    assert sorted(base_names()) == sorted(BASES)
    assert len(BASES) == 44


@given(valid_names())
def test_a_name_made_of_its_parts_is_read_back_as_these_parts(parts):
    base, options, fields = parts
    name = "_".join([base, *options])
    assert asdict(parse(name)) == {"name": name, **fields}
    assert nearest(name) == name
    assert "__" not in name  # where nnU-Net splits the name of a results folder


def test_a_name_may_have_every_option_at_once():
    name = "_".join(["nnUNetTrainerFocalMEEP_H", *ALL_OPTIONS])
    assert asdict(parse(name)) == {
        "name": name,
        "segmentation_loss": "Focal",
        "term": "MEEP_H",
        "weight": 0.5,
        "auto": False,
        "margin": 10.0,
        "gamma": 3.0,
        "epochs": 50,
        "iterations": 100,
        "seed": 7,
        "paper": True,
        "foreground": 0.5,
    }


@pytest.mark.parametrize(
    ("options", "epochs", "iterations"),
    [
        ("paper", 200, 40),
        ("50epochs_paper", 50, 40),
        ("100iters_paper", 200, 100),
        ("50epochs_100iters_paper", 50, 100),
    ],
)
def test_the_papers_training_has_200_epochs_of_40_iterations_unless_said_otherwise(
    options, epochs, iterations
):
    experiment = parse(f"nnUNetTrainerDiceCE_{options}")
    assert experiment.paper
    assert (experiment.epochs, experiment.iterations) == (epochs, iterations)


@pytest.mark.parametrize(
    ("base", "option"),
    [
        (base, f"lambda{spelt(Decimal(str(weight)))}")
        for base, (_, term, weight) in BASES.items()
        if term and term != "SVLS"
    ]
    + [(base, "margin10") for base in BASES if base.endswith("MbLS")]
    + [(base, "gamma2") for base in BASES if base not in WITHOUT_GAMMA]
    + [(f"{base}_paper", option) for base in WITHOUT_TERM for option in ("200epochs", "40iters")],
)
def test_a_default_value_may_be_written_out(base, option):
    loss, *rest = base.split("_paper")
    name = f"{loss}_{option}" + "_paper" * len(rest)
    assert asdict(parse(name)) == {**asdict(parse(base)), "name": name}


@pytest.mark.parametrize(
    ("option", "field", "largest"),
    [("lambda", "weight", BILLION), ("gamma", "gamma", BILLION), ("fg", "foreground", 1)],
)
@given(digits=st.text("0123456789p", max_size=6))
@example(digits="0p30")
@example(digits="00")
@example(digits="1")
@example(digits="1p0")
@example(digits="1p01")
@example(digits="2")
@example(digits="p5")
@example(digits="0p")
@example(digits="0p5")
def test_a_number_has_exactly_one_spelling(option, field, largest, digits):
    name = f"nnUNetTrainerFocalMEEP_KL_{option}{digits}"
    number = digits.replace("p", ".")
    is_number = re.fullmatch(r"[0-9]+(\.[0-9]+)?", number)
    if is_number and digits == spelt(Decimal(number)) and Decimal(number) <= largest:
        assert getattr(parse(name), field) == float(number)
    else:
        with pytest.raises(TrainerNameError):
            parse(name)


@pytest.mark.parametrize(
    ("before", "after", "field", "smallest"),
    [("", "epochs", "epochs", 1), ("", "iters", "iterations", 1), ("seed", "", "seed", 0)],
)
@given(digits=st.text("0123456789", max_size=10))
@example(digits="0")
@example(digits="00")
@example(digits="01")
@example(digits="999999999")
@example(digits="1000000000")
def test_a_whole_number_has_one_spelling_of_up_to_nine_digits(
    before, after, field, smallest, digits
):
    name = f"nnUNetTrainerMEEP_KL_{before}{digits}{after}"
    if digits and digits == str(int(digits)) and smallest <= int(digits) < BILLION:
        assert getattr(parse(name), field) == int(digits)
    else:
        with pytest.raises(TrainerNameError):
            parse(name)


@pytest.mark.parametrize(
    ("iterations", "validation_iterations"),
    [(1, 5), (10, 5), (25, 5), (29, 5), (30, 6), (100, 20), (250, 50), (500, 100)],
)
def test_validation_iterations_are_a_fifth_and_at_least_5(iterations, validation_iterations):
    experiment = parse(f"nnUNetTrainerDiceCE_{iterations}iters")
    assert experiment.validation_iterations == validation_iterations
    assert parse("nnUNetTrainerDiceCE").validation_iterations is None


@given(valid_names(), st.randoms(use_true_random=False))
def test_options_in_another_order_are_refused_and_put_into_the_right_one(parts, random):
    base, options, _ = parts
    shuffled = random.sample(options, len(options))
    assume(shuffled != options)
    with pytest.raises(TrainerNameError):
        parse("_".join([base, *shuffled]))
    assert nearest("_".join([base, *shuffled])) == "_".join([base, *options])


def test_of_all_orders_of_all_options_one_is_right():
    right = "_".join(["nnUNetTrainerFocalCP", *ALL_OPTIONS])
    for options in itertools.permutations(ALL_OPTIONS):
        name = "_".join(["nnUNetTrainerFocalCP", *options])
        assert nearest(name) == right
        if name != right:
            with pytest.raises(TrainerNameError, match="order"):
                parse(name)


@given(valid_names(), st.data())
def test_an_option_given_twice_is_refused_and_left_out_once(parts, data):
    base, options, _ = parts
    assume(options)
    twice = data.draw(st.integers(0, len(options) - 1))
    name = "_".join([base, *options[: twice + 1], *options[twice:]])
    with pytest.raises(TrainerNameError, match=f"'{re.escape(options[twice])}' stands twice"):
        parse(name)
    assert nearest(name) == "_".join([base, *options])


@pytest.mark.parametrize("base", WITH_MEEP)
@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ("lambda0p30", "lambda0p30"),
        ("lambda1p0", "lambda1p0"),
        ("lambda00", "lambda00"),
        ("lambda00p3", "lambda00p3"),
        ("lambda", "lambda"),
        ("lambda0p", "lambda0p"),
        ("lambdap3", "lambdap3"),
        ("lambda-1", "lambda-1"),
        ("lambda-0p3", "lambda-0p3"),
        ("lambda0.3", "lambda0.3"),
        ("lambda0P3", "lambda0P3"),
        ("lambda0p3p1", "lambda0p3p1"),
        ("lambda1e3", "lambda1e3"),
        ("lambdainf", "lambdainf"),
        ("lambdanan", "lambdanan"),
        ("lamda0p3", "lamda0p3"),
        ("Lambda0p3", "Lambda0p3"),
        ("0p3", "0p3"),
        ("lambda1234567890", "lambda1234567890"),
        ("lambda0p1234567891", "lambda0p1234567891"),
        ("0epochs", "0epochs"),
        ("050epochs", "050epochs"),
        ("-5epochs", "-5epochs"),
        ("epochs", "epochs"),
        ("50epoch", "50epoch"),
        ("50Epochs", "50Epochs"),
        ("0iters", "0iters"),
        ("0100iters", "0100iters"),
        ("100iter", "100iter"),
        ("seed", "seed"),
        ("seed01", "seed01"),
        ("seed-1", "seed-1"),
        ("seed1p5", "seed1p5"),
        ("Seed1", "Seed1"),
        ("paper1", "paper1"),
        ("Paper", "Paper"),
        ("fg", "fg"),
        ("fg2", "fg2"),
        ("fg1p1", "fg1p1"),
        ("fg1p0", "fg1p0"),
        ("fg0p90", "fg0p90"),
        ("fg-0p1", "fg-0p1"),
        ("fg0.9", "fg0.9"),
        ("50epochs_lambda0p3", "lambda0p3"),
        ("100iters_50epochs", "50epochs"),
        ("100iters_lambda0p3", "lambda0p3"),
        ("seed1_100iters", "100iters"),
        ("paper_seed1", "seed1"),
        ("fg0p9_paper", "paper"),
        ("lambda0p3_lambda0p3", "lambda0p3"),
        ("lambda0p3_lambda0p1", "lambda0p1"),
        ("50epochs_50epochs", "50epochs"),
        ("50epochs_60epochs", "60epochs"),
        ("100iters_200iters", "200iters"),
        ("seed1_seed2", "seed2"),
        ("paper_paper", "paper"),
        ("fg0_fg1", "fg1"),
        ("lambda0p3_50epochs_100iters_1", "1"),
        ("noMirroring", "noMirroring"),
        ("_50epochs", ""),
        ("50epochs_", ""),
        ("", ""),
        ("50epochs\n", "50epochs"),
    ],
)
def test_a_malformed_option_is_refused_and_named(base, options, culprit):
    with pytest.raises(TrainerNameError) as error:
        parse(f"{base}_{options}")
    assert f"'{culprit}" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerMEEP",
        "nnUNetTrainerMEEP_kl",
        "nnUNetTrainerMEEP_KLD",
        "nnUNetTrainerMEEP_X_50epochs",
        "nnUNetTrainerMEEPKL",
        "nnUNetTrainer_MEEP_KL",
        "nnUNetTrainerDiceCEMEEP_KL",
        "nnUNetTrainerDiceCEMEEP_H_lambda0p3",
        "nnUNetTrainerDiceCECP",
        "nnUNetTrainerDiceCECP_lambda0p2",
        "nnUNetTrainerDiceCECP_50epochs_seed1",
        "nnUNetTrainerCEDiceMEEP_KL",
        "nnUNetTrainerDice_MEEP_KL",
        "nnUNetTrainerfocalMEEP_KL",
        "nnUNetTrainerMEEP_KLMEEP_H",
        "nnUNetTrainerMEEP_KL_MEEP_H",
        "nnUNetTrainerCPMEEP_KL",
        "nnUNetTrainerMEEP_KLlambda0p3",
        "nnUNetTrainerMEEP_KL50epochs",
    ],
)
def test_a_name_of_ours_that_is_no_base_name_is_refused_with_the_right_names(name):
    with pytest.raises(TrainerNameError) as error:
        parse(name)
    assert str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize("base", SOME_WITHOUT_MEEP)
@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ("lambda0p30", "lambda0p30"),
        ("lambda-0p3", "lambda-0p3"),
        ("lambdanan", "lambdanan"),
        ("lambda", "lambda"),
        ("gamma-1", "gamma-1"),
        ("gamma2p0", "gamma2p0"),
        ("gammainf", "gammainf"),
        ("0epochs", "0epochs"),
        ("050epochs", "050epochs"),
        ("50epoch", "50epoch"),
        ("0iters", "0iters"),
        ("100iter", "100iter"),
        ("seed01", "seed01"),
        ("seed-1", "seed-1"),
        ("fg1p1", "fg1p1"),
        ("fg0.9", "fg0.9"),
        ("100iters_50epochs", "50epochs"),
        ("fg0p9_seed1", "seed1"),
        ("50epochs_50epochs", "50epochs"),
    ],
)
def test_a_loss_without_meep_refuses_what_is_shaped_like_an_option_and_is_none(
    base, options, culprit
):
    with pytest.raises(TrainerNameError, match=re.escape(f"'{culprit}'")):
        parse(f"{base}_{options}")


@pytest.mark.parametrize("base", WITHOUT_TERM)
@pytest.mark.parametrize("options", ["lambda0p3", "lambda0", "lambda0p3_50epochs_fg1"])
def test_without_a_term_there_is_no_lambda(base, options):
    with pytest.raises(TrainerNameError, match=f"'{options.split('_')[0]}' needs a term"):
        parse(f"{base}_{options}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DiceLS", "'DiceLS' .*: LS changes the target of the cross-entropy, and Dice has none"),
        ("DSCppLS_lambda0p1", "LS changes the target of the cross-entropy, and DSCpp has none"),
        ("FocalSVLS_50epochs", "SVLS changes the target .*, and Focal has none"),
        ("DiceCENACL", "'DiceCENACL' .*: DiceCE is left out before a term"),
        ("SVLS_lambda1", "'lambda1' is not for SVLS, which has no weight; _lambdaauto lets"),
        ("CELS_lambda1p1", "'lambda1p1' is too large: for LS, lambda is a share from 0 to 1"),
        ("mL1ACE_lambdaauto", "'lambdaauto' is not for mL1ACE: more of it does not always lower"),
        ("mL1ACEsoft_lambdaauto", "raises that of an underconfident network"),
        ("NACL_margin5", "'margin5' belongs to MbLS alone"),
        ("CE_margin5", "'margin5' belongs to MbLS alone"),
    ],
)
def test_what_a_term_cannot_have_is_refused_with_the_reason(name, why):
    with pytest.raises(TrainerNameError, match=why):
        parse(f"nnUNetTrainer{name}")


@pytest.mark.parametrize("base", WITHOUT_GAMMA)
@pytest.mark.parametrize("options", ["gamma2", "gamma0p5", "gamma2_50epochs_paper"])
def test_a_loss_other_than_focal_has_no_gamma(base, options):
    with pytest.raises(TrainerNameError, match=f"'{options.split('_')[0]}' belongs to the Focal"):
        parse(f"{base}_{options}")


#: wrong name: the one that is meant. All of them are refused, with that name in the message.
NEAREST = {
    # spelling of a number
    "nnUNetTrainerMEEP_KL_lambda0p50": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda0.5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda0,5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda.5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambdap5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda0P5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda00p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda+0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_H_lambda1p0": "nnUNetTrainerMEEP_H_lambda1",
    "nnUNetTrainerDiceCP_lambda1.0": "nnUNetTrainerDiceCP_lambda1",
    "nnUNetTrainerFocal_gamma2p50": "nnUNetTrainerFocal_gamma2p5",
    "nnUNetTrainerCE_fg0p50": "nnUNetTrainerCE_fg0p5",
    "nnUNetTrainerCE_fg.5": "nnUNetTrainerCE_fg0p5",
    "nnUNetTrainerCE_fg1p0": "nnUNetTrainerCE_fg1",
    "nnUNetTrainerMEEP_KL_seed007": "nnUNetTrainerMEEP_KL_seed7",
    "nnUNetTrainerDice_seed00": "nnUNetTrainerDice_seed0",
    "nnUNetTrainerMEEP_KL_060epochs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_0000000000060epochs": "nnUNetTrainerMEEP_KL_60epochs",
    # no value of the option: its example instead
    "nnUNetTrainerMEEP_KL_lambda-0p5": "nnUNetTrainerMEEP_KL_lambda0p3",
    "nnUNetTrainerMEEP_KL_lambda1e3": "nnUNetTrainerMEEP_KL_lambda0p3",
    "nnUNetTrainerMEEP_KL_lambdanan": "nnUNetTrainerMEEP_KL_lambda0p3",
    "nnUNetTrainerCE_lambda0p5dice": "nnUNetTrainerCEMEEP_KL_lambda0p3",
    "nnUNetTrainerMEEP_KL_lambda": "nnUNetTrainerMEEP_KL_lambda0p3",
    "nnUNetTrainerMEEP_KL_lambda_60epochs": "nnUNetTrainerMEEP_KL_lambda0p3_60epochs",
    "nnUNetTrainerMEEP_KL_seed_60iters": "nnUNetTrainerMEEP_KL_60iters_seed1",
    "nnUNetTrainerFocal_gamma-1": "nnUNetTrainerFocal_gamma2",
    "nnUNetTrainerMEEP_KL_0epochs": "nnUNetTrainerMEEP_KL_50epochs",
    "nnUNetTrainerMEEP_KL_0iters": "nnUNetTrainerMEEP_KL_100iters",
    "nnUNetTrainerMEEP_KL_1234567890epochs": "nnUNetTrainerMEEP_KL_50epochs",
    "nnUNetTrainerMEEP_KL_seed-4": "nnUNetTrainerMEEP_KL_seed1",
    "nnUNetTrainerMEEP_KL_fg1p5": "nnUNetTrainerMEEP_KL_fg0p9",
    # spelling of an option
    "nnUNetTrainerMEEP_KL_Lambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lamda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda_0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_60epoch": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_60Epochs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_60_epochs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerDice_60epoch": "nnUNetTrainerDice_60epochs",
    "nnUNetTrainerMEEP_KL_60iter": "nnUNetTrainerMEEP_KL_60iters",
    "nnUNetTrainerMEEP_KL_60iterations": "nnUNetTrainerMEEP_KL_60iters",
    "nnUNetTrainerMEEP_KL_Seed4": "nnUNetTrainerMEEP_KL_seed4",
    "nnUNetTrainerMEEP_KL_Paper": "nnUNetTrainerMEEP_KL_paper",
    "nnUNetTrainerMEEP_KL_FG0p5": "nnUNetTrainerMEEP_KL_fg0p5",
    "nnUNetTrainerMEEP_KL_epochs60": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_epoch_60": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_epochs=60": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_60ep": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_iters60": "nnUNetTrainerMEEP_KL_60iters",
    "nnUNetTrainerMEEP_KL_iterations_60": "nnUNetTrainerMEEP_KL_60iters",
    "nnUNetTrainerMEEP_KL_epochs60_40iters": "nnUNetTrainerMEEP_KL_60epochs_40iters",
    "nnUNetTrainerMEEP_KL_epochs_60_iters_40": "nnUNetTrainerMEEP_KL_60epochs_40iters",
    "nnUNetTrainerMEEP_KL_60_epochs_40_iters": "nnUNetTrainerMEEP_KL_60epochs_40iters",
    "nnUNetTrainerMEEP_KL_lambda_1_epochs_60": "nnUNetTrainerMEEP_KL_lambda1_60epochs",
    "nnUNetTrainerMEEP_KL_lambda_0.50": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lam0.5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_l0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_seed_4": "nnUNetTrainerMEEP_KL_seed4",
    "nnUNetTrainerMEEP_KL_fg_0.5": "nnUNetTrainerMEEP_KL_fg0p5",
    # typing errors
    "nnUNetTrainerMEEP_KL_60epohcs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerDiceCE_60epohcs": "nnUNetTrainerDiceCE_60epochs",
    "nnUNetTrainerCE_60epichs": "nnUNetTrainerCE_60epochs",
    "nnUNetTrainerCE_60iterss": "nnUNetTrainerCE_60iters",
    "nnUNetTrainerCE_60itres_seed4": "nnUNetTrainerCE_60iters_seed4",
    "nnUNetTrainerDice_lamda0p5": "nnUNetTrainerDiceMEEP_KL_lambda0p5",
    "nnUNetTrainerDice_lamdbaauto": "nnUNetTrainerDiceMEEP_KL_lambdaauto",
    "nnUNetTrainerCP_lmabda0p5": "nnUNetTrainerCP_lambda0p5",
    "nnUNetTrainerFocal_gama3": "nnUNetTrainerFocal_gamma3",
    "nnUNetTrainerDice_sede4": "nnUNetTrainerDice_seed4",
    "nnUNetTrainerDice_papper": "nnUNetTrainerDice_paper",
    # order and number of options
    "nnUNetTrainerMEEP_KL_60epochs_lambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5_60epochs",
    "nnUNetTrainerCP_60iters_60epochs": "nnUNetTrainerCP_60epochs_60iters",
    "nnUNetTrainerFocalCP_gamma3_lambda0p5": "nnUNetTrainerFocalCP_lambda0p5_gamma3",
    "nnUNetTrainerMEEP_KL_lambda0p5_lambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL_lambda0p5_lambda0p1": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainer_60epochs_MEEP_H": "nnUNetTrainerMEEP_H_60epochs",
    "nnUNetTrainerDice_60epochs_MEEP_H": "nnUNetTrainerDiceMEEP_H_60epochs",
    # underscores
    "nnUNetTrainerMEEP_KLlambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_KL60epochs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_60epochs60iters": "nnUNetTrainerMEEP_KL_60epochs_60iters",
    "nnUNetTrainerMEEP_KL__60epochs": "nnUNetTrainerMEEP_KL_60epochs",
    "nnUNetTrainerMEEP_KL_": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainer_MEEP_KL": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerDice_MEEP_H": "nnUNetTrainerDiceMEEP_H",
    "nnUNetTrainerMEEPKL": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerMEEPH_60epochs": "nnUNetTrainerMEEP_H_60epochs",
    # loss and term
    "nnUNetTrainerDiceCEMEEP_KL": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerDiceCEMEEP_H_lambda0p5": "nnUNetTrainerMEEP_H_lambda0p5",
    "nnUNetTrainerDiceCECP": "nnUNetTrainerCP",
    "nnUNetTrainerDiceCECP_60epochs": "nnUNetTrainerCP_60epochs",
    "nnUNetTrainerCEDiceMEEP_KL": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerFocalLossMEEP_KL": "nnUNetTrainerFocalMEEP_KL",
    "nnUNetTrainerdiceMEEP_KL": "nnUNetTrainerDiceMEEP_KL",
    "nnUNetTrainerMEEP_kl": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerCEMEEP_h_lambda0p5": "nnUNetTrainerCEMEEP_H_lambda0p5",
    "nnUNetTrainerMEEP_KLD_lambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerMEEP_entropy": "nnUNetTrainerMEEP_H",
    "nnUNetTrainerMEEP": "nnUNetTrainerMEEP_KL",
    "nnUNetTrainerDiceMEEP_lambda0p5": "nnUNetTrainerDiceMEEP_KL_lambda0p5",
    "nnUNetTrainerDice_lambda0p5": "nnUNetTrainerDiceMEEP_KL_lambda0p5",
    "nnUNetTrainerDiceCE_lambda0p5": "nnUNetTrainerMEEP_KL_lambda0p5",
    "nnUNetTrainerCE_gamma3": "nnUNetTrainerFocal_gamma3",
    "nnUNetTrainerMEEP_H_gamma3": "nnUNetTrainerFocalMEEP_H_gamma3",
    "nnUNetTrainerDiceLS": "nnUNetTrainerLS",
    "nnUNetTrainerFocalSVLS_50epochs": "nnUNetTrainerSVLS_50epochs",
    "nnUNetTrainerDiceCELS_lambda0p2": "nnUNetTrainerLS_lambda0p2",
    "nnUNetTrainerDiceCEmL1ACE": "nnUNetTrainermL1ACE",
    "nnUNetTrainerDSCpp_lambda0p5": "nnUNetTrainerDSCppMEEP_KL_lambda0p5",
    "nnUNetTrainerDice_margin5": "nnUNetTrainerDiceMbLS_margin5",
    "nnUNetTrainerMbLS_margin5_lambda0.10": "nnUNetTrainerMbLS_lambda0p1_margin5",
    "nnUNetTrainerMbLS_magrin5": "nnUNetTrainerMbLS_margin5",
    "nnUNetTrainerNACL_gamma3": "nnUNetTrainerFocalNACL_gamma3",
    # what is no option of ours is left out
    "nnUNetTrainerMEEP_KL_noMirroring_60epochs": "nnUNetTrainerMEEP_KL_60epochs",
}


@pytest.mark.parametrize(("wrong", "right"), NEAREST.items())
def test_a_wrong_name_is_refused_with_the_one_that_is_meant(wrong, right):
    assert nearest(wrong) == right
    with pytest.raises(TrainerNameError) as error:
        parse(wrong)
    assert str(error.value).startswith(f"{wrong}: ")
    assert str(error.value).endswith(f" {right}")


@pytest.mark.parametrize(
    ("wrong", "end"),
    [
        (
            "MEEP_KL_lambda1e3",
            "name, with an example in place of 'lambda1e3', is {}MEEP_KL_lambda0p3",
        ),
        (
            "MEEP_KL_lambda0p50_0epochs",
            "name, with an example in place of '0epochs', is {}MEEP_KL_lambda0p5_50epochs",
        ),
        ("MEEP_KL_1e3epochs", "with an example in place of '1e3epochs', is {}MEEP_KL_50epochs"),
        ("MEEP_KL_0p3", "name, without '0p3', is {}MEEP_KL"),
        ("MEEP_KL_l1", "name, without 'l1', is {}MEEP_KL"),
        ("MEEP_KL_60epohcs_v2", "name, without 'v2', is {}MEEP_KL_60epochs"),
        ("DA5MEEP_KL", "name, without 'DA5', is {}MEEP_KL"),
        ("BN_MEEP_KL", "name, without 'BN', is {}MEEP_KL"),
        ("TverskyMEEP_H", "name, without 'Tversky', is {}MEEP_H"),
        ("MEEP_KL_noMirroring", "name, without 'noMirroring', is {}MEEP_KL"),
        ("MEEP_KL_Dice", "name is {}DiceMEEP_KL"),
        ("MEEP_Dice_50epochs", "name is {}DiceMEEP_KL_50epochs"),
        ("MEEP_HDice", "name is {}DiceMEEP_H"),
        ("MEEP_KLD", "name is {}MEEP_KL"),
        ("MEEP_CP", "name, without 'CP', is {}MEEP_KL"),
        ("MEEP_hybrid", "name, without 'hybrid', is {}MEEP_KL"),
        ("CELS_lambda0p2_gamma2", "name, without 'gamma2', is {}CELS_lambda0p2"),
        ("MEEP_KL_seed1_seed2_seed1", "name, without 'seed2', is {}MEEP_KL_seed1"),
        ("mL1ACE_lambdaauto", "name, without 'lambdaauto', is {}mL1ACE"),
        ("SVLS_lambda0p3_seed1", "name, without 'lambda0p3', is {}SVLS_seed1"),
        ("LS_lambda1p5", "name, without 'lambda1p5', is {}LS"),
        ("NACL_margin5", "name, without 'margin5', is {}NACL"),
        (
            "MEEP_KL_lambdanan_7_60epochs_x",
            "name, with an example in place of 'lambda' and without 'nan_7', 'x', is "
            "{}MEEP_KL_lambda0p3_60epochs",
        ),
    ],
)
def test_what_of_a_wrong_name_is_not_in_the_nearest_one_is_said(wrong, end):
    with pytest.raises(TrainerNameError) as error:
        parse(f"nnUNetTrainer{wrong}")
    assert str(error.value).endswith(end.format("nnUNetTrainer"))


@given(st.text("_=0123456789pambdel.-+echositrfgKLMEPH"))
@example("epochs50")
@example("lambda_1_epochs_50")
@example("7_MEEP_H_8")
@example("seed150epochs")
@example("lambda0p3_lambda0p5")
def test_no_number_of_a_name_is_dropped_without_a_word(options):
    answer = suggestion(f"nnUNetTrainerMEEP_KL_{options}")
    for digits in re.findall("[0-9]+", options):
        assert digits.strip("0") in answer


@given(valid_names(), st.data())
def test_options_in_other_spellings_are_understood(parts, data):
    base, options, _ = parts
    others = []
    for option in options:
        word, number = re.sub("[0-9p]", "", option), "".join(re.findall("[0-9]+p?", option))
        if option == "paper":
            spellings = ["Paper", "paepr"]
        elif word in ("epochs", "iters"):
            spellings = [
                f"{word}{number}",
                f"{word}={number}",
                f"0{option}",
                f"{number}{word[:-1]}",
            ]
        else:
            decimal = number.replace("p", ".")
            spellings = [f"{word}=0{number}", f"{word}{decimal}", f"{word.upper()}_{number}"]
        others.append(data.draw(st.sampled_from(spellings)))
    assert suggestion("_".join([base, *others])).endswith(f"name is {'_'.join([base, *options])}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("nnUNetTrainer_seed4", "nnUNetTrainerDiceCE_seed4"),
        ("nnUNetTrainer_lambdaauto", "nnUNetTrainerMEEP_KL_lambdaauto"),
        ("nnUNetTrainer_gamma3", "nnUNetTrainerFocal_gamma3"),
        ("nnUNetTrainermeep_kl", "nnUNetTrainerMEEP_KL"),
        ("nnunettrainermeep_h_60epochs", "nnUNetTrainerMEEP_H_60epochs"),
        ("MEEP_KL", "nnUNetTrainerMEEP_KL"),
        ("nnUNetTrainerFocalLoss", "nnUNetTrainerFocal"),
        ("nnUNetTrainerDice_Lambda0p5", "nnUNetTrainerDiceMEEP_KL_lambda0p5"),
        ("nnUNetTrainerDice_60Epochs", "nnUNetTrainerDice_60epochs"),
        ("nnUNetTrainercp_lambda0p5", "nnUNetTrainerCP_lambda0p5"),
        ("nnUNetTrainer_60epochs", "nnUNetTrainerDiceCE_60epochs"),
        ("nnUNetTrainernacl_lambdaauto", "nnUNetTrainerNACL_lambdaauto"),
        ("nnUNetTrainerml1acesoft", "nnUNetTrainermL1ACEsoft"),
        ("nnUNetTrainermL1ACE_soft", "nnUNetTrainermL1ACEsoft"),
        ("nnUNetTrainerMbLS_margin_5", "nnUNetTrainerMbLS_margin5"),
        ("nnUNetTrainerCELoss", "nnUNetTrainerCE"),
        ("", "nnUNetTrainerDiceCE"),
    ],
)
def test_names_that_are_not_ours_have_a_nearest_one_too(wrong, right):
    assert parse(wrong) is None
    assert nearest(wrong) == right


@given(
    st.text()
    | st.text().map("nnUNetTrainer".__add__)
    | st.lists(
        st.sampled_from([*BASES, *ALL_OPTIONS, "_", "-", ".", "p", "٣", "²", "\n", "lamda", "MEEP"])
        | st.text("0123456789", min_size=1)
    ).map("".join)
)
@example("nnUNetTrainerMEEP_KL_lambda0p٣")
@example("nnUNetTrainerMEEP_KL_1٠epochs")
@example("nnUNetTrainerMEEP_KL_ſeed1")  # a small letter whose capital is S
@example("nnUNetTrainerMEEP_KL_1İters")
@example("nnUNetTrainerMEEP_KL_lambda" + "9" * 5000)
@example("nnUNetTrainerMEEP_KL_" + "9" * 5000 + "epochs")
@example("nnUNetTrainerMEEP_KL_seed" + "0" * 5000)
@example("nnUNetTrainerMEEP_KL_lambda0p" + "0" * 5000 + "1")
@example("nnUNetTrainerMEEP_KL\n")
@example("\nlambda\n0p3")
def test_the_nearest_name_to_any_text_is_a_right_one(text):
    name = nearest(text)
    assert parse(name) is not None
    assert nearest(name) == name
    assert "__" not in name


#: wrong name: the part of it that is wrong
CULPRITS = {
    "nnUNetTrainerMEEP_KL_lambda-0p3": "lambda-0p3",
    "nnUNetTrainerCP_lambda-1": "lambda-1",
    "nnUNetTrainerMEEP_KL_lambdafoo": "lambdafoo",
    "nnUNetTrainerCP_lambdanan": "lambdanan",
    "nnUNetTrainerMEEP_KL_gamma2": "gamma2",
    "nnUNetTrainerCE_gamma2": "gamma2",
    "nnUNetTrainerDiceCP_lambda0p2_gamma2": "gamma2",
    "nnUNetTrainerDiceCE_lambda0p3": "lambda0p3",
    "nnUNetTrainerMEEP_KL_0epochs": "0epochs",
    "nnUNetTrainerDice_0epochs": "0epochs",
    "nnUNetTrainerMEEP_X": "MEEP_X",
    "nnUNetTrainerDiceMEEP": "DiceMEEP",
    "nnUNetTrainerMEEP_H_seed01": "seed01",
    "nnUNetTrainerFocal_seed007": "seed007",
    "nnUNetTrainerMEEP_H_fg1p1": "fg1p1",
    "nnUNetTrainerCE_fg2": "fg2",
    "nnUNetTrainerDiceMEEP_KL_50epochs_lambda0p3": "lambda0p3",
    "nnUNetTrainerMEEP_H_lambda0p30": "lambda0p30",
}


@pytest.mark.parametrize(("name", "culprit"), CULPRITS.items())
def test_an_error_is_one_line_with_the_name_the_wrong_part_and_right_names(name, culprit):
    with pytest.raises(TrainerNameError) as error:
        parse(name)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{name}: '{culprit}' ")
    suggested = set(re.findall(r"nnUNetTrainer[\w-]+", message)) - {name}
    assert suggested
    for other in suggested:
        assert parse(other) is not None


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("lambda-1", "_lambda0p3"),
        ("gamma-1", "_gamma2"),
        ("margin-1", "_margin10"),
        ("0epochs", "_50epochs"),
        ("0iters", "_100iters"),
        ("seed01", "_seed1"),
        ("fg2", "_fg0p9"),
    ],
)
def test_an_option_with_a_wrong_value_is_answered_with_a_right_example(option, right):
    with pytest.raises(TrainerNameError, match=f"'{option}' .* for example {right};"):
        parse(f"nnUNetTrainerFocalMbLS_{option}")
    assert parse(f"nnUNetTrainerFocalMbLS{right}") is not None


@given(st.text().map("nnUNetTrainerMEEP_".__add__))
@example("nnUNetTrainerMEEP_KL\r")  # from a script with Windows line ends
@example("nnUNetTrainerMEEP_KL_50epochs\n")
@example("nnUNetTrainerMEEP_KL_50epochs\u2028")
def test_an_error_is_one_line_whatever_the_name_contains(name):
    assume(name not in BASES)
    with pytest.raises(TrainerNameError) as error:
        parse(name)
    assert str(error.value).isprintable()


def test_the_error_is_not_one_that_hasattr_swallows():
    assert not issubclass(TrainerNameError, AttributeError)


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer",
        "nnUNetTrainer_50epochs",
        "nnUNetTrainerDiceLoss",
        "nnUNetTrainerCELoss",
        "nnUNetTrainerCELoss_5epochs",
        "nnUNetTrainerDiceCELoss_noSmooth",
        "nnUNetTrainerDice_myversion",
        "nnUNetTrainerDice_my_version",
        "nnUNetTrainerDice_50epochs_v2",
        "nnUNetTrainerDice_v2_50epochs",
        "nnUNetTrainerDice_lambda0p3_mine",
        "nnUNetTrainerDice_Lambda0p3",
        "nnUNetTrainerDice_lamda0p3_mine",
        "nnUNetTrainerDice_50epohcs_v2",
        "nnUNetTrainerDice_epochs50",
        "nnUNetTrainerDice_seed_1",
        "nnUNetTrainerDiceMyIdea_50epochs",
        "nnUNetTrainer_seed1",
        "nnUNetTrainer_lambdaauto",
        "nnUNetTrainerDice_",
        "nnUNetTrainerDice__50epochs",
        "nnUNetTrainerDiceFocal",
        "nnUNetTrainerFocalLoss",
        "nnUNetTrainerFocal_alpha0p25",
        "nnUNetTrainerCPU",
        "nnUNetTrainerCP_mine",
        "nnUNetTrainerCP_KL",
        "nnUNetTrainerDiceCECP_mine",
        "nnUNetTrainerDiceCP50epochs",
        "nnUNetTrainerCE_noMirroring",
        "nnUNetTrainerCE_noMirroring_50epochs",
        "nnUNetTrainerDiceCE_DA5",
        "nnUNetTrainerH",
        "nnUNetTrainerKL_lambda0p3",
        "nnUNetTrainerLS_mine",
        "nnUNetTrainerDiceLS_v2",
        "nnUNetTrainerNACL_v2_50epochs",
        "nnUNetTrainermL1ACE_soft",
        "nnUNetTrainerMbLS_margin",
        "nnUNetTrainerDSC",
        "MEEP",
        "MEEP_KL",
        "nnunettrainerMEEP_KL",
        "mynnUNetTrainerMEEP_KL",
        "",
    ],
)
def test_a_name_that_is_not_ours_is_nothing_and_no_error(name):
    assert parse(name) is None
    with pytest.raises(AttributeError, match=re.escape(name) or None):
        getattr(trainers, name)


@pytest.mark.parametrize("base", SOME_WITHOUT_MEEP)
@pytest.mark.parametrize(
    "suffix",
    [
        "v2",
        "lr3",
        "3layers",
        "fold0",
        "ds2019",
        "lambdaschedule",
        "gamma",
        "seed",
        "seeds1",
        "margin",
        "fg",
        "fgonly",
        "epochs",
        "iters",
        "50ep",
        "paper2",
        "newspaper",
        "speed1",
        "3tiers",
        "2items",
        "taper",
        "1٠epochs",
    ],
)
def test_a_users_own_trainer_that_begins_like_a_loss_of_ours_is_not_ours(base, suffix):
    assert parse(f"{base}_{suffix}") is None
    assert parse(f"{base}_{suffix}_50epochs") is None
    assert parse(f"{base}_50epochs_{suffix}") is None


@given(st.text())
def test_a_text_that_does_not_begin_like_a_trainer_of_ours_is_nothing(text):
    assert parse(text) is None
    assert parse("MEEP_KL_" + text) is None
    ours = ("MEEP", *MEEP, *RIVALS, *SMOOTHED)
    if "MEEP" not in text and not text.startswith(ours):
        assert parse("nnUNetTrainer" + text) is None


@given(st.text("_0123456789DiceCEFocalPMH"), st.text("_0123456789pambdel-echositrKLMEPH\n٣"))
@example("", "_KL")
@example("my", "")
def test_a_trainer_with_meep_in_its_name_is_understood_or_refused(before, after):
    name = f"nnUNetTrainer{before}MEEP{after}"
    try:
        assert parse(name).name == name
    except TrainerNameError as error:
        assert str(error).endswith(nearest(name))  # noqa: PT017


@given(base=st.sampled_from(WITHOUT_MEEP), rest=st.text("_0123456789pambdel-echositrKLMEPHfgs\n٣"))
def test_whatever_follows_a_loss_it_is_understood_or_refused_or_nothing(base, rest):
    try:
        experiment = parse(base + rest)
    except TrainerNameError:
        ends = [f"{term}_" for term in (*RIVALS, *SMOOTHED)]
        assert "MEEP" in rest or rest.startswith(("_", *ends))
    else:
        assert experiment is None or experiment.name == base + rest


@pytest.mark.parametrize(
    "option", ["lambda0p٣1", "lambda1٠", "1٠epochs", "1٠iters", "seed٣", "fg0p٣"]
)
def test_only_the_ten_ascii_digits_are_digits(option):
    with pytest.raises(TrainerNameError):
        parse(f"nnUNetTrainerMEEP_KL_{option}")


def test_no_name_of_nnunet_itself_is_ours():
    folder = Path(importlib.util.find_spec("nnunetv2").origin).parent
    names = {
        name
        for file in folder.rglob("*.py")
        for name in re.findall(r"^class (\w+)", file.read_text("utf-8"), re.M)
    }
    assert {"nnUNetTrainer", "nnUNetTrainerDiceCELoss_noSmooth", "nnUNetPredictor"} <= names
    assert not [name for name in names if parse(name) is not None]


@given(valid_names(), st.integers(0, BILLION - 1))
def test_a_seed_is_put_at_its_place_and_taken_out_again(parts, seed):
    base, options, fields = parts
    rest = [option for option in options if not option.startswith("seed")]
    name = "_".join([base, *rest])
    seeded = with_seed(name, seed)
    assert asdict(parse(seeded)) == {**fields, "name": seeded, "seed": seed}
    assert without_seed(seeded) == (name, seed)
    assert without_seed(name) == (name, None)


@pytest.mark.parametrize(
    ("name", "seed", "told"),
    [
        ("nnUNetTrainerMEEP_KL_seed1_paper", 2, "expected a name without a seed, .* seed 1$"),
        ("nnUNetTrainer", 2, "'nnUNetTrainer' takes no seed.* nnUNetTrainerDiceCE_seed2$"),
        ("nnUNetTrainerDA5", 2, "'nnUNetTrainerDA5' .* no name of nnunet-meep$"),
        ("nnUNetTrainerMEEP_KL_50epoch", 2, "'50epoch' is not an option"),
        ("nnUNetTrainerDice_paper", -1, "'seed-1' is not an option; seed takes a whole number"),
        ("nnUNetTrainerDice", BILLION, "'seed1000000000' is not an option"),
    ],
)
def test_a_name_that_takes_no_seed_is_refused(name, seed, told):
    with pytest.raises(TrainerNameError, match=told):
        with_seed(name, seed)


def test_a_name_that_is_not_ours_has_no_seed_of_ours():
    assert without_seed("nnUNetTrainer_seed1") == ("nnUNetTrainer_seed1", None)


#: segmentation loss or term: words that have to stand in its explanation
WORDS = {
    "DiceCE": ["Dice + CE"],
    "Dice": ["Dice alone"],
    "CE": ["cross-entropy alone"],
    "Focal": ["focal"],
    "MEEP_KL": ["MEEP_KL", "KL", "misclassified", "added"],
    "MEEP_H": ["MEEP_H", "entropy", "misclassified", "subtracted"],
    "CP": ["CP", "entropy", "all voxels", "subtracted"],
    "DSCpp": ["DSC++"],
    "LS": ["label smoothing", "all classes"],
    "SVLS": ["label smoothing", "neighbours"],
    "MbLS": ["logits", "margin", "added"],
    "NACL": ["logits", "neighbours", "added"],
    "mL1ACE": ["calibration error", "hard bins", "added"],
    "mL1ACEsoft": ["calibration error", "soft bins", "added"],
}


def number_after(word: str, text: str) -> float | None:
    found = re.search(rf"\b{word} ([0-9.]+(?:e-?[0-9]+)?)", text)
    return float(found[1]) if found else None


@given(valid_names())
@example(("nnUNetTrainerCP", ["lambda0"], {**fields_of("nnUNetTrainerCP"), "weight": 0.0}))
@example(("nnUNetTrainerCE", ["seed0"], {**fields_of("nnUNetTrainerCE"), "seed": 0}))
@example(("nnUNetTrainerCE", ["fg0"], {**fields_of("nnUNetTrainerCE"), "foreground": 0.0}))
def test_an_explanation_says_what_the_name_says(parts):
    base, options, fields = parts
    name = "_".join([base, *options])
    told = explain(parse(name))
    assert all(text and text.isprintable() for text in told.values())

    loss, term, weight = fields["segmentation_loss"], fields["term"], fields["weight"]
    assert all(word in told["segmentation loss"] for word in WORDS[loss])
    gamma = fields["gamma"] if loss in ("Focal", "DSCpp") else None
    assert number_after("gamma", told["segmentation loss"]) == gamma
    if term is None:
        assert told["term"] == "none"
    else:
        assert term in told["term"]
        assert number_after("lambda", told["term"]) == weight
        assert all(word in told["term"] for word in WORDS[term]) or not weight
        assert number_after("margin", told["term"]) == (
            fields["margin"] if term == "MbLS" and weight else None
        )
    epochs, iterations = fields["epochs"] or 1000, fields["iterations"] or 250
    assert told["length"] == f"{epochs} epochs of {iterations} iterations"
    assert ("Adam" in told["optimiser"]) == fields["paper"]
    assert ("SGD" in told["optimiser"]) != fields["paper"]
    assert number_after("probability", told["foreground"]) == fields["foreground"]
    seed = fields["seed"]
    assert told["seed"].startswith("none" if seed is None else f"{seed} ")
    assert told["results folder"].startswith(f"{name}__")


def test_explanations_have_the_same_aspects_in_the_same_order():
    plain = explain(parse("nnUNetTrainerDiceCE"))
    full = explain(parse("_".join(["nnUNetTrainerFocalMEEP_H", *ALL_OPTIONS])))
    assert list(plain) == list(full)
    assert all(plain[aspect] != full[aspect] for aspect in plain)


def test_lambda_0_is_explained_as_no_term():
    assert "plain loss" in explain(parse("nnUNetTrainerMEEP_KL_lambda0"))["term"]


def test_the_meaning_of_a_name_needs_neither_torch_nor_nnunet():
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['nnunetv2'] = None\n"
        "from nnunet_meep import trainers\n"
        "from nnunet_meep.trainers.names import explain, parse\n"
        "from nnunet_meep.trainers.nearest import nearest\n"
        "assert explain(parse('nnUNetTrainerMEEP_KL'))\n"
        "assert nearest('nnUNetTrainerMEEP') == 'nnUNetTrainerMEEP_KL'\n"
        "assert not hasattr(trainers, 'nnUNetTrainerDiceLoss')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
