"""MEEP, or a rival, for any nnU-Net trainer: a mixin class, and what it adds to a training.

A trainer of your own, in a file in a folder of ``nnUNet_extTrainer``::

    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
        nnUNetTrainerDA5,
    )
    from nnunet_meep.trainers import MEEPMixin, parse

    class nnUNetTrainerDA5_MEEP(MEEPMixin, nnUNetTrainerDA5):
        experiment = parse("nnUNetTrainerMEEP_KL_lambda0p3")

``experiment`` specifies what to add, in the grammar of :mod:`nnunet_meep.trainers.grammar`.
Everything that it does not name stays as in the other base class.
"""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_meep import __version__
from nnunet_meep.atomic import move_files, temporary_folder
from nnunet_meep.errors import InputError
from nnunet_meep.trainers.checkpoints import go_on_from, refuse_torn
from nnunet_meep.trainers.controller import LambdaController
from nnunet_meep.trainers.grammar import PAPER_LEARNING_RATE, TERMS, Experiment
from nnunet_meep.trainers.listener import LossListener, losses_with_term
from nnunet_meep.trainers.loss_choice import choose_loss, made_losses
from nnunet_meep.trainers.monitor import TrainingMonitor, over_ranks
from nnunet_meep.trainers.names import explain
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger
from nnunet_meep.trainers.report import epoch_lines, not_finite
from nnunet_meep.trainers.resumed import refuse_other_trainer
from nnunet_meep.trainers.sampling import oversample_with_probability, unforced_patches
from nnunet_meep.trainers.schedule import paper_optimizer

#: Batches in a row whose loss is not finite, at which a training in half precision stops.
MOST_OVERFLOWS = 10


class MEEPMixin(nnUNetTrainer):
    """Gives the trainer that it is mixed into the loss and the options of an experiment.

    It must be the first base class: ``class Mine(MEEPMixin, nnUNetTrainerDA5)``.

    - segmentation loss: nothing (or ``DiceCE``) keeps the other trainer's own loss, whatever it
      is; ``Dice``, ``CE`` and ``DSCpp`` require that it is nnU-Net's Dice + CE, as do the terms
      ``LS`` and ``SVLS``; ``Focal`` replaces it;
    - the term is added inside nnU-Net's deep supervision, so it acts at each resolution;
    - options replace the other trainer's settings; without an option its own value stays;
    - every epoch logs the calibration (:mod:`nnunet_meep.trainers.monitor`).

    An experiment that cannot be trained raises an ``InputError`` of one line, in ``__init__()``,
    ``initialize()`` or ``run_training()``; a checkpoint of another trainer, in
    ``load_checkpoint()``. One that does not fit the other trainer's loss or data loaders raises a
    ``TypeError``. A loss that is not finite raises a ``FloatingPointError``; in half precision, if
    an image is not, or in :data:`MOST_OVERFLOWS` batches in a row.

    Attributes:
        experiment: what :func:`nnunet_meep.trainers.names.parse` returns for a name.
        monitor: the sums of the current epoch; exists after ``initialize()``.
        listener: passes the inputs of the loss to the monitor; exists after ``initialize()``.
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

    # nnU-Net inspects this signature to store the arguments that rebuild the trainer.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        experiment = self.experiment
        if experiment.auto and str(fold) == "all":  # before nnU-Net creates a folder and a log
            raise self._no_unseen_cases(fold, "its")
        if PlansManager(plans).get_label_manager(dataset_json).has_regions:
            self._check_regions()
        super().__init__(plans, configuration, fold, dataset_json, device)
        if experiment.epochs is not None:
            # Save 20 checkpoints to resume from, as nnU-Net does in 1000 epochs.
            self.num_epochs = experiment.epochs
            self.save_every = max(1, experiment.epochs // 20)
        if experiment.iterations is not None:
            self.num_iterations_per_epoch = experiment.iterations
            self.num_val_iterations_per_epoch = experiment.validation_iterations
        if experiment.paper:  # only what nnU-Net reports to wandb and debug.json
            self.initial_lr, self.weight_decay = PAPER_LEARNING_RATE, 0.0
        own = self.logger.local_logger
        self.logger.local_logger = CalibrationLogger(own.verbose, finds_lambda=experiment.auto)
        self.logger.local_logger.load_checkpoint(own.get_checkpoint())  # keeps a trainer's own keys

    def _check_regions(self) -> None:
        term = self.experiment.active_term
        if term is not None and (reason := TERMS[term].not_regions):
            others = [name for name, other in TERMS.items() if not other.not_regions]
            raise InputError(
                f"{type(self).__name__}: {term} is not for regions: {reason}; of the terms, "
                f"{', '.join(others)} are"
            )

    # What is trained: loss, optimiser, batches, initialisation

    def _build_loss(self) -> torch.nn.Module:
        loss: torch.nn.Module = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):
            loss.loss = self._inner_loss(loss.loss)
        else:
            loss = self._inner_loss(loss)
        return loss

    def _inner_loss(self, own_loss: torch.nn.Module) -> torch.nn.Module:
        try:
            return choose_loss(
                own_loss,
                self.experiment,
                ignore_label=self.label_manager.ignore_label,
                regions=self.label_manager.has_regions,
                n_channels=self.label_manager.num_segmentation_heads,
                device=self.device,
            )
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None

    # Some of nnU-Net's trainers pass the stage of a warm-up.
    def configure_optimizers(self, *args: Any, **kwargs: Any) -> Any:
        if self.experiment.paper:
            if self.optimizer is None:
                return paper_optimizer(self.network)
            return self.optimizer, self.lr_scheduler  # called again when a warm-up ends
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
        self.listener = LossListener(self.monitor)
        self._iteration = self._n_overflows = 0
        self._follow_loss()

    def load_checkpoint(
        self,
        filename_or_checkpoint: dict[str, Any] | str | None = None,
        *,
        checkpoint: dict[str, Any] | str | None = None,
    ) -> None:
        """Go on from a whole checkpoint of the same trainer; any other is refused.

        Args:
            filename_or_checkpoint: its file; with versions of nnU-Net after 2.8.1 also what it
                holds.
            checkpoint: the same, as those versions call it.
        """
        given = checkpoint if filename_or_checkpoint is None else filename_or_checkpoint
        if not isinstance(given, str):
            super().load_checkpoint(given)
            return
        path = Path(given)
        refuse_other_trainer(path, type(self).__name__)
        try:
            super().load_checkpoint(given)
        except Exception as error:  # a broken file can raise anything in torch
            refuse_torn(path, error)
            raise

    def save_checkpoint(self, filename: str) -> None:
        """Save a checkpoint completely or not at all; nnU-Net writes it under its final name."""
        if self.local_rank != 0:  # writes none
            super().save_checkpoint(filename)
            return
        path = Path(filename)
        try:
            with temporary_folder(path.parent, error_names=path) as new:
                saved = new / path.name
                super().save_checkpoint(str(saved))
                # torch 2.6 does not notice if the last bytes cannot be written.
                if saved.is_file() and not zipfile.is_zipfile(saved):
                    raise RuntimeError("its end could not be written")
                move_files(new, path.parent)
        except RuntimeError as error:  # torch's, if it cannot write
            reason, after = str(error).partition("\n")[0], go_on_from(path.parent)
            raise InputError(
                f"{path}: could not be saved; is the disk full? ({reason}); {after}"
            ) from error

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's training and validation cases of the fold; disjoint if lambda is automatic."""
        training, validation = super().do_split()
        trained_on = set(training).intersection(validation)
        if self.experiment.auto and trained_on:
            raise self._no_unseen_cases(self.fold, f"{len(trained_on)} of its {len(validation)}")
        return training, validation

    def _no_unseen_cases(self, fold: int | str, which: str) -> InputError:
        return InputError(
            f"{type(self).__name__} -f {fold}: {which} validation cases are training "
            "cases, on which overconfidence does not show; lambda would come out too small. Train "
            "a fold with cases of its own, or give the lambda that folds have found"
        )

    def get_dataloaders(self) -> Any:
        # Now a different seed on each rank. Background loaders inherit it for much of their
        # augmentation, so that of a training that goes on is not that of its beginning.
        self._seed(self.current_epoch)
        loaders = super().get_dataloaders()
        if self.experiment.foreground is not None:
            oversample_with_probability(loaders[0], self.experiment.foreground)
        if self.experiment.auto:
            # A single rank may have none: nnU-Net forces the last patches of the global batch.
            unforced = torch.tensor(len(unforced_patches(loaders[1])), device=self.device)
            if not over_ranks(unforced):
                raise InputError(
                    f"{type(self).__name__}: lambda is found on validation patches that "
                    "are not centred on foreground, and of this trainer none are known; give a "
                    "lambda"
                )
        return loaders

    def _seed(self, epoch: int) -> None:
        """Seed the random numbers of an epoch, in the same way whether it is resumed or not."""
        if self.experiment.seed is None:
            return
        # Ranks start from the same weights but draw different batches.
        entropy = [self.experiment.seed, epoch, self.local_rank if self.was_initialized else 0]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders draw from it)
        torch.manual_seed(seed)

    # What is measured and logged during training

    def _follow_loss(self) -> None:
        """Set lambda and listen to the loss; in every epoch, as a trainer may replace its loss."""
        if self.experiment.changes_loss and not made_losses(self.loss):
            asked = self.experiment.active_term or self.experiment.segmentation_loss
            raise InputError(
                f"{type(self).__name__}: the trainer's loss, {type(self.loss).__name__}, does not "
                f"contain {asked}; let _build_loss wrap what super()._build_loss() returns"
            )
        for loss in losses_with_term(self.loss):
            loss.weight = self._weight()
        self.listener.listen_to(self.loss)

    @property
    def controller(self) -> LambdaController:
        """Computes lambda of each epoch."""
        return LambdaController(self.experiment, self.logger)

    def _weight(self) -> float:
        return self.controller.weight(self.current_epoch, self.num_epochs)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self.listener.training_step():
            result: dict[str, Any] = super().train_step(batch)
            if np.isfinite(result["loss"]):
                self._n_overflows = 0
            else:
                self._overflowed(result["loss"], batch)
        self._iteration += 1
        return result

    def _overflowed(self, loss: float, batch: dict[str, Any]) -> None:
        """Stop, or go on as nnU-Net does where half precision may be why the loss is not finite."""
        self._n_overflows += 1
        # Whose weights are sound: the scaler has left this step out.
        may_go_on = self.grad_scaler is not None and self._n_overflows < MOST_OVERFLOWS
        if may_go_on and torch.isfinite(batch["data"]).all():
            self.listener.leave_out()
            self.print_to_log_file(
                f"The loss is {float(loss):g} in iteration {self._iteration}, in half precision; "
                f"the batch is left out"
            )
        else:
            self._stop(loss, batch)

    def _stop(self, loss: float, batch: dict[str, Any]) -> None:
        message = not_finite(
            loss,
            self.listener.parts,
            self.experiment.active_term,
            self._weight(),
            batch,
            epoch=self.current_epoch,
            iteration=self._iteration,
            go_on=go_on_from(Path(self.output_folder)),
        )
        self.print_to_log_file(f"Stopped: {message}", also_print_to_console=False)
        raise FloatingPointError(message)

    def on_train_start(self) -> None:
        super().on_train_start()
        lines = [f"nnunet-meep {__version__}: {self.experiment.name}"]
        if type(self).__name__ == self.experiment.name:
            lines += [f"  {key}: {value}" for key, value in explain(self.experiment).items()]
        made = [getattr(loss, "how", type(loss).__name__) for loss in made_losses(self.loss)]
        lines.append("  loss: " + (", ".join(made) or "the trainer's own"))
        for line in lines:
            self.print_to_log_file(line, add_timestamp=False)

    def on_train_epoch_start(self) -> None:
        self._seed(self.current_epoch + 1)
        super().on_train_epoch_start()
        if self.experiment.paper:  # nnU-Net's own line is rounded to 1e-5
            self.print_to_log_file(
                f"learning rate, unrounded: {self.optimizer.param_groups[0]['lr']:.4g}"
            )
        self._follow_loss()
        self._iteration = 0
        self.monitor.start_training()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        self._log({**self.monitor.training_values(), "lambda": self._weight()})

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.monitor.start_validation()
        self.listener.unforced = unforced_patches(self.dataloader_val)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self._log(self.monitor.validation_values())
        averages = self.controller.averages(self.num_epochs)._asdict()
        self._log({f"average_{key}": value for key, value in averages.items()})

    def _log(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self.logger.log(key, value, self.current_epoch)

    def on_epoch_end(self) -> None:
        values = {key: self.logger.get_value(key, step=-1) for key in KEYS}
        free = bool(self.listener.unforced)
        for line in epoch_lines(self.experiment, values, has_free_patches=free):
            self.print_to_log_file(line)
        super().on_epoch_end()

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.experiment.auto:
            saved = not self.disable_checkpointing
            self.print_to_log_file(self.controller.of_training(saved=saved))
