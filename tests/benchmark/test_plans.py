"""Plans: what a TOML file says, and one line on what is wrong in it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nnunet_meep.benchmark.plans.paper import Paper, table_1
from nnunet_meep.benchmark.plans.plan import Plan, Training
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.plans.trainer_names import WrongTrainer, expand, plain_name, with_seeds
from nnunet_meep.benchmark.plans.write_plan import paper_plan, plan_for
from nnunet_meep.errors import InputError
from nnunet_meep.trainers import names

PLANS = Path(__file__).parents[2] / "benchmarks" / "plans"
PLAN = """\
[data.hip]                                   # line 1
dataset = "Dataset004_Hippocampus"
folds = [0, 2]

[data.hip.network]
patch_size = [40, 56, 40]
batch_size = 2

[[training]]                                 # line 9
trainers = ["nnUNetTrainer", "nnUNetTrainerDiceCE_2epochs"]
seeds = [0, 1]

[[training]]                                 # line 13
trainers = ["nnUNetTrainerMEEP_KL_lambda{0p1,0p3}_2epochs_paper"]
seeds = [3, 1]
select = { over = "lambda", by = "validation top_label ece" }

[calibrate]                                  # line 18
methods = ["temperature", "isotonic"]

[evaluate]
roi = ["image", "boundary:5"]
bins = 10
parts = 2

[[compare]]                                  # line 26
data = "hip"
reference = "nnUNetTrainerDiceCE_2epochs + temperature"
models = ["nnUNetTrainerMEEP_KL_lambda*_2epochs_paper + temperature"]
"""
OTHER = """
[data.la]
dataset = "Dataset501_LA"
"""


def read(tmp_path: Path, text: str | bytes) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_plan(path)


def refusal(tmp_path: Path, text: str | bytes) -> str:
    """The message, which has to be one line that begins with the file; without the file."""
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 2000
    start = str(tmp_path / "plan.toml")
    assert message.startswith(start)
    return message.removeprefix(start)


def test_a_plan_is_read(tmp_path) -> None:
    plan = read(tmp_path, PLAN)
    data = plan.data["hip"]
    assert (data.dataset_id, data.configuration, data.folds) == ("4", "3d_fullres", (0, 2))
    assert data.network is not None
    assert (data.network.patch_size, data.network.plans) == ((40, 56, 40), "nnUNetPlansBenchmark")
    assert plan.methods == ("temperature", "isotonic")
    assert (plan.rois, plan.bins, plan.parts) == (("image", "boundary:5"), 10, 2)
    seeds = {model.trainer: model.seeds for model in plan.models}
    assert seeds == {
        "nnUNetTrainer": {"nnUNetTrainer": None},
        "nnUNetTrainerDiceCE_2epochs": {
            "nnUNetTrainerDiceCE_2epochs_seed0": 0,
            "nnUNetTrainerDiceCE_2epochs_seed1": 1,
        },
        **{
            f"nnUNetTrainerMEEP_KL_lambda{x}_2epochs_paper": {
                f"nnUNetTrainerMEEP_KL_lambda{x}_2epochs_seed{seed}_paper": seed for seed in (3, 1)
            }
            for x in ("0p1", "0p3")
        },
    }
    default = plan.models[0]
    assert "takes no seed" in default.note
    assert "nnUNetTrainerDiceCE" in default.note
    assert [model.note for model in plan.models[1:]] == ["", "", ""]
    trainings = list(plan.trainings())
    assert len(trainings) == len(set(trainings)) == 2 * (1 + 3 * 2)
    # The first seed of every trainer comes before the second of any.
    of_first_seed = {t.trainer for t in trainings[:8]}
    assert of_first_seed == {next(iter(model.seeds)) for model in plan.models}
    assert trainings[0] == Training("hip", "nnUNetTrainer", 0)
    (choice,) = plan.choices("hip").values()
    assert [model.trainer for model in choice] == [m.trainer for m in plan.models[2:]]


def test_masks_have_different_names(tmp_path) -> None:
    """In results, an ROI keeps only the name of its folder."""
    for part in "ab":
        (tmp_path / part / "masks").mkdir(parents=True)
    text = PLAN.replace('"boundary:5"', ", ".join(f'"mask:{tmp_path}/{p}/masks"' for p in "ab"))
    said = "roi: expected masks in folders of different names, got two masks"
    assert refusal(tmp_path, text).endswith(said)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("bins = 10", "bin = 10", 23, "bin: not known; is bins meant?"),
        ("bins = 10", "bins = 'many'", 23, "bins: expected a whole number from 1 to"),
        ("bins = 10", "bins = true", 23, "got True"),
        ("folds = [0, 2]", "folds = [0, 0]", 3, "folds: expected a list of folds"),
        ("[calibrate]", "[calibrat]", 18, "is calibrate meant?"),
        ("_2epochs_paper", "_2epoch_paper", 14, "2epochs"),
        ("MEEP_KL", "MEEP_LK", 14, "the nearest right name is nnUNetTrainerMEEP_KL_lambda0p1"),
        (
            '"nnUNetTrainer"',
            '"nnUNetTrainer_seed1"',
            10,
            "the nearest right name is nnUNetTrainerDiceCE_seed1",
        ),
        ('"nnUNetTrainer"', '"nnUNetTrainer_seed1\\n"', 9, "nnUNetTrainer_seed1 : expected"),
        ("DiceCE_2epochs", "DiceCE_seed1", 10, "expected a name without a seed"),
        ("seeds = [3, 1]", "seeds = [10000000000]", 14, "seed10000000000"),
        ('"nnUNetTrainer"', '"nnUNetTrainerMEEP_KL_lambda0p3_2epochs_paper"', 14, "got twice"),
        ('"temperature",', '"temprature",', 19, "is temperature meant?"),
        ("top_label ece", "top_label dice", 16, "expected one of validation dice,"),
        ("top_label ece", "top_label eec", 16, "is validation top_label ece meant?"),
        ("boundary:5", "boundary:x", 22, "boundary:x"),
        ("bins = 10", "bins = 1000000", 23, "bins: expected a whole number from 1 to"),
        ("parts = 2", "parts = 1000000000", 24, "expected a whole number from 1 to 10000"),
        ('data = "hip"', 'data = "hap"', 27, "is hip meant? expected one of hip, got 'hap'"),
        ('data = "hip"', "data = [[1]]", 27, "expected one of hip"),
        ("MEEP_KL_lambda*_2epochs", "MEEP_KL_lambda*", 29, "meant?"),
        ("DiceCE_2epochs + t", "DiceCE_2epochs + x", 28, "is nnUNetTrainerDiceCE_2epochs"),
        ('trainers = ["nnUNetTrainer"', 'trainer = ["nnUNetTrainer"', 10, "is trainers meant?"),
        ("[40, 56, 40]", "[40, 56]", 6, "patch_size: expected 3 numbers, as the configuration is"),
        ('"Dataset004_Hippocampus"', "4", 2, "the name of its folder in nnUNet_raw, DatasetXXX"),
        ("batch_size = 2", "batch_size = inf", 7, "batch_size"),
        ("batch_size = 2", "target_spacing = [1, 1, inf]", 7, "target_spacing"),
        ("folds = [0, 2]", 'configuration = "3d_cascade_fullres"', 3, "configuration"),
        ("folds = [0, 2]", 'plans = "../x"', 3, "plans"),
        ("folds = [0, 2]", 'convert = "rm -r {source}"', 3, "convert: expected a meep-convert-"),
        ("folds = [0, 2]", "convert = 'meep-convert-la {source} \"'", 3, "convert: expected"),
        ('ece" }', 'ece", not_worse = "dice" }', 16, "nnUNetTrainerDiceCE_2epochs_paper"),
        ("lambda{0p1,0p3}", "lambdaauto", 16, "select: expected trainers with a lambda"),
        ("seeds = [0, 1]", 'data = "hop"', 11, "expected one of hip, or a list of them"),
        ("seeds = [0, 1]", "data = [[[1]]]", 11, "expected one of hip, or a list of them"),
        (
            '"nnUNetTrainer", "nnUNetTrainerDiceCE_2epochs"]',
            '"nnUNetTrainerMEEP_KL_lambda0p5_2epochs_paper"]\n'
            'select = { over = "lambda", by = "validation dice" }',
            11,
            "select: expected one for nnUNetTrainerMEEP_KL_lambda*_2epochs_paper on hip, got two",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, old, new, line, said) -> None:
    assert old in PLAN
    message = refusal(tmp_path, PLAN.replace(old, new))
    assert message.startswith(f", line {line}: ")
    assert said in message


def test_the_plain_loss_may_be_nnunets_own_trainer(tmp_path) -> None:
    def plan(*trainers: str) -> str:
        select = '{ over = "lambda", by = "validation ece", not_worse = "dice" }'
        names = ", ".join(f'"{trainer}"' for trainer in trainers)
        return f"{OTHER}[[training]]\ntrainers = [{names}]\nselect = {select}"

    for plain in ("nnUNetTrainer", "nnUNetTrainerDiceCE"):
        read(tmp_path, plan("nnUNetTrainerMEEP_KL_lambda0p1", plain))
    for other in ("nnUNetTrainerMEEP_KL_lambdaauto", "nnUNetTrainerDice", "nnUNetTrainerCP"):
        assert "not_worse" in refusal(tmp_path, plan("nnUNetTrainerMEEP_KL_lambda0p1", other))
    without = plan("nnUNetTrainerMEEP_KL_lambda0p1").replace("not_worse = ", "by2 = ")
    assert "by2: not known" in refusal(tmp_path, without)
    by_surface = plan("nnUNetTrainerMEEP_KL_lambda0p1", "nnUNetTrainer").replace("ece", "hd95")
    assert "hd95" in refusal(tmp_path, by_surface + "\n[evaluate]\nsurface = false")


def test_one_data_set_twice_would_be_prepared_twice_at_the_same_time(tmp_path) -> None:
    text = PLAN + OTHER.replace("501_LA", "004_Hippocampus") + 'configuration = "2d"\n'
    message = refusal(tmp_path, text.replace("[0, 1]", '[0, 1]\ndata = "hip"'))
    assert message.startswith(", line 33: [data.la] dataset: expected once")


def test_words_in_quotation_marks_stay_together(tmp_path) -> None:
    convert = """convert = 'meep-convert-folder {source} -d 4 --labels "left atrium=1"'"""
    plan = read(tmp_path, PLAN.replace("folds = [0, 2]", convert))
    assert plan.data["hip"].convert[-1] == "left atrium=1"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[data",
        b"\x00\xff\x1f\x8b",
        b"data = " + b"[" * 100_000,
        b"data.hip.dataset." + b"a." * 2_000 + b"a = 1",
        b"[data.hip]\ndataset = '" + b"x" * 100_000 + b"'",
        b"x = " + b"1" * 10_000,
        b"data = 1",
        b"[[data]]",
        b"training = 1",
        b"[data.x]\ndataset = 'Dataset001_X'\n[training]\ntrainers = []",
        b"[data.'a b']",
    ],
)
def test_what_is_no_plan_is_one_line(tmp_path, text) -> None:
    assert "expected" in refusal(tmp_path, text)


def test_a_mark_that_editors_on_windows_write_first(tmp_path) -> None:
    plan = read(tmp_path, b"\xef\xbb\xbf" + PLAN.replace("\n", "\r\n").encode())
    assert plan.parts == 2


def test_a_file_that_is_missing(tmp_path) -> None:
    with pytest.raises(InputError, match=r"expected a plan.*meep-benchmark init"):
        read_plan(tmp_path / "plan.toml")


_VALUES = st.recursive(
    st.sampled_from(["1", "-1", "0", "1.5", "nan", "inf", "true", '""', '"all five"', "1979-05-27"])
    | st.sampled_from(['"hip"', '"nnUNetTrainerDiceCE"', '"image"', '"dice"', '"platt"', '"{,}"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
        | inner.map(lambda v: f"{{ over = {v} }}")
    ),
    max_leaves=4,
)
_LINES = PLAN.splitlines()


@st.composite
def changed_plans(draw: st.DrawFn) -> str:
    """The plan with values exchanged, lines moved or left out, and with any text in it."""
    lines = list(_LINES)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[at].partition(" = ")
        text = draw(_VALUES if equals else st.text(max_size=20))
        lines[at] = draw(st.sampled_from([*_LINES, "", f"{key}{equals}{text}"]))
    return "\n".join(lines)


@example("seeds = " + "9" * 5000)
@given(changed_plans() | st.text(max_size=50))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_plan_or_one_line(tmp_path, text) -> None:
    try:
        plan = read(tmp_path, text.encode("utf-8", "surrogatepass"))
    except InputError as error:
        lines = str(error).splitlines()
    else:
        lines = plan.names_of_models(next(iter(plan.data)))[:1]
    assert len(lines) == 1


@pytest.mark.parametrize("n_test", [0, 7])
def test_the_plan_for_a_data_set(tmp_path, n_test) -> None:
    text = plan_for(
        "Dataset501_Left_Atrium",
        n_cases=60,
        n_test=n_test,
        left_out=[0] * 5,
        is_2d=False,
        file="mine.toml",
    )
    assert "meep-benchmark run mine.toml" in text
    assert "60 training cases" in text
    plan = read(tmp_path, text)
    data = plan.data["left_atrium"]
    assert (data.dataset, data.convert, data.network) == ("Dataset501_Left_Atrium", (), None)
    assert [list(model.seeds.values()) for model in plan.models] == [[0, 1, 2]] * 3
    (compared,) = plan.comparisons
    if n_test:
        assert "the 7 test scans" in text
        assert data.folds == (0,)
        assert plan.methods == ("temperature", "isotonic")
        assert compared.reference == "nnUNetTrainerDiceCE + temperature"
    else:
        assert data.folds == (0, 1, 2, 3, 4)
        assert plan.methods == ()
        assert compared.reference == "nnUNetTrainerDiceCE"
    # What is commented out can be used.
    network = text.replace("# [data.left_atrium.network]", "[data.left_atrium.network]")
    for key in ("patch_size", "batch_size", "features_per_stage"):
        network = network.replace(f"# {key}", key)
    read_network = read(tmp_path, network).data["left_atrium"].network
    assert read_network is not None
    assert read_network.features_per_stage == (8, 16, 32, 64)


@pytest.mark.parametrize(
    "name", ["Dataset501_Ärzte", "Dataset007__x", "Dataset008_2.Nov", "Dataset009_-"]
)
def test_a_data_set_with_any_name_gets_a_plan(tmp_path, name) -> None:
    text = plan_for(name, n_cases=60, n_test=0, left_out=[0], is_2d=True, file="plan.toml")
    plan = read(tmp_path, text)
    assert [data.dataset for data in plan.data.values()] == [name]


@pytest.mark.parametrize("paper", Paper)
def test_the_plan_of_table_1(tmp_path, paper) -> None:
    text = paper_plan(paper, "Dataset501_X", "plan.toml")
    plan = read(tmp_path, text)
    rows = table_1(paper)
    assert len(rows) == len(set(rows.values())) == 13
    (data,) = plan.data
    assert set(rows.values()) <= set(plan.names_of_models(data))
    assert all(f"#   {row}" in text for row in rows)
    for row, model in rows.items():
        trainer, _, method = model.partition(" + ")
        experiment = names.parse(trainer)
        assert experiment is not None
        loss = row.split(" + ")[0]
        assert experiment.segmentation_loss.lower() == loss.lower()
        after = {"PS": "platt", "IR": "isotonic"}.get(row.partition(" + ")[2], "")
        assert method == after
        term = {"MEEP-H": "MEEP_H", "MEEP-KL": "MEEP_KL", "CP": "CP"}.get(row.partition(" + ")[2])
        assert experiment.term == term
        assert experiment.paper
        # Centred on foreground nine times out of ten, for the small lesions.
        assert experiment.foreground == (0.9 if paper is Paper.WMH else None)
        if term == "CP":
            assert math.isclose(experiment.weight, 0.2)
        elif term:
            table = {("LA", "dice"): 0.5, ("LA", "CE"): 0.1, ("WMH", "dice"): 1, ("WMH", "CE"): 0.3}
            assert experiment.weight == table[paper.name, loss]
    references = [compare.reference for compare in plan.comparisons]
    assert references == [rows["dice"], rows["CE"]]
    compared = {m for compare in plan.comparisons for m in (compare.reference, *compare.models)}
    assert compared == set(rows.values())


def test_a_folder_of_the_users_may_make_trainers_on_demand(tmp_path, monkeypatch):
    """As this package's own does; names that differ in the seed are trainings of one model."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "on_demand.py").write_text(
        "def __getattr__(name):\n"
        "    if name.startswith('nnUNetTrainerMEEP_KL_mine'):\n"
        "        return type(name, (), {})\n"
        "    raise AttributeError(name)\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "mine"))
    assert expand("nnUNetTrainerMEEP_KL_mine{,_seed1}") == [
        *("nnUNetTrainerMEEP_KL_mine", "nnUNetTrainerMEEP_KL_mine_seed1"),
    ]
    model, seeds, note = with_seeds("nnUNetTrainerMEEP_KL_mine_seed1", [])
    assert (model, seeds, note) == (
        *("nnUNetTrainerMEEP_KL_mine", {"nnUNetTrainerMEEP_KL_mine_seed1": 1}, ""),
    )
    with pytest.raises(WrongTrainer, match="nnUNetTrainerMEEP_KL"):
        expand("nnUNetTrainerMEEP_KL_yours")


@pytest.mark.parametrize(
    ("trainer", "plain"),
    [
        ("nnUNetTrainerMbLS_lambda0p1_margin5_2epochs", "nnUNetTrainerDiceCE_2epochs"),
        ("nnUNetTrainerCESVLS_lambdaauto_seed1", "nnUNetTrainerCE_seed1"),
        ("nnUNetTrainerDSCppMEEP_H_gamma3", "nnUNetTrainerDSCpp_gamma3"),
    ],
)
def test_the_plain_loss_of_a_trainer_has_none_of_its_terms_options(trainer, plain):
    assert plain_name(trainer) == plain
    assert names.parse(plain) is not None


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_plans_of_the_measurements_can_be_read(path: Path, monkeypatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(PLANS.parent / "own_trainers"))
    plan = read_plan(path)
    assert len(set(plan.trainings())) > 3
    for data in plan.data.values():
        assert (f"-d {data.dataset_id} ") in (" ".join(data.convert) + " ")
