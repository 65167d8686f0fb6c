"""Read a plan from its TOML file, and check it before anything runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.plans.plan import (
    DATASET,
    DATASET_NAME,
    PLANS,
    Compare,
    Data,
    Model,
    Network,
    Plan,
    Select,
    plain_of,
)
from nnunet_meep.benchmark.plans.plan_file import (
    REQUIRED,
    PlanFile,
    Table,
    is_list,
    is_number,
    is_text,
    is_whole,
)
from nnunet_meep.benchmark.plans.trainer_names import (
    WrongTrainer,
    expand,
    lambda_of,
    plain_name,
    with_seeds,
)
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import MAX_BINS
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.evaluation.counting.surface import METRICS as SURFACE_METRICS
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better, Of
from nnunet_meep.posthoc.calibrator import METHODS
from nnunet_meep.posthoc.scalings import check_installed

FOLDS = "all five"
#: More parts than there are machines to share them.
_MANY = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_plan(path: Path) -> Plan:
    """Read and check a plan; nothing is looked up in nnU-Net's folders.

    Raises:
        InputError: the file is missing or wrong; the line, the nearest right name.
    """
    file = PlanFile(path)
    top = file.table(file.content, "the plan's")
    everything = {
        key: top.take(key, lambda _: True, "a table", default)
        for key, default in (
            *(("data", {}), ("training", [])),
            *(("calibrate", {}), ("evaluate", {}), ("compare", [])),
        )
    }
    top.finish()
    data = _data(file, everything["data"])
    models = _models(file, everything["training"], data)
    calibrate = file.table(everything["calibrate"], "[calibrate]")
    methods = calibrate.take(
        "methods",
        lambda v: v == [] or is_list(v, lambda m: is_text(m) and m in METHODS),
        f"a list of {', '.join(METHODS)}",
        [],
        METHODS,
    )
    calibrate.finish()
    for method in methods:
        check_installed(method)
    evaluate = file.table(everything["evaluate"], "[evaluate]")
    plan = Plan(
        path=path,
        data=data,
        models=tuple(models),
        methods=tuple(methods),
        rois=_rois(file, evaluate),
        bins=evaluate.take(
            "bins",
            lambda v: is_whole(v, 1) and v <= MAX_BINS,
            f"a whole number from 1 to {MAX_BINS}",
            15,
        ),
        surface=evaluate.take("surface", lambda v: isinstance(v, bool), "true or false", True),
        parts=evaluate.take(
            "parts",
            lambda v: is_whole(v, 1) and v <= _MANY,
            f"a whole number from 1 to {_MANY}",
            1,
        ),
        comparisons=(),
    )
    evaluate.finish()
    _refuse_surface_metrics(file, plan)
    return replace(plan, comparisons=_comparisons(file, everything["compare"], plan))


def _data(file: PlanFile, content: Any) -> dict[str, Data]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file.path}: expected a table [data.NAME], found none")
    found = {}
    for name, values in content.items():
        if not _NAME.fullmatch(name):
            file.fail(name, f"[data.{name}]: expected a name of letters, digits, _ and -")
        table = file.table(values, f"[data.{name}]")
        network = table.take("network", lambda v: isinstance(v, dict), "a table", None)
        convert = table.take("convert", is_text, '"meep-convert-... {source} -d ID"', "")
        found[name] = Data(
            name=name,
            dataset=table.take(
                "dataset",
                lambda v: is_text(v) and DATASET.fullmatch(v) is not None,
                f"the name of its folder in nnUNet_raw, {DATASET_NAME}",
            ),
            configuration=table.take(
                "configuration",
                lambda v: is_text(v) and _NAME.fullmatch(v) is not None and "cascade" not in v,
                "a configuration of nnU-Net, such as 3d_fullres, that needs no other one first",
                "3d_fullres",
            ),
            plans=table.take(
                "plans",
                lambda v: is_text(v) and _NAME.fullmatch(v) is not None,
                f'a name such as "{PLANS}"',
                PLANS,
            ),
            folds=_folds(table),
            network=None if network is None else _network(file, name, network),
            convert=_convert(table, convert),
        )
        table.finish()
        _check_dimensions(table, found[name])
        if network is not None and "plans" in values:
            table.fail("plans", f"[data.{name}] plans: give it in [data.{name}.network] instead")
        # Both would prepare it at the same time, in the same folder.
        if any(d.dataset == found[name].dataset for n, d in found.items() if n != name):
            table.fail("dataset", f"[data.{name}] dataset: expected once, got it twice")
    return found


def _check_dimensions(table: Table, data: Data) -> None:
    """Refuse a patch with an axis too few or too many, at which nnU-Net's workers would fail."""
    patch = data.network.patch_size if data.network else None
    n_axes = {"2d": 2, "3d": 3}.get(data.configuration[:2])
    if patch and n_axes and len(patch) != n_axes:
        table.fail(
            "patch_size",
            f"[data.{data.name}.network] patch_size: expected {n_axes} numbers, as the "
            f"configuration is {data.configuration}, got {list(patch)}",
        )


def _folds(table: Table) -> tuple[int, ...]:
    folds = table.take(
        "folds",
        lambda v: v == FOLDS or is_list(v, is_whole),
        f'a list of folds, such as [0], or "{FOLDS}"',
        [0],
    )
    return tuple(range(5)) if folds == FOLDS else tuple(folds)


def _convert(table: Table, text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark too few
        words = [text]
    if words and (not words[0].startswith("meep-convert-") or "{source}" not in words):
        table.fail(
            "convert", f"convert: expected a meep-convert-... command with {{source}}, got {text!r}"
        )
    return tuple(words)


def _network(file: PlanFile, name: str, values: dict[str, Any]) -> Network:
    table = file.table(values, f"[data.{name}.network]")
    counts = "a list of whole numbers from 1"

    def sizes(key: str) -> tuple[int, ...] | None:
        found = table.take(
            key,
            lambda v: isinstance(v, list) and bool(v) and all(is_whole(x, 1) for x in v),
            counts,
            (),
        )
        return tuple(found) or None

    spacing = table.take(
        "target_spacing",
        lambda v: isinstance(v, list) and len(v) == 3 and all(map(is_number, v)),
        "three numbers, in mm",
        (),
    )
    network = Network(
        plans=table.take(
            "plans",
            lambda v: is_text(v) and _NAME.fullmatch(v) is not None and v != PLANS,
            f"a name of letters, digits, _ and -, other than {PLANS}",
            "nnUNetPlansBenchmark",
        ),
        patch_size=sizes("patch_size"),
        batch_size=table.take("batch_size", lambda v: is_whole(v, 1), "a number from 1", None),
        features_per_stage=sizes("features_per_stage"),
        planner=table.take("planner", is_text, "a planner class of nnU-Net", None),
        gpu_memory_target=table.take("gpu_memory_target", is_number, "GB", None),
        target_spacing=tuple(spacing) or None,
    )
    table.finish()
    return network


def _models(file: PlanFile, content: Any, data: dict[str, Data]) -> list[Model]:
    if not isinstance(content, list) or not content:
        raise InputError(f"{file.path}: expected a table [[training]], found none")
    models: dict[tuple[str, str], Model] = {}
    for nth, values in enumerate(content):
        table = file.table(values, "[[training]]", nth)
        expected = f"one of {', '.join(data)}, or a list of them"
        default = next(iter(data)) if len(data) == 1 else None
        where = table.take(
            "data",
            lambda v: v in list(data) or is_list(v, lambda x: x in list(data)),
            expected,
            default or REQUIRED,
            data,
        )
        patterns = table.take("trainers", lambda v: is_list(v, is_text), "a list of trainers")
        seeds = table.take("seeds", lambda v: is_list(v, is_whole), "a list such as [0, 1, 2]", [])
        select = _select(file, table)
        table.finish()
        for pattern in patterns:
            try:
                trainers = [with_seeds(trainer, seeds) for trainer in expand(pattern)]
            except WrongTrainer as error:
                table.fail(pattern, str(error))
            for name in [where] if isinstance(where, str) else where:
                for trainer, all_names, note in trainers:
                    model = Model(name, trainer, all_names, select, note)
                    before = models.get((name, trainer), replace(model, seeds={}))
                    if before.seeds.keys() & all_names.keys() or before.select != select:
                        table.fail(pattern, f"{trainer}: expected once for {name}, got twice")
                    # A further table adds seeds.
                    models[name, trainer] = replace(model, seeds={**before.seeds, **all_names})
        if select is not None and not any(
            lambda_of(m.trainer) for m in models.values() if m.select
        ):
            table.fail("select", "select: expected trainers with a lambda to choose, found none")
    found = list(models.values())
    selects: dict[tuple[str, str], Select] = {}
    for model in found:
        if model.select and (group := lambda_of(model.trainer)):
            _refuse_lonely_choice(file, found, model)
            if selects.setdefault((model.data, group[0]), model.select) != model.select:
                file.fail("select", f"select: expected one for {group[0]} on {model.data}, got two")
    return found


def _select(file: PlanFile, table: Table) -> Select | None:
    content = table.take("select", lambda v: isinstance(v, dict), "a table", None)
    if content is None:
        return None
    inner = table.inner(content, "select")
    ranked = {m: entry.of for m, entry in CATALOGUE.items() if entry.better is not Better.NEITHER}
    of_classes = [metric for metric, of in ranked.items() if Of.CLASS in of]
    by_names = [f"validation {metric}" for metric in of_classes]
    by_names += [f"validation top_label {m}" for m, of in ranked.items() if Of.TOP_LABEL in of]
    inner.take("over", lambda v: v == "lambda", '"lambda"')
    by = inner.take("by", lambda v: v in by_names, f"one of {', '.join(by_names)}", names=by_names)
    not_worse = inner.take(
        "not_worse",
        lambda v: v in of_classes,
        f"one of {', '.join(of_classes)}",
        None,
        of_classes,
    )
    inner.finish()
    metric = by.removeprefix("validation ")
    return Select(metric.removeprefix("top_label "), metric.startswith("top_label "), not_worse)


def _refuse_surface_metrics(file: PlanFile, plan: Plan) -> None:
    for select in (model.select for model in plan.models if model.select and not plan.surface):
        for metric in (select.by, select.not_worse):
            if metric in SURFACE_METRICS:
                file.fail("surface", f"surface: expected true, to choose lambda by {metric}")


def _refuse_lonely_choice(file: PlanFile, models: list[Model], model: Model) -> None:
    """Refuse ``not_worse`` without the plain loss, which it compares with."""
    if model.select and model.select.not_worse and plain_of(model, models) is None:
        file.fail(
            "not_worse",
            f"not_worse: expected the loss without the term among the trainers of {model.data}, "
            f"as in {plain_name(model.trainer)}, found none",
        )


def _rois(file: PlanFile, table: Table) -> tuple[str, ...]:
    rois = table.take("roi", lambda v: is_list(v, is_text), 'a list such as ["image"]', ["image"])
    for roi in rois:
        try:
            parse_roi(roi)
        except InputError as error:
            table.fail(roi, str(error))
    names = [Path(roi).name for roi in rois if roi.startswith("mask:")]
    if twice := [name for name in names if names.count(name) > 1]:  # results keep only the name
        table.fail("roi", f"roi: expected masks in folders of different names, got two {twice[0]}")
    return tuple(rois)


def _comparisons(file: PlanFile, content: Any, plan: Plan) -> tuple[Compare, ...]:
    if not isinstance(content, list):
        file.fail("compare", "expected tables [[compare]]")
    return tuple(_comparison(file, values, nth, plan) for nth, values in enumerate(content))


def _comparison(file: PlanFile, values: Any, nth: int, plan: Plan) -> Compare:
    table = file.table(values, "[[compare]]", nth)
    names = list(plan.data)
    data = table.take("data", lambda v: v in names, f"one of {', '.join(names)}", None, names)
    known: list[str] = []
    for name in [data] if data else plan.data:
        known += [model for model in plan.names_of_models(name) if model not in known]
    shown = ", ".join(known)
    compare = Compare(
        reference=table.take("reference", lambda v: v in known, f"one of {shown}", names=known),
        models=tuple(
            table.take(
                "models",
                lambda v: is_list(v, lambda x: x in known),
                f"a list of {shown}",
                (),
                known,
            )
        ),
        data=data,
    )
    table.finish()
    return compare
