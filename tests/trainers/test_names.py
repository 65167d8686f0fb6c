"""The grammar of trainer names: what each name means, what is refused, what is left alone."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_meep import trainers
from nnunet_meep.trainers.names import TrainerNameError, base_names, parse

#: name: (segmentation loss, term, lambda without an option)
BASES = {
    "nnUNetTrainerDiceCE": ("DiceCE", None, 0.0),
    "nnUNetTrainerMEEP_KL": ("DiceCE", "MEEP_KL", 0.3),
    "nnUNetTrainerMEEP_H": ("DiceCE", "MEEP_H", 0.3),
    "nnUNetTrainerDice": ("Dice", None, 0.0),
    "nnUNetTrainerDiceMEEP_KL": ("Dice", "MEEP_KL", 0.5),
    "nnUNetTrainerDiceMEEP_H": ("Dice", "MEEP_H", 0.5),
    "nnUNetTrainerCE": ("CE", None, 0.0),
    "nnUNetTrainerCEMEEP_KL": ("CE", "MEEP_KL", 0.1),
    "nnUNetTrainerCEMEEP_H": ("CE", "MEEP_H", 0.1),
}
WITH_TERM = [name for name in BASES if "MEEP" in name]
WITHOUT_TERM = [name for name in BASES if "MEEP" not in name]


def lambda_option(weight: Decimal) -> str:
    """The one spelling of a weight: no exponent, no trailing zeros, a p for the point."""
    digits = f"{weight:f}"
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits).replace(".", "p")


@pytest.mark.parametrize(("name", "meaning"), BASES.items())
def test_every_base_name_means_its_loss_its_term_and_the_default_lambda(name, meaning):
    experiment = parse(name)
    assert experiment is not None
    assert (experiment.segmentation_loss, experiment.term, experiment.weight) == meaning
    assert (experiment.epochs, experiment.iterations) == (None, None)
    assert experiment.name == name


def test_the_list_of_base_names_is_complete():
    assert sorted(base_names()) == sorted(BASES)


@given(
    base=st.sampled_from(sorted(BASES)),
    weight=st.none() | st.decimals(0, 100, places=4),
    epochs=st.none() | st.integers(1, 10**6),
    iterations=st.none() | st.integers(1, 10**6),
)
def test_a_name_made_of_its_parts_is_read_back_as_these_parts(base, weight, epochs, iterations):
    loss, term, default = BASES[base]
    if term is None:
        weight = None
    name = base
    name += f"_lambda{lambda_option(weight)}" if weight is not None else ""
    name += f"_{epochs}epochs" if epochs else ""
    name += f"_{iterations}iters" if iterations else ""
    experiment = parse(name)
    assert experiment is not None
    assert experiment.name == name
    assert (experiment.segmentation_loss, experiment.term) == (loss, term)
    assert experiment.weight == (default if weight is None else float(weight))
    assert (experiment.epochs, experiment.iterations) == (epochs, iterations)
    assert "__" not in name  # where nnU-Net splits the name of a results folder


@given(st.text("0123456789p", min_size=1, max_size=6))
@example("0p30")
@example("00")
@example("1p0")
@example("p5")
@example("0p")
def test_a_weight_has_exactly_one_spelling(digits):
    name = f"nnUNetTrainerMEEP_KL_lambda{digits}"
    try:
        experiment = parse(name)
    except TrainerNameError:
        return  # what has to be refused is in the tests below
    assert experiment is not None
    assert digits == lambda_option(Decimal(digits.replace("p", ".")))
    assert experiment.weight == float(digits.replace("p", "."))


@pytest.mark.parametrize(
    ("iterations", "validation_iterations"),
    [(1, 5), (10, 5), (25, 5), (29, 5), (30, 6), (100, 20), (250, 50), (500, 100)],
)
def test_validation_iterations_are_a_fifth_and_at_least_5(iterations, validation_iterations):
    experiment = parse(f"nnUNetTrainerDiceCE_{iterations}iters")
    assert experiment.validation_iterations == validation_iterations
    assert parse("nnUNetTrainerDiceCE").validation_iterations is None


@pytest.mark.parametrize("base", WITH_TERM)
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
        ("0epochs", "0epochs"),
        ("050epochs", "050epochs"),
        ("-5epochs", "-5epochs"),
        ("epochs", "epochs"),
        ("50epoch", "50epoch"),
        ("50Epochs", "50Epochs"),
        ("0iters", "0iters"),
        ("0100iters", "0100iters"),
        ("100iter", "100iter"),
        ("50epochs_lambda0p3", "lambda0p3"),
        ("100iters_50epochs", "50epochs"),
        ("100iters_lambda0p3", "lambda0p3"),
        ("lambda0p3_lambda0p3", "lambda0p3"),
        ("lambda0p3_lambda0p1", "lambda0p1"),
        ("50epochs_50epochs", "50epochs"),
        ("50epochs_60epochs", "60epochs"),
        ("100iters_200iters", "200iters"),
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
        "nnUNetTrainerMEEPKL",
        "nnUNetTrainer_MEEP_KL",
        "nnUNetTrainerDiceCEMEEP_KL",
        "nnUNetTrainerCEDiceMEEP_KL",
        "nnUNetTrainerDice_MEEP_KL",
        "nnUNetTrainerMEEP_KLMEEP_H",
        "nnUNetTrainerMEEP_KL_MEEP_H",
        "nnUNetTrainerMEEP_KLlambda0p3",
        "nnUNetTrainerMEEP_KL50epochs",
    ],
)
def test_a_name_with_meep_that_is_not_a_base_name_is_refused_with_the_right_names(name):
    with pytest.raises(TrainerNameError) as error:
        parse(name)
    assert name in str(error.value)


@pytest.mark.parametrize("base", WITHOUT_TERM)
@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ("lambda0p3", "lambda0p3"),  # nothing to weigh
        ("lambda0p3_50epochs", "lambda0p3"),
        ("0epochs", "0epochs"),
        ("050epochs", "050epochs"),
        ("0iters", "0iters"),
        ("100iters_50epochs", "50epochs"),
        ("50epochs_50epochs", "50epochs"),
    ],
)
def test_a_baseline_refuses_malformed_options_and_a_lambda(base, options, culprit):
    with pytest.raises(TrainerNameError, match=f"'{culprit}"):
        parse(f"{base}_{options}")


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerMEEP",
        "nnUNetTrainerDiceMEEP_KL_50epochs_lambda0p3",
        "nnUNetTrainerMEEP_H_lambda0p30",
        "nnUNetTrainerDiceCE_lambda0p3",
        "nnUNetTrainerDice_lambda0p3",
        "nnUNetTrainerCE_lambda0",
    ],
)
def test_an_error_is_one_line_and_every_other_name_in_it_is_valid(name):
    with pytest.raises(TrainerNameError) as error:
        parse(name)
    message = str(error.value)
    assert "\n" not in message
    suggested = set(re.findall(r"nnUNetTrainer\w+", message)) - {name}
    assert suggested
    for other in suggested:
        assert parse(other) is not None


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
        "nnUNetTrainerDiceFocal",
        "nnUNetTrainerCE_noMirroring",
        "nnUNetTrainerCE_noMirroring_50epochs",
        "nnUNetTrainerDiceCE_DA5",
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


@pytest.mark.parametrize("suffix", ["v2", "lr3", "3layers", "seed1", "fold0", "ds2019"])
def test_a_users_own_baseline_whose_name_ends_in_a_number_is_not_ours(suffix):
    assert parse(f"nnUNetTrainerDice_{suffix}") is None


@given(st.text())
def test_a_text_that_does_not_begin_like_a_trainer_of_ours_is_nothing(text):
    assert parse(text) is None
    assert parse("MEEP_KL_" + text) is None
    if "MEEP" not in text and not text.startswith(("_", "Dice", "CE")):
        assert parse("nnUNetTrainer" + text) is None


@given(base=st.sampled_from(sorted(BASES)), rest=st.text("_0123456789pambdel-echositrKLMEPH\n٣"))
def test_whatever_follows_a_base_name_it_is_understood_or_refused_or_nothing(base, rest):
    try:
        experiment = parse(base + rest)
    except TrainerNameError:
        assert "MEEP" in base + rest or rest.startswith("_")
    else:
        assert experiment is None or experiment.name == base + rest


@pytest.mark.parametrize("option", ["lambda0p٣1", "lambda1٠", "1٠epochs", "1٠iters"])
def test_only_the_ten_ascii_digits_are_digits(option):
    with pytest.raises(TrainerNameError):
        parse(f"nnUNetTrainerMEEP_KL_{option}")


def test_no_name_of_nnunet_itself_is_ours():
    folder = Path(importlib.util.find_spec("nnunetv2").origin).parent / "training/nnUNetTrainer"
    names = {
        name
        for file in folder.rglob("*.py")
        for name in re.findall(r"^class (nnUNetTrainer\w*)", file.read_text("utf-8"), re.M)
    }
    assert {"nnUNetTrainer", "nnUNetTrainerDiceLoss"} <= names
    assert not [name for name in names if parse(name) is not None]


def test_the_meaning_of_a_name_needs_neither_torch_nor_nnunet():
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['nnunetv2'] = None\n"
        "from nnunet_meep import trainers\n"
        "from nnunet_meep.trainers.names import parse\n"
        "assert parse('nnUNetTrainerMEEP_KL') is not None\n"
        "assert not hasattr(trainers, 'nnUNetTrainerDiceLoss')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
