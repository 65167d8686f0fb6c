"""What a plan says: data sets, trainings, calibration, evaluation, comparisons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_meep.benchmark.plans.trainer_names import lambda_of, plain_name
from nnunet_meep.trainers.grammar import PREFIX

#: How a model's name joins a trainer and the calibration after it.
THEN = " + "
#: nnU-Net's own plans.
PLANS = "nnUNetPlans"
#: The folder of a data set, and what it is in words.
DATASET = re.compile(r"Dataset[0-9]{3}_[\w.-]+")
DATASET_NAME = "DatasetXXX_NAME with a name of letters, digits, _, . and -"


@dataclass(frozen=True)
class Network:
    """A network other than the one nnU-Net plans, for a small machine. None: as nnU-Net plans it.

    Attributes:
        plans: name of the plans file that is made for it.
        patch_size: voxels, in nnU-Net's axis order.
        batch_size: patches.
        features_per_stage: channels of each stage; the last number also holds for further stages.
        planner: nnU-Net's planner class, for example ``nnUNetPlannerResEncM``.
        gpu_memory_target: in GB, for the planner.
        target_spacing: in mm, in nnU-Net's axis order, for the planner.
    """

    plans: str
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    planner: str | None = None
    gpu_memory_target: float | None = None
    target_spacing: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Data:
    """A data set in nnU-Net's raw format, and the folds to train.

    Attributes:
        name: the plan's name for it.
        dataset: ``DatasetXXX_NAME``.
        convert: a ``meep-convert-...`` command that makes it, as a list; ``{source}`` in it stands
            for the folder that the user gives. Empty: it exists already.
    """

    name: str
    dataset: str
    configuration: str
    plans: str
    folds: tuple[int, ...]
    network: Network | None
    convert: tuple[str, ...]

    @property
    def dataset_id(self) -> str:
        return str(int(self.dataset[7:10]))


@dataclass(frozen=True)
class Select:
    """Choose lambda of each loss and fold on the validation cases.

    Attributes:
        by: key of the metric; of the foreground classes' mean, or of the top label.
        top_label: whether ``by`` is that of the top label.
        not_worse: key of a metric in which the choice must not be worse than the plain loss.
    """

    by: str
    top_label: bool
    not_worse: str | None


@dataclass(frozen=True)
class Model:
    """What is trained once or several times, with different seeds.

    Attributes:
        trainer: its name without the seed.
        seeds: by the trainer's name with the seed: the seed, None without one.
        note: why it is trained once although the plan has seeds, or that its term may not begin; or
            "". The end of a sentence that begins with the trainer.
    """

    data: str
    trainer: str
    seeds: dict[str, int | None]
    select: Select | None = None
    note: str = ""


@dataclass(frozen=True)
class Compare:
    """A comparison of models with a reference, over one data set or over each."""

    reference: str
    models: tuple[str, ...] = ()
    data: str | None = None


@dataclass(frozen=True)
class Training:
    """One training: a trainer, with its seed, on one fold of a data set."""

    data: str
    trainer: str
    fold: int

    @property
    def key(self) -> str:
        return f"{self.data}/{self.trainer}/fold_{self.fold}"


@dataclass(frozen=True)
class Plan:
    """A plan, as :func:`.read_plan` reads it."""

    path: Path
    data: dict[str, Data]
    models: tuple[Model, ...]
    methods: tuple[str, ...]
    rois: tuple[str, ...]
    bins: int
    surface: bool
    parts: int
    comparisons: tuple[Compare, ...]

    def trainings(self) -> Iterator[Training]:
        """All trainings; those of one seed and fold follow one another, to be compared early."""
        n_seeds = max(len(model.seeds) for model in self.models)
        for i, data in itertools.product(range(n_seeds), self.data.values()):
            models = [list(m.seeds) for m in self.models if m.data == data.name]
            for fold in data.folds:
                for names in models:
                    yield from (Training(data.name, name, fold) for name in names[i : i + 1])

    def choices(self, data: str) -> dict[str, list[Model]]:
        """The models among which validation cases choose lambda, by the name of the choice.

        Its name is that of the trainers with ``lambda*`` in place of lambda.
        """
        found: dict[str, list[Model]] = {}
        for model in self.models:
            if model.data == data and model.select and (group := lambda_of(model.trainer)):
                found.setdefault(group[0], []).append(model)
        return found

    def names_of_models(self, data: str) -> list[str]:
        """The rows of the tables: all trainers, then all of them with each calibration."""
        trainers = [model.trainer for model in self.models if model.data == data]
        trainers += self.choices(data)
        return [
            *trainers,
            *(trainer + THEN + method for method in self.methods for trainer in trainers),
        ]


def plain_of(model: Model, models: Sequence[Model]) -> Model | None:
    """Among these models, the one trained on the same data with the same loss, but no term."""
    name = plain_name(model.trainer)
    same = {m.trainer: m for m in models if m.data == model.data}
    default = same.get(PREFIX) if plain_name(PREFIX) == name else None
    return same.get(name, default)
