"""MEEP for any nnU-Net trainer: the class to mix in, and what it adds to a training.

A trainer of your own, in a file in a folder of ``nnUNet_extTrainer``::

    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
        nnUNetTrainerDA5,
    )
    from nnunet_meep.trainers import MEEPMixin, parse

    class nnUNetTrainerDA5_MEEP(MEEPMixin, nnUNetTrainerDA5):
        experiment = parse("nnUNetTrainerMEEP_KL_lambda0p3")

``experiment`` says in the grammar of :mod:`nnunet_meep.trainers.names` what is to be added;
everything that it does not name stays as the other base class has it.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils.hooks import RemovableHandle

from nnunet_meep import __version__
from nnunet_meep.losses import FocalLoss, RegularizedLoss
from nnunet_meep.losses.regularized import TERMS, LossParts
from nnunet_meep.trainers.control import STARTS, ErrorSums, next_lambda, signal
from nnunet_meep.trainers.loss_choice import with_term
from nnunet_meep.trainers.monitor import TrainingMonitor, over_ranks, weighted_parts
from nnunet_meep.trainers.names import PAPER_LEARNING_RATE, Experiment, explain
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger
from nnunet_meep.trainers.schedule import paper_optimizer


class MEEPMixin(nnUNetTrainer):
    """Gives the trainer that it is mixed into the loss and the options of an experiment.

    It has to stand in front: ``class Mine(MEEPMixin, nnUNetTrainerDA5)``.

    - segmentation loss: nothing (or ``DiceCE``) keeps the other trainer's own loss, whatever it
      is; ``Dice`` and ``CE`` need one that is nnU-Net's Dice + CE; ``Focal`` replaces it;
    - the term is added to what nnU-Net's deep supervision wraps, so it acts at each resolution;
    - options replace what the other trainer sets; without one its own value stays;
    - every epoch logs the calibration (:mod:`nnunet_meep.trainers.monitor`).

    Attributes:
        experiment: what :func:`nnunet_meep.trainers.names.parse` returns for a name.
        monitor: the sums of the present epoch, from ``initialize()`` on.
    """

    experiment: ClassVar[Experiment]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not isinstance(getattr(cls, "experiment", None), Experiment):
            raise TypeError(
                f"{cls.__name__}: experiment: expected what parse() returns for a name of "
                f"nnunet-meep, got {getattr(cls, 'experiment', None)!r}; see meep-trainers"
            )
        for base in cls.__mro__[: cls.__mro__.index(MEEPMixin)]:
            if issubclass(base, nnUNetTrainer) and not issubclass(base, MEEPMixin):
                raise TypeError(
                    f"{cls.__name__}: MEEPMixin has to stand in front of {base.__name__}, whose "
                    "methods would take the place of its own"
                )

    # nnU-Net inspects this signature to store what rebuilds the trainer from a checkpoint.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        experiment = self.experiment
        if experiment.auto and str(fold) == "all":  # before nnU-Net makes folder and log
            raise self._no_unseen_cases(fold, "its")
        super().__init__(plans, configuration, fold, dataset_json, device)
        if experiment.epochs is not None:
            # nnU-Net's 1000 epochs leave 20 chances to resume from; so do shorter trainings.
            self.num_epochs = experiment.epochs
            self.save_every = max(1, experiment.epochs // 20)
        if experiment.iterations is not None:
            self.num_iterations_per_epoch = experiment.iterations
            self.num_val_iterations_per_epoch = experiment.validation_iterations
        if experiment.paper:  # what nnU-Net writes down of it, for wandb and debug.json
            self.initial_lr, self.weight_decay = PAPER_LEARNING_RATE, 0.0
        own = self.logger.local_logger
        self.logger.local_logger = CalibrationLogger(own.verbose)
        self.logger.local_logger.load_checkpoint(own.get_checkpoint())  # what a trainer adds to it

    # What is trained: loss, optimiser, batches, initialisation

    def _build_loss(self) -> torch.nn.Module:
        loss = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):
            loss.loss = self._inner_loss(loss.loss)
            return loss
        return self._inner_loss(loss)

    def _inner_loss(self, own_loss: torch.nn.Module) -> torch.nn.Module:
        """The trainer's own loss at one resolution, cut to what is asked for, plus the term."""
        experiment = self.experiment
        labels = {
            "ignore_label": self.label_manager.ignore_label,
            "regions": self.label_manager.has_regions,
        }
        if experiment.segmentation_loss == "Focal":
            own_loss = FocalLoss(experiment.gamma, **labels)
        elif experiment.segmentation_loss != "DiceCE":
            if not isinstance(own_loss, DC_and_CE_loss | DC_and_BCE_loss):
                raise TypeError(
                    f"{type(self).__name__}: {experiment.segmentation_loss} needs a trainer with "
                    f"nnU-Net's Dice + CE loss, got {type(own_loss).__name__}; leave the "
                    "segmentation loss out of the experiment to keep it"
                )
            if experiment.segmentation_loss == "Dice":
                own_loss.weight_ce = 0
            else:
                own_loss.weight_dice = 0
        term = experiment.active_term
        # Without a term nnU-Net's own object stays. CE alone returns a Python 0 for a batch that
        # is ignored altogether, which has no backward().
        ce_with_ignore = (
            experiment.segmentation_loss == "CE" and self.label_manager.has_ignore_label
        )
        if term is None and not ce_with_ignore:
            return own_loss
        return with_term(
            own_loss,
            term,
            experiment.weight if term else 0.0,
            n_channels=self.label_manager.num_segmentation_heads,
            device=self.device,
            **labels,
        )

    # Some of nnU-Net's trainers pass the stage of a warm-up.
    def configure_optimizers(self, *args: Any, **kwargs: Any) -> Any:
        if self.experiment.paper:
            if self.optimizer is None:
                return paper_optimizer(self.network)
            return self.optimizer, self.lr_scheduler  # asked again, where a warm-up ends
        return super().configure_optimizers(*args, **kwargs)

    def initialize(self) -> None:
        self._seed(0)
        super().initialize()
        self.monitor = TrainingMonitor(
            self.label_manager.num_segmentation_heads - (not self.label_manager.has_regions),
            ignore_label=self.label_manager.ignore_label,
            regions=self.label_manager.has_regions,
            device=self.device,
        )
        self._parts: list[LossParts] = []
        self._seen: list[tuple[torch.Tensor, torch.Tensor, LossParts]] | None = None
        self._unforced: list[int] = []
        self._hooks: list[RemovableHandle] = []
        self._iteration = 0
        self._listen()

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's training and validation cases of the fold."""
        training, validation = super().do_split()
        trained_on = set(training).intersection(validation)
        if self.experiment.auto and trained_on:
            raise self._no_unseen_cases(self.fold, f"{len(trained_on)} of its {len(validation)}")
        return training, validation

    def _no_unseen_cases(self, fold: int | str, which: str) -> SystemExit:
        return SystemExit(
            f"Error: {type(self).__name__} -f {fold}: {which} validation cases are training "
            "cases, on which overconfidence does not show; lambda would come out too small. Train "
            "a fold with cases of its own, or give the lambda that folds have found"
        )

    def get_dataloaders(self) -> Any:
        self._seed(0)  # after initialize() each rank has its own; background loaders inherit them
        loaders = super().get_dataloaders()
        if self.experiment.foreground is not None:
            _oversample_with_probability(loaders[0], self.experiment.foreground)
        if self.experiment.auto:
            # A rank may have none of its own: nnU-Net forces the last patches of the whole batch.
            unforced = torch.tensor(len(_unforced_patches(loaders[1])), device=self.device)
            if not over_ranks(unforced):
                raise SystemExit(
                    f"Error: {type(self).__name__}: lambda is found on validation patches that "
                    "are not centred on foreground, and of this trainer none are known; give a "
                    "lambda"
                )
        return loaders

    def _seed(self, epoch: int) -> None:
        """Start the random numbers of an epoch, the same whether it is resumed or not."""
        if self.experiment.seed is None:
            return
        # Ranks start from the same weights and draw different batches.
        entropy = [self.experiment.seed, epoch, self.local_rank if self.was_initialized else 0]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders draw from it)
        torch.manual_seed(seed)

    # What is measured and logged while it trains

    def _listen(self) -> None:
        """Set lambda and register hooks; in each epoch, as a trainer may replace its loss."""
        for hook in self._hooks:  # of the old loss, which may be part of the new one
            hook.remove()
        self._hooks = []
        with_terms = [m for m in self.loss.modules() if isinstance(m, RegularizedLoss) and m.term]
        if self.experiment.auto and not with_terms:
            raise SystemExit(
                f"Error: {type(self).__name__}: the trainer's loss, {type(self.loss).__name__}, "
                "does not contain the term whose lambda is to be found; let _build_loss wrap what "
                "super()._build_loss() returns"
            )
        for loss in with_terms:
            loss.weight = self._weight()
        inner = self.loss.loss if isinstance(self.loss, DeepSupervisionWrapper) else self.loss
        if inner in with_terms:
            hook = inner.register_forward_hook(lambda m, *_: self._parts.append(m.parts))
            self._hooks.append(hook)
        self._hooks.append(self.loss.register_forward_hook(self._on_loss))

    def _on_loss(self, _: Any, arguments: tuple[Any, ...], loss: torch.Tensor) -> None:
        """Sees what nnU-Net's steps give to the loss; a forward hook."""
        logits, target = arguments[:2]
        if isinstance(logits, list | tuple):
            logits, target = logits[0], target[0]
        if self._seen is None:  # validation, for which the parts are of no interest
            # At once, because nnU-Net's validation step changes the target after the loss.
            self.monitor.add_validation(logits[self._unforced], target[self._unforced])
        else:
            if self._parts:
                weights = getattr(self.loss, "weight_factors", (1.0,))
                parts = weighted_parts(self._parts, [w for w in weights if w])
            else:
                parts = LossParts(loss.detach(), torch.full_like(loss.detach(), float("nan")))
            self._add_seen()  # of a step with several losses one batch at a time is kept
            self._seen.append((logits.detach(), target, parts))
        self._parts.clear()

    def _weight(self) -> float:
        """Lambda of the present epoch, from the log of those before: it is in the checkpoint."""
        experiment = self.experiment
        if not experiment.auto or not experiment.term:
            return experiment.weight
        n_done = self.current_epoch
        # NaN in the log of a training that was begun without this package.
        weight = self.logger.get_value("lambda", step=n_done - 1) if n_done else 0.0
        epochs = self._error_sums()[:n_done]
        return next_lambda(weight, epochs, self.num_epochs, start=STARTS[experiment.term])

    def _error_sums(self) -> list[ErrorSums]:
        """Of the validation patches of each epoch so far, from the log."""
        sums = (self.logger.get_value(f"validation_{key}", step=None) for key in ErrorSums._fields)
        return list(map(ErrorSums, *sums))

    def _add_seen(self) -> None:
        while self._seen:
            self.monitor.add_training(*self._seen.pop())

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._seen = []
        result = super().train_step(batch)
        if not np.isfinite(result["loss"]):
            self._stop(result["loss"], batch)
        # After the step, when the memory of the backward pass is free again.
        self._add_seen()
        self._seen = None
        self._iteration += 1
        return result

    def _stop(self, loss: float, batch: dict[str, Any]) -> None:
        term = self.experiment.active_term
        said = ""
        if self._seen:
            parts = self._seen[-1][2]
            said = f": segmentation loss {float(parts.segmentation):g}"
            if term:
                said += f" and {term} {float(parts.term):g} (lambda {self._weight():g})"
        finite = bool(torch.isfinite(batch["data"]).all())
        cases = f" (cases {', '.join(map(str, batch['keys']))})" if "keys" in batch else ""
        message = (
            f"the loss is {float(loss):g} in epoch {self.current_epoch}, iteration "
            f"{self._iteration}{said}; the images of the batch are "
            f"{'finite' if finite else 'not finite'}{cases}. "
            "The checkpoints are from before; --c goes on from the last one"
        )
        self.print_to_log_file(f"Stopped: {message}", also_print_to_console=False)
        raise FloatingPointError(message)

    def on_train_start(self) -> None:
        super().on_train_start()
        lines = [f"nnunet-meep {__version__}: {self.experiment.name}"]
        if type(self).__name__ == self.experiment.name:
            lines += [f"  {key}: {value}" for key, value in explain(self.experiment).items()]
        inner = self.loss.loss if isinstance(self.loss, DeepSupervisionWrapper) else self.loss
        computed = inner.how if isinstance(inner, RegularizedLoss) else "nnU-Net's own"
        lines.append(f"  loss: {computed}")
        for line in lines:
            self.print_to_log_file(line, add_timestamp=False)

    def on_train_epoch_start(self) -> None:
        self._seed(self.current_epoch + 1)
        super().on_train_epoch_start()
        if self.experiment.paper:  # nnU-Net rounds to 1e-5
            self.print_to_log_file(f"that is {self.optimizer.param_groups[0]['lr']:.4g}")
        self._listen()
        self._iteration = 0
        self.monitor.start_training()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        self._log({**self.monitor.training_values(), "lambda": self._weight()})

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.monitor.start_validation()
        self._unforced = _unforced_patches(self.dataloader_val)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self._log(self.monitor.validation_values())
        now = signal(self._error_sums(), self.num_epochs)
        self._log({f"average_{key}": value for key, value in now._asdict().items()})

    def _log(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self.logger.log(key, value, self.current_epoch)

    def on_epoch_end(self) -> None:
        values = {key: self.logger.get_value(key, step=-1) for key in KEYS}
        for line in self._report(values):
            self.print_to_log_file(line)
        super().on_epoch_end()

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.experiment.auto:
            self.print_to_log_file(self._lambda_of_checkpoints())

    def _lambda_of_checkpoints(self) -> str:
        """What tells apart the checkpoints of a training whose lambda has changed."""
        weights = self.logger.get_value("lambda", step=None)
        best = int(np.argmax(self.logger.get_value("ema_fg_dice", step=None)))
        if not weights[-1]:
            return (
                f"lambda was 0 to the end: a training of {len(weights)} epoch is too short for "
                "the term, which begins after two fifths of it"
            )
        text = f"lambda: {weights[-1]:.4g} in the last epoch, of checkpoint_final"
        if best < len(weights) - 1:
            text += f"; {weights[best]:.4g} in epoch {best}, of checkpoint_best"
            if not weights[best]:
                text += (
                    ", which is from before the term began: its probabilities are the plain loss's"
                )
        return text

    def _report(self, values: dict[str, Any]) -> list[str]:
        experiment = self.experiment
        lines = [f"segmentation_loss {values['segmentation_loss']:.4f}"]
        if term := experiment.active_term:
            sign = "+" if TERMS[term][1] > 0 else "-"
            lines[0] += f" {sign} {values['lambda']:g} * {term} {values['term_value']:.4f}"
        lines.append(
            f"misclassified {values['misclassified']:.3%} of the voxels, with entropy "
            f"{values['misclassified_entropy']:.3f} of log K"
        )
        if np.isnan(values["mean_fg_ece"]):
            reason = (
                "no voxel of the validation patches has a label and a probability"
                if self._unforced
                else "nnU-Net centres all validation patches on foreground, or any at random, so "
                "they say nothing of whole images"
            )
            lines.append(f"No pseudo ECE, Brier and unexpected errors: {reason}")
        else:
            for key, name in (("ece", "Pseudo ECE"), ("brier", "Pseudo Brier")):
                rounded = [round(x, 5) for x in values[f"{key}_per_class_or_region"]]
                lines.append(f"{name} {rounded}")
            share = round(values["unexpected_errors"], 3) + 0.0  # no -0.0
            lines.append(f"Unexpected errors {share:.3f}")
        if experiment.auto:
            lines.append(
                f"lambda {values['lambda']:.4g}: expects {values['average_expected']:.3%} errors "
                f"and makes {values['average_errors']:.3%} (averages), unexpected share "
                f"{values['average_unexpected']:.3f}"
            )
        return lines


def _loader(augmenter: Any) -> nnUNetDataLoader | None:
    """nnU-Net's loader inside of what draws from it in the background, or not; None if other."""
    loader = getattr(augmenter, "generator", getattr(augmenter, "data_loader", None))
    return loader if isinstance(loader, nnUNetDataLoader) else None


def _oversample_with_probability(augmenter: Any, probability: float) -> None:
    """Let each patch be centred on foreground with a probability, instead of some in each batch."""
    loader = _loader(augmenter)
    if loader is None:
        raise TypeError(
            f"_fg: expected nnU-Net's own data loader, got {type(augmenter).__name__}; a trainer "
            "with other loaders has to set its sampling itself"
        )
    loader.oversample_foreground_percent = probability
    loader.get_do_oversample = loader._probabilistic_oversampling
    if hasattr(augmenter, "restart"):  # workers hold copies of the loader as it was
        augmenter.restart()


def _unforced_patches(augmenter: Any) -> list[int]:
    """The patches of each batch that nnU-Net does not force onto foreground; none if unknown."""
    loader = _loader(augmenter)
    if loader is None or loader.get_do_oversample != loader._oversample_last_XX_percent:
        return []
    return [i for i in range(loader.batch_size) if not loader.get_do_oversample(i)]
