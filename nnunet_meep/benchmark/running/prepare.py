"""Prepare a data set once, before trainings run side by side: convert, plan, preprocess, split."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunet_meep.atomic import creating_folder, replacing_file, replacing_folder
from nnunet_meep.benchmark.plans.plan import PLANS, Data, Network
from nnunet_meep.benchmark.running.data_sets import (
    SPLITS,
    TestScans,
    check_configuration,
    labelled_cases,
)
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.folds import check_folds, write_splits
from nnunet_meep.benchmark.running.progress import progress_bars
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.benchmark.running.unchanged import check_unchanged
from nnunet_meep.errors import InputError, is_meant
from nnunet_meep.json_file import read_json

#: Key in nnU-Net's plans of a network of the plan's own; nnU-Net keeps it, but does not read it.
_MADE_BY = "made_by_meep_benchmark"


def preparation(data: Data, folders: Folders, source: Path | None) -> list[Step]:
    """The steps that prepare a data set, in order; only the first as long as it is missing.

    Args:
        source: what ``{source}`` in the data set's ``convert`` stands for.

    Raises:
        InputError: the data set is missing and cannot be made; it has other folds, configurations
            or plans than the plan asks for, or has changed since it was preprocessed.
    """
    raw, preprocessed = f"{{raw}}/{data.dataset}", f"{{preprocessed}}/{data.dataset}"
    first = _make(data, folders, source)
    plans = data.network.plans if data.network else data.plans
    check_configuration(data, folders.path(f"{preprocessed}/{plans}.json"))
    check_folds(data, folders)
    if not folders.path(f"{raw}/dataset.json").is_file():
        return [first]
    check_unchanged(data, folders)
    number = ["-d", data.dataset_id]
    fingerprint = Step(
        key=f"{data.name}/fingerprint",
        place=preprocessed,
        command=("nnUNetv2_extract_fingerprint", *number, "--verify_dataset_integrity"),
        outputs=(f"{preprocessed}/dataset_fingerprint.json",),
        needs=(first.key,),
        processes="-np",
        progress=progress_bars,
        found=True,
    )
    planned = _plan(data, f"{preprocessed}/{plans}.json", fingerprint)
    if data.network is None and plans != PLANS and not folders.path(planned.outputs[0]).is_file():
        raise InputError(
            f"[data.{data.name}] plans: expected {folders.path(planned.outputs[0])}, found no "
            f'file; make it with nnU-Net, or give planner and plans = "ANOTHER_NAME" in '
            f"[data.{data.name}.network]"
        )
    identifier = _identifier(folders.path(planned.outputs[0]), data.configuration)
    preprocess = Step(
        key=f"{data.name}/preprocess",
        place=preprocessed,
        command=("nnUNetv2_preprocess", *number, "-plans_name", plans, "-c", data.configuration),
        outputs=tuple(
            f"{preprocessed}/{identifier}/{case}.pkl" for case in labelled_cases(folders.path(raw))
        ),
        needs=(planned.key,),
        processes="-np",
        progress=progress_bars,
        found=True,
    )
    splits = Step(
        key=f"{data.name}/splits",
        command=("write nnU-Net's folds into", f"{preprocessed}/{SPLITS}"),
        outputs=(f"{preprocessed}/{SPLITS}",),
        needs=(preprocess.key,),
        action=lambda folders: write_splits(data, folders),
        is_action=True,
        found=True,
    )
    return [first, fingerprint, planned, preprocess, splits]


def test_images(data: Data, fold: int, scans: TestScans, folders: Folders) -> Step:
    """Collect the images of a fold's own test scans, which lie among the training scans."""

    def collect(folders: Folders) -> None:
        target = folders.path(scans.images)
        with replacing_folder(target) as temporary:
            for text in scans.image_files:
                name = Path(text).name
                link(folders.raw / data.dataset / "imagesTr" / name, temporary / name)

    return Step(
        key=f"{data.name}/test_images/fold_{fold}",
        command=("collect the images of", *scans.cases, "in", scans.images),
        outputs=scans.image_files,
        needs=(f"{data.name}/splits",),
        action=collect,
        is_action=True,
    )


def link(path: Path, target: Path) -> None:
    """A symbolic link to a file or folder; a copy where links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and not target.exists():  # what it led to was moved
        target.unlink()
    try:
        target.symlink_to(path.absolute(), target_is_directory=path.is_dir())
    except OSError:  # no permission for links on Windows; some network drives
        if path.is_dir():
            with creating_folder(target) as temporary:
                shutil.copytree(path, temporary, dirs_exist_ok=True)
        else:
            with replacing_file(target) as copy:
                shutil.copyfile(path, copy)


def _make(data: Data, folders: Folders, source: Path | None) -> Step:
    """Make the raw data set: convert it, or link to the one in the user's ``nnUNet_raw``."""
    raw = f"{{raw}}/{data.dataset}"
    exists = folders.path(raw).exists()
    given = folders.given / data.dataset if folders.given else None
    key, outputs = f"{data.name}/data", (f"{raw}/dataset.json",)
    if data.convert and not exists and source is None and not (given and given.is_dir()):
        raise InputError(
            f"{data.dataset}: expected it in {folders.raw}, or its source, from which "
            f"{data.convert[0]} makes it; give --source {data.name}=FOLDER"
        )
    if data.convert and (source is not None or exists):
        command = [word for word in data.convert if word != "{source}"]

        def complete(words: list[str]) -> list[str]:
            if source is None:
                raise InputError(f"{data.name}: expected its source; give --source FOLDER")
            return [words[0], str(source), *words[1:]]

        return Step(
            key=key,
            command=tuple(command),
            outputs=outputs,
            complete=complete,
            progress=progress_bars,
            found=True,
        )
    if not exists and not (given and given.is_dir()):
        places = [folders.raw, *([folders.given] if folders.given else [])]
        there = sorted({path.name for place in places for path in place.glob("Dataset[0-9]*_*")})
        raise InputError(
            f"[data.{data.name}] dataset: {is_meant(data.dataset, there)}expected nnU-Net raw data "
            f"{data.dataset} in {' or '.join(map(str, dict.fromkeys(places)))}, found none (there: "
            f"{', '.join(there) or 'none'})"
        )

    def take(folders: Folders) -> None:
        if given is not None and not folders.path(raw).exists():
            link(given, folders.path(raw))

    return Step(
        key=key,
        command=("use the data in", raw),
        outputs=outputs,
        action=take,
        is_action=True,
        found=True,
    )


def _plan(data: Data, output: str, fingerprint: Step) -> Step:
    """nnU-Net's plans; or those of the plan's own network, under a name of their own."""
    command = ["nnUNetv2_plan_experiment", "-d", data.dataset_id]
    network = data.network
    if network is None:
        return Step(
            key=f"{data.name}/plan",
            place=fingerprint.place,
            command=tuple(command),
            outputs=(output,),
            needs=(fingerprint.key,),
            found=True,
        )
    command += ["-overwrite_plans_name", network.plans]
    if network.planner:
        command += ["-pl", network.planner]
    if network.gpu_memory_target:
        command += ["-gpu_memory_target", f"{network.gpu_memory_target:g}"]
    if network.target_spacing:
        command += ["-overwrite_target_spacing", *(f"{x:g}" for x in network.target_spacing)]
    changes = _changes(network)
    detail = "; then " + ", ".join(f"{k} = {v}" for k, v in changes.items()) if changes else ""
    made = " ".join([*command, data.configuration, detail])
    return Step(
        key=f"{data.name}/plan",
        place=fingerprint.place,
        command=tuple(command),
        detail=detail,
        outputs=(output,),
        needs=(fingerprint.key,),
        action=lambda folders: _change(folders.path(output), data.configuration, network, made),
        is_same=lambda folders: _made_by(folders.path(output)) == made,
        instead=f'give plans = "ANOTHER_NAME" in [data.{data.name}.network]',
    )


def _identifier(plans: Path, name: str) -> str:
    """The folder of a configuration's preprocessed cases; some planners share nnU-Net's default."""
    try:
        configurations = read_json(plans)["configurations"]
        configuration = configurations[name]
        while "data_identifier" not in configuration:
            configuration = configurations[configuration["inherits_from"]]
        return str(configuration["data_identifier"])
    except (OSError, ValueError, KeyError, TypeError):  # not planned yet
        return f"{plans.stem}_{name}"


def _changes(network: Network) -> dict[str, object]:
    """What the plan changes in nnU-Net's plans, by its keys there."""
    found = {
        "patch_size": network.patch_size and list(network.patch_size),
        "batch_size": network.batch_size,
        "features_per_stage": network.features_per_stage and list(network.features_per_stage),
    }
    return {key: value for key, value in found.items() if value}


def _made_by(plans: Path) -> str | None:
    """What a benchmark noted in nnU-Net's plans that it made; None if there is no such note."""
    try:
        return str(read_json(plans)[_MADE_BY])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _change(path: Path, name: str, network: Network, made: str) -> None:
    """Change the network in nnU-Net's plans, and note in them how they were made."""
    plans = read_json(path)
    plans[_MADE_BY] = made
    try:
        configuration = plans["configurations"][name]
        architecture = configuration["architecture"]["arch_kwargs"]
        n_stages, strides = architecture["n_stages"], architecture["strides"]
    except KeyError as error:
        raise InputError(
            f"{path}: expected the configuration {name} with its network, found no {error}"
        ) from None
    if network.target_spacing:  # some planners would let it share the data of nnU-Net's spacing
        configuration["data_identifier"] = f"{network.plans}_{name}"
    for key, value in _changes(network).items():
        if key == "features_per_stage":
            features = list(network.features_per_stage or ())
            if len(features) > n_stages:
                raise InputError(
                    f"features_per_stage: expected at most {n_stages} numbers, one for each stage "
                    f"of the network that nnU-Net plans, got {features}"
                )
            architecture[key] = features + features[-1:] * (n_stages - len(features))
        else:
            configuration[key] = value
    _check_patch(configuration["patch_size"], strides)
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(plans, indent=4))


def _check_patch(patch: Sequence[int], strides: Sequence[Sequence[int] | int]) -> None:
    """Check that a patch can pass a network with these strides, of each stage or of its axes."""
    of_axes = [[stride] * len(patch) if isinstance(stride, int) else stride for stride in strides]
    smallest = [math.prod(of_axis) for of_axis in zip(*of_axes, strict=True)]
    is_multiple = all(n % m == 0 for n, m in zip(patch, smallest, strict=True))
    if not is_multiple or list(patch) == smallest:
        raise InputError(
            f"patch_size: expected multiples of {smallest}, by which the network that nnU-Net "
            f"plans divides it, and not {smallest} itself, got {list(patch)}"
        )
