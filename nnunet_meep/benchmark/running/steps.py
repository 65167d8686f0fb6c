"""The steps of one training: train, predict, calibrate, evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nnunet_meep.benchmark.plans.plan import THEN, Data, Plan, Training
from nnunet_meep.benchmark.plans.trainer_names import n_epochs
from nnunet_meep.benchmark.running.data_sets import (
    SPLITS,
    TestScans,
    file_ending,
    fold_of,
    read_splits,
    test_scans,
)
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.prepare import test_images
from nnunet_meep.benchmark.running.progress import (
    prediction_progress,
    progress_bars,
    training_progress,
)
from nnunet_meep.benchmark.running.resume import (
    resume_itself,
    resume_prediction,
    resume_training,
)
from nnunet_meep.benchmark.running.step import Step
from nnunet_meep.benchmark.running.unchanged import check_trained
from nnunet_meep.errors import InputError

VALIDATION, TEST = "validation", "test"


def training_steps(plan: Plan, training: Training, folders: Folders, ready: str) -> list[Step]:
    """The steps of one training, once its data set is prepared.

    Args:
        ready: key of the step that ends the preparation of the data set.

    Raises:
        InputError: the data set has no such fold, its test scans are not complete, or it has none
            and a comparison needs them; or it was trained with other labels or folds before.
    """
    data = plan.data[training.data]
    steps = _Steps(plan, training, data)
    path = folders.preprocessed / data.dataset / SPLITS
    split = fold_of(path, training.fold)
    fold = f"{model_folder(data, training.trainer)}/fold_{training.fold}"
    check_trained(folders.path(fold), split["val"], folders.raw / data.dataset)
    scans = test_scans(data, read_splits(path), training.fold, folders)
    if scans is None:
        _check_references(plan, data)
    train = steps.train(split, ready)
    found = [train, *steps.evaluate(VALIDATION, steps.references, steps.validation, [train])]
    if scans is None:
        return found
    needs = [train]
    if not scans.is_whole:
        needs.append(test_images(data, training.fold, scans, folders))
    predict = steps.predict(scans, needs)
    found += [*needs[1:], predict]
    found += steps.evaluate(TEST, scans.references, steps.predictions, [predict], scans)
    for method in plan.methods:
        fit = steps.fit(method, train)
        apply = steps.apply(method, scans, fit, predict)
        found += [fit, apply]
        found += steps.evaluate(
            f"{TEST}+{method}", scans.references, steps.calibrated(method), [apply], scans
        )
    return found


def _check_references(plan: Plan, data: Data) -> None:
    """Check that no comparison has a reference that needs test scans, where there are none.

    Calibrators are fitted, and lambda is chosen, on validation cases.

    Raises:
        InputError: one has.
    """
    for comparison in plan.comparisons:
        trainer, then, _ = comparison.reference.partition(THEN)
        is_ours = comparison.reference in plan.names_of_models(data.name)
        is_chosen = trainer in plan.choices(data.name)
        if (then or is_chosen) and is_ours and comparison.data in (None, data.name):
            instead = plan.choices(data.name)[trainer][0].trainer if is_chosen else trainer
            raise InputError(
                f"[[compare]] reference: expected test scans with labels in {data.dataset}, on "
                f'which "{comparison.reference}" could be evaluated, found none (imagesTs and '
                f'labelsTs, or scans that each fold leaves out); give reference = "{instead}"'
            )


def known_keys(plan: Plan) -> Iterator[str]:
    """The keys of all steps that a plan may have, and what they begin with up to a ``/``."""
    for name in plan.data:
        yield name
        for what in ("data", "fingerprint", "plan", "preprocess", "splits"):
            yield f"{name}/{what}"
    evaluated = [VALIDATION, *parts_of(plan, has_test_scans=True).values()]
    parts = [f"part_{i}_of_{plan.parts}" for i in range(1, plan.parts + 1) if plan.parts > 1]
    for training in plan.trainings():
        yield training.key
        for what in ("train", "predict", "fit", "apply", "evaluate"):
            yield f"{training.key}/{what}"
        for method in plan.methods:
            yield from (f"{training.key}/{what}/{method}" for what in ("fit", "apply"))
        for part in evaluated:
            yield f"{training.key}/evaluate/{part}"
            yield from (f"{training.key}/evaluate/{part}/{share}" for share in parts)


def evaluation_folder(training: Training, part: str) -> str:
    return f"{{work}}/evaluations/{training.key}/{part}"


def parts_of(plan: Plan, has_test_scans: bool) -> dict[str, str]:
    """What follows a trainer's name in a model's name: the part of its evaluations to compare."""
    if not has_test_scans:
        return {"": VALIDATION}
    return {"": TEST, **{f"{THEN}{method}": f"{TEST}+{method}" for method in plan.methods}}


def network_of(data: Data) -> str:
    """nnU-Net's plans and configuration, as in the name of a model's folder."""
    return f"{data.network.plans if data.network else data.plans}__{data.configuration}"


def model_folder(data: Data, trainer: str) -> str:
    return f"{{results}}/{data.dataset}/{trainer}__{network_of(data)}"


class _Steps:
    """Makes the steps of one training."""

    def __init__(self, plan: Plan, training: Training, data: Data) -> None:
        self.plan, self.training, self.data = plan, training, data
        self.plans = data.network.plans if data.network else data.plans
        self.fold = f"{model_folder(data, training.trainer)}/fold_{training.fold}"
        self.validation = f"{self.fold}/validation"
        self.predictions = f"{{work}}/predictions/{training.key}"
        self.references = f"{{preprocessed}}/{data.dataset}/gt_segmentations"

    def calibrated(self, method: str) -> str:
        return f"{{work}}/calibrated/{self.training.key}/{method}"

    def train(self, split: Mapping[str, Sequence[str]], ready: str) -> Step:
        fold = str(self.training.fold)
        command = ["nnUNetv2_train", self.data.dataset, self.data.configuration, fold]
        command += ["-tr", self.training.trainer, "-p", self.plans, "--npz"]
        return Step(
            key=f"{self.training.key}/train",
            command=tuple(command),
            outputs=(
                f"{self.fold}/checkpoint_final.pth",
                f"{self.validation}/summary.json",
                *(f"{self.validation}/{case}.npz" for case in split["val"]),
            ),
            needs=(ready,),
            fold={name: split[name] for name in ("train", "val")},
            clear=(self.fold,),
            on_device=True,
            progress=training_progress(n_epochs(self.training.trainer)),
            resume=lambda folders, words: resume_training(folders.path(self.fold), words),
            adopts=True,
            place=self.fold,
        )

    def predict(self, scans: TestScans, needs: Sequence[Step]) -> Step:
        def resume(folders: Folders, words: list[str]) -> list[str]:
            ending = file_ending(folders.raw / self.data.dataset)
            return resume_prediction(folders.path(self.predictions), words, ending)

        command = ["nnUNetv2_predict", "-i", scans.images, "-o", self.predictions]
        command += ["-d", self.data.dataset, "-c", self.data.configuration]
        command += ["-f", str(self.training.fold), "-tr", self.training.trainer, "-p", self.plans]
        command += ["--save_probabilities", "-npp", "1", "-nps", "1"]
        return Step(
            key=f"{self.training.key}/predict",
            command=tuple(command),
            outputs=tuple(f"{self.predictions}/{case}.npz" for case in scans.cases),
            inputs=scans.image_files,
            needs=tuple(step.key for step in needs),
            clear=(self.predictions,),
            on_device=True,
            progress=prediction_progress,
            resume=resume,
        )

    def fit(self, method: str, train: Step) -> Step:
        output = f"{{work}}/calibrators/{self.training.key}/{method}"
        command = ["meep-calib-fit", method, self.references, self.validation]
        return Step(
            key=f"{self.training.key}/fit/{method}",
            command=(*command, "-o", f"{output}/calibrator.json"),
            outputs=(f"{output}/calibrator.json",),
            needs=(train.key,),
            clear=(output,),
            progress=progress_bars,
        )

    def apply(self, method: str, scans: TestScans, fit: Step, predict: Step) -> Step:
        output = self.calibrated(method)
        command = ["meep-calib-apply", fit.outputs[0], self.predictions, "-o", output]
        return Step(
            key=f"{self.training.key}/apply/{method}",
            command=tuple(command),
            outputs=tuple(f"{output}/{case}.npz" for case in scans.cases),
            needs=(fit.key, predict.key),
            clear=(output,),
            progress=progress_bars,
            resume=resume_itself,
        )

    def evaluate(
        self,
        part: str,
        references: str,
        predictions: str,
        needs: Sequence[Step],
        scans: TestScans | None = None,
    ) -> list[Step]:
        """The evaluation of a folder, by several steps if the plan has several parts."""
        output = evaluation_folder(self.training, part)
        command = ["meep-calib-eval", references, predictions, "-o", output]
        command += ["--bins", str(self.plan.bins), "--roi", *self.plan.rois]
        if not self.plan.surface:
            command.append("--no-surface")
        if scans is not None and not scans.is_whole:  # the folder has labels of other scans, too
            command += ["--cases", *scans.cases]
        inputs = scans.label_files if scans is not None else ()
        key, n = f"{self.training.key}/evaluate/{part}", self.plan.parts
        shares = [
            Step(
                key=f"{key}/part_{i}_of_{n}",
                command=(*command, "--part", f"{i}/{n}"),
                outputs=(),
                inputs=inputs,
                needs=tuple(step.key for step in needs),
                processes="-np",
                progress=progress_bars,
            )
            for i in (range(1, n + 1) if n > 1 else ())
        ]
        whole = Step(
            key=key,
            command=tuple(command),
            outputs=(f"{output}/calibration.json",),
            inputs=inputs,
            needs=tuple(step.key for step in (*needs, *shares)),
            clear=() if shares else (output,),
            processes="-np",
            progress=progress_bars,
            resume=resume_itself,
        )
        return [*shares, whole]
