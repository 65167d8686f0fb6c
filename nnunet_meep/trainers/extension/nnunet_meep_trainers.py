"""Where nnU-Net's class finder meets nnunet-meep: it scans this directory and nothing else.

nnU-Net imports this file as a top-level module, asks ``hasattr(module, name)`` and drops the
module again, so it holds no class; it passes names on to :mod:`nnunet_meep.trainers`.

Another environment may inherit ``nnUNet_extTrainer`` and import this file without having
nnunet-meep: then no name is found here, and nnU-Net's search goes on.
"""

import os


def __getattr__(name: str) -> type:
    try:
        from nnunet_meep import trainers
        from nnunet_meep.trainers import nearest
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
    except AttributeError:
        # Whoever else has a class of this name is searched before us: it is not found anyway.
        if _is_searched_last() and (suggestion := nearest.meant(name)):
            raise SystemExit(f"Error: nnU-Net has no trainer {name!r}; {suggestion}") from None
        raise


def _is_searched_last() -> bool:
    *_, last = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    return bool(last) and os.path.realpath(last) == os.path.dirname(os.path.realpath(__file__))
