"""Where nnU-Net's class finder meets nnunet-meep: it scans this directory and nothing else.

nnU-Net imports this file as a top-level module, asks ``hasattr(module, name)`` and drops the
module again, so it holds no class; it passes names on to :mod:`nnunet_meep.trainers`.

Another environment may inherit ``nnUNet_extTrainer`` and import this file without having
nnunet-meep: then no name is found here, and nnU-Net's search goes on.
"""


def __getattr__(name: str) -> type:
    try:
        from nnunet_meep import trainers
    except ModuleNotFoundError as error:
        if error.name != "nnunet_meep":
            raise
        raise AttributeError(name) from error
    try:
        # Not getattr(): what else that module holds (__path__, functions) is no trainer.
        return trainers.trainer_class(name)
    except trainers.TrainerNameError as error:
        # hasattr() swallows AttributeError alone; this ends the nnU-Net command with one line.
        raise SystemExit(f"Error: {error}") from None
