"""Where nnU-Net's class finder meets nnunet-meep: it scans this directory and nothing else.

nnU-Net imports this file as a top-level module, asks ``hasattr(module, name)`` and drops the
module again, so it holds no class; it passes names on to :mod:`nnunet_meep.trainers`.

Another environment may inherit ``nnUNet_extTrainer`` and import this file without having
nnunet-meep: then no name is found here, and nnU-Net's search goes on.
"""


def __getattr__(name: str) -> type:
    try:
        from nnunet_meep import trainers
        from nnunet_meep.errors import InputError
        from nnunet_meep.trainers import nearest, others
    except ModuleNotFoundError as error:
        if error.name != "nnunet_meep":
            raise
        raise AttributeError(name) from error
    try:
        # Not getattr(): what else that module holds (__path__, functions) is no trainer.
        return trainers.trainer_class(name)
    except trainers.TrainerNameError as error:
        problem = str(error)
    except AttributeError:
        if not (suggestion := nearest.meant(name)):
            raise
        problem = f"nnU-Net has no trainer {name!r}; {suggestion}"
    # Folders in front of ours have been searched already; one behind it may have the name.
    try:
        is_found = others.folder_with(name, others.folders_behind_ours()) is not None
    except InputError:
        is_found = True  # nnU-Net's search goes on to that folder, and says what is wrong there
    if is_found:
        raise AttributeError(name)
    # hasattr() swallows AttributeError alone; this ends the nnU-Net command with one line.
    raise SystemExit(f"Error: {problem}")
