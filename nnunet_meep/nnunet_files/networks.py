"""Finds out which network made a folder of predictions, as far as the folder's files reveal it.

The path of a ``TRAINER__PLANS__CONFIGURATION/fold_X/validation`` folder identifies the network
completely. ``nnUNetv2_predict`` leaves only ``plans.json``, which names data set and plans but not
trainer, configuration, folds or checkpoint. ``meep-predict`` and ``meep-calib-apply`` record what
they know about the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.identity import archive_identity
from nnunet_meep.nnunet_files.paths import real_path

#: The record that ``meep-calib-apply`` and ``meep-predict`` leave in the folder they write.
RECORD = "calib_apply_args.json"
#: That of ``meep-predict`` in a folder of predictions that are not calibrated.
PLAIN_RECORD = "meep_predict_args.json"

#: ``nnUNetv2_train`` predicts the validation cases with the first, or, with ``--val_best``, with
#: the second.
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_NAMED = ("dataset", "trainer", "plans", "configuration")


@dataclass(frozen=True)
class Network:
    """The network that made predictions. Attributes are None or empty if unknown.

    Attributes:
        dataset: name of the data set, for example ``Dataset501_LA``.
        trainer, plans, configuration: as in the name of nnU-Net's results folder.
        folds: the folds whose networks made the predictions, ascending.
        averaged: True if each prediction is the average over all these folds (an ensemble). False
            if each case was predicted by one fold, as in a cross-validation.
        average: what was averaged, ``logits`` or ``probabilities``; None if nothing was, if it is
            unknown, or if a calibrator is for both.
        checkpoints: {fold: identities of its checkpoint (see :mod:`.identity`)}. If it is not
            known which checkpoint was used, those of all, the most likely one first.
    """

    dataset: str | None = None
    trainer: str | None = None
    plans: str | None = None
    configuration: str | None = None
    folds: tuple[str, ...] = ()
    averaged: bool = False
    average: str | None = None
    checkpoints: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the attributes that are unknown."""
        names = [name for name in _NAMED if getattr(self, name) is None]
        if not self.folds:
            names.append("folds")
        return tuple(names)

    def unknown_of_either(self, other: Network) -> tuple[str, ...]:
        """Names of the attributes that cannot be compared, because one of the two is unknown."""
        return tuple(dict.fromkeys((*self.unknown, *other.unknown)))

    def differences(self, other: Network) -> list[str]:
        """One phrase for each known attribute in which the networks differ.

        Does not compare the data set; see :meth:`other_dataset`.
        """
        found = []
        for name in _NAMED[1:]:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                found.append(f"{name} {mine}, not {theirs}")
        if self.folds and other.folds and not self._predicts_as(other):
            found.append(f"{self.folds_in_words}, not {other.folds_in_words}")
        elif None not in (self.average, other.average) and self.average != other.average:
            found.append(f"the average of {self.average}, not of {other.average}")
        for fold in sorted(set(self.checkpoints) & set(other.checkpoints)):
            if set(self.checkpoints[fold]).isdisjoint(other.checkpoints[fold]):
                found.append(f"another checkpoint of fold {fold}")
        return found

    def _predicts_as(self, other: Network) -> bool:
        """Whether the folds match: the same ensemble, or single folds that ``other`` has, too."""
        averages = [n.averaged and len(n.folds) > 1 for n in (self, other)]
        if any(averages):
            return all(averages) and set(self.folds) == set(other.folds)
        return set(self.folds) <= set(other.folds)

    def other_dataset(self, other: Network) -> bool:
        """Whether both data sets are known and differ."""
        return None not in (self.dataset, other.dataset) and self.dataset != other.dataset

    @property
    def folds_in_words(self) -> str:
        """The folds as text, and whether they were averaged."""
        if len(self.folds) == 1:
            return f"fold {self.folds[0]}"
        how = "the average of folds" if self.averaged else "single folds"
        return f"{how} {', '.join(self.folds)}"

    def calibrator_notes(self, other: Network) -> list[str]:
        """How another network differs, or may differ, from this one that a calibrator is for."""
        lines = []
        if differences := other.differences(self):
            lines.append(f"the calibrator was fitted to another network: {'; '.join(differences)}")
        if unknown := self.unknown_of_either(other):
            lines.append(
                f"the calibrator was fitted to {self.in_words}; whether these predictions are of "
                f"the same {', '.join(unknown)} is not checked, because the files do not say"
            )
        for fold in sorted(set(self.checkpoints) & set(other.checkpoints)):
            mine, theirs = self.checkpoints[fold], other.checkpoints[fold]
            if theirs[0] in mine[1:] and theirs[0] != mine[0]:
                lines.append(
                    f"the calibrator was fitted to the validation of fold {fold}, which nnU-Net "
                    f"predicts with {_CHECKPOINTS[0]} unless --val_best is given; these "
                    f"predictions are of {_CHECKPOINTS[1]}"
                )
        return lines

    @property
    def in_words(self) -> str:
        """What is known of it: data set, trainer, plans, configuration and folds."""
        names = [name for name in (getattr(self, n) for n in _NAMED) if name is not None]
        folds = [self.folds_in_words] if self.folds else []
        return ", ".join([*names, *folds]) or "a network that its files do not name"

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``calibration.json`` and ``calibrator.json``."""
        checkpoints = {fold: list(identities) for fold, identities in self.checkpoints.items()}
        return {**asdict(self), "folds": list(self.folds), "checkpoints": checkpoints}

    @classmethod
    def from_dict(cls, content: Any) -> Network:
        """The network that :meth:`to_dict` wrote.

        Raises:
            ValueError: ``content`` is not such an entry.
        """
        if not isinstance(content, dict):
            raise ValueError(f"network: expected an object, got {content!r}")
        names = {name: content.get(name) for name in _NAMED}
        folds, checkpoints = content.get("folds", []), content.get("checkpoints", {})
        if not isinstance(checkpoints, dict) or not all(
            isinstance(value, list) for value in (folds, *checkpoints.values())
        ):
            raise ValueError(f"network: expected lists of names, got {content!r}")
        average = content.get("average")
        texts = [*(v for v in (*names.values(), average) if v is not None), *folds]
        texts += [text for identities in checkpoints.values() for text in identities]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"network: expected names, got {content!r}")
        averaged = content.get("averaged") is True
        return cls(
            **names,
            folds=tuple(folds),
            averaged=averaged,
            average=average,
            checkpoints=checkpoints,
        )


def network_of(pred_folders: Sequence[Path]) -> Network:
    """The network that made one or several folders of predictions.

    Names that are not the same for all folders become None; folds are put together.

    Raises:
        InputError: a checkpoint or a record of the network cannot be read.
    """
    networks = [_network_of(folder) for folder in pred_folders]
    first, *others = networks

    def same(name: str) -> str | None:
        value = getattr(first, name)
        return value if all(getattr(other, name) == value for other in others) else None

    folds = {fold for network in networks for fold in network.folds}
    return Network(
        same("dataset"),
        same("trainer"),
        same("plans"),
        same("configuration"),
        folds=tuple(sorted(folds)) if all(network.folds for network in networks) else (),
        averaged=any(network.averaged for network in networks),
        average=same("average"),
        checkpoints={f: c for network in networks for f, c in network.checkpoints.items()},
    )


def refuse_several_networks(pred_folders: Sequence[Path]) -> None:
    """Refuse predictions of different data sets, trainers, plans, configurations or averages.

    Folds may differ, and what a folder does not say.

    Raises:
        InputError: they differ.
    """
    networks = [_network_of(folder) for folder in pred_folders]
    for name in _NAMED:
        found = {getattr(n, name): f for n, f in zip(networks, pred_folders, strict=True)}
        found.pop(None, None)
        if len(found) > 1:
            (one, its_folder), (other, folder), *_ = found.items()
            raise InputError(
                f"{folder}: expected predictions of one network, got {name} {other}, but {one} in "
                f"{its_folder}"
            )
    first = next((n for n in networks if n.folds), None)
    for network, folder in zip(networks, pred_folders, strict=True):
        if first is not None and network.folds and _kind(network) != _kind(first):
            raise InputError(
                f"{folder}: expected predictions made in one way, got those of "
                f"{network.folds_in_words}, but of {first.folds_in_words} in another folder"
            )


def _kind(network: Network) -> tuple[bool, str | None]:
    """Whether its predictions are averages, and of what."""
    return network.averaged, network.average


def average_of(members: Network) -> Network:
    """The average, of logits or of probabilities, over folds that predicted cases one by one.

    Raises:
        InputError: these are not several folds of one model.
    """
    if len(members.folds) < 2 or members.averaged or members.unknown:
        raise InputError(
            f"--folds: expected validation predictions of several folds of one model, got those of "
            f"{members.in_words}; give a model folder (TRAINER__PLANS__CONFIG) with more than one "
            f"fold_*/validation, or leave --folds out"
        )
    return replace(members, averaged=True)


def _network_of(folder: Path) -> Network:
    for record in (folder / RECORD, folder / PLAIN_RECORD):
        if record.is_file():
            return _recorded(record)
    place = real_path(folder)
    fold = re.fullmatch(r"fold_(\w+)", place.parent.name)
    names = place.parent.parent.name.split("__")
    if place.name == "validation" and fold is not None and len(names) == 3:
        model = place.parent.parent
        dataset, _ = _named_in_plans(model / "plans.json")
        trainer, plans, configuration = names
        found = [place.parent / name for name in _CHECKPOINTS]
        identities = tuple(archive_identity(path) for path in found if path.is_file())
        return Network(
            dataset or model.parent.name,
            trainer,
            plans,
            configuration,
            folds=(fold[1],),
            checkpoints={fold[1]: identities} if identities else {},
        )
    dataset, name = _named_in_plans(folder / "plans.json")
    return Network(dataset=dataset, plans=name)


def _recorded(path: Path) -> Network:
    try:
        return Network.from_dict(read_json(path)["network"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        command, remedy = "meep-calib-apply", "calibrate the predictions again"
        if path.name == PLAIN_RECORD:
            command, remedy = "meep-predict", "predict again"
        raise InputError(
            f"{path}: expected what {command} writes there, got something else ({error}); {remedy}"
        ) from None


def _named_in_plans(path: Path) -> tuple[str | None, str | None]:
    """Names of data set and plans; None if unreadable, which :mod:`.cases` reports as an error."""
    try:
        plans = read_json(path)
        names = plans.get("dataset_name"), plans.get("plans_name")
    except (OSError, ValueError, AttributeError):
        return None, None
    dataset, name = (text if isinstance(text, str) else None for text in names)
    return dataset, name
