"""``meep-export-model``: copy a trained model for people without this package."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-export-model",
        description=(
            "Copy a trained model so that nnU-Net can predict with it without nnunet-meep.\n\n"
            "MEEP changes only the weights of a network. The copy has the same weights, but its\n"
            "checkpoints name nnU-Net's own trainer; predictions are the same, voxel by voxel.\n"
            "All folds and checkpoints are copied, and the other files that\n"
            "nnUNetv2_export_model_to_zip includes, except debug.json, which names the machine.\n"
            "Of the validation, only the scores are copied (summary.json, which contains the\n"
            "paths of your files)."
        ),
        epilog=(
            "OUT must not exist. nnUNetv2_predict_from_modelfolder accepts OUT at any place; for\n"
            "nnUNetv2_predict, it has to be\n"
            "$nnUNet_results/DATASET/nnUNetTrainer__PLANS__CONFIGURATION.\n\n"
            "example:\n"
            "  meep-export-model \\\n"
            "      $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres \\\n"
            "      for_others/nnUNetTrainer__nnUNetPlans__3d_fullres\n"
            "  nnUNetv2_predict_from_modelfolder -i imagesTs -o pred -f 0 \\\n"
            "      -m for_others/nnUNetTrainer__nnUNetPlans__3d_fullres"
        ),
    )
    parser.add_argument(
        "model_folder",
        metavar="MODEL_FOLDER",
        type=Path,
        help="a trained model, $nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; must not exist")
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _export(options.model_folder, options.out))


def _export(model_folder: Path, out: Path) -> None:
    from nnunet_meep.trainers.export import export_model

    done = export_model(model_folder, out)
    images = f"-i IMAGES -o PREDICTIONS -f {' '.join(done.folds)}"
    if done.checkpoint != "checkpoint_final.pth":  # nnU-Net's default
        images += f" -chk {shlex.quote(done.checkpoint)}"
    folder = f"{done.trainer}__{done.plans}__{done.configuration}"
    s = "s name" if done.n_checkpoints > 1 else " names"
    print(f"Wrote {out}: {done.n_checkpoints} checkpoint{s} nnU-Net's own {done.trainer}")
    print("To predict with it, also where nnunet-meep is not installed:")
    print(f"  nnUNetv2_predict_from_modelfolder {images} -m {shlex.quote(str(out))}")
    print(f"or, with the folder as $nnUNet_results/{done.dataset}/{folder}:")
    print(
        f"  nnUNetv2_predict {images} -d {done.dataset} -c {done.configuration} -p {done.plans} "
        f"-tr {done.trainer}"
    )
