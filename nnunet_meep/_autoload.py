"""Tell nnU-Net where the MEEP trainers are, at every start of Python.

``nnunet_meep_trainers.pth`` in site-packages imports this module when Python starts. It appends
our directory of trainers to ``nnUNet_extTrainer``, after whatever the user has put there, so
that the stock ``nnUNetv2_*`` commands find the trainers right after ``pip install``.

``NNUNET_MEEP_AUTOLOAD=0`` switches it off. Standard library only; takes less than a millisecond.
"""

import os
import sys

#: Set to ``0`` in the environment to leave ``nnUNet_extTrainer`` alone.
SWITCH = "NNUNET_MEEP_AUTOLOAD"

#: The directory that nnU-Net scans; without autoload, add it to ``nnUNet_extTrainer`` by hand.
EXTENSION_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trainers", "extension")


def register(directory: str = EXTENSION_DIR) -> None:
    """Append ``directory`` to ``nnUNet_extTrainer`` unless it is there or this is switched off.

    If nnU-Net could not use the directory, changes nothing and prints one line on stderr.
    """
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "false", "no", "off"):
        return
    present = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    if directory in present:
        return
    if os.pathsep in directory:
        problem = f"its path contains {os.pathsep!r}, which separates paths there"
    elif not os.path.isdir(directory):
        problem = "it is missing; reinstall nnunet-meep"
    else:
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*present, directory])
        return
    print(
        f"nnunet-meep: nnU-Net will not find the MEEP trainers: {directory} cannot be added to "
        f"nnUNet_extTrainer: {problem} ({SWITCH}=0 silences this)",
        file=sys.stderr,
    )


register()
