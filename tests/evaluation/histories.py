"""Random histories of two models: after each, every number is that of an evaluation from scratch.

    python tests/evaluation/histories.py 200

A history evaluates and compares, and between that replaces predictions, segmentations and
references with or without their times, renames, adds and removes cases and folds, copies a model
with its results, changes options, labels and masks, interrupts, and damages what was kept.
Whatever ``meep-calib-eval`` or ``meep-calib-compare`` then print and write has to be what an
evaluation of the files that are there gives, which never saw what was kept.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
from predictions import LABELS, PredictionFolder, softmax_case
from tqdm import tqdm

from nnunet_meep.cli import calib_compare, calib_eval
from nnunet_meep.evaluation import trainings
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.counting import one_pass
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics import calibration, statistics
from nnunet_meep.evaluation.report import comparison_report, evaluation_report, page
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.report import text as report
from nnunet_meep.evaluation.report.drawing import Picture
from nnunet_meep.evaluation.result_format import nan_to_none

DATASET = "Dataset005_Hippo"
MODELS = ("default", "MEEP")
SHAPE = (3, 4, 5)
N_STEPS = 10


class WrongNumber(AssertionError):
    """What was printed or written is not what the files give."""


class History:
    """Two models of up to three folds, on the same references.

    Attributes:
        steps: what has happened, in words.
    """

    def __init__(self, seed: int, root: Path) -> None:
        self.rng, self.root = np.random.default_rng(seed), root
        self.steps: list[str] = []
        self.references = root / "preprocessed" / DATASET / "gt_segmentations"
        self.references.mkdir(parents=True)
        self.masks = root / "masks"
        self.masks.mkdir()
        self.options: dict[str, Any] = {"bins": 15, "rois": ["image"], "surface": False}
        self.options |= {"tolerance_mm": 2.0, "lesions": None, "segmentation": "file"}
        self.n_made = 0
        self.models = {name: self._new_model(name) for name in MODELS}
        for fold in range(2):
            for _ in range(2):
                self._new_case(fold)

    # What is there

    def _new_model(self, name: str) -> Path:
        model = self.root / name / DATASET / f"nnUNetTrainer{name}__nnUNetPlans__3d_fullres"
        made = PredictionFolder(self.root / f"made_{name}", LABELS)
        shutil.copytree(made.pred, model)
        shutil.rmtree(made.gt.parent)
        return model

    def _new_case(self, fold: int) -> None:
        name = f"case_{self.n_made:02d}"
        self.n_made += 1
        _, reference = softmax_case(self.rng, SHAPE)
        self._write(self.references / f"{name}.nii.gz", reference)
        self._write(self.masks / f"{name}.nii.gz", self.rng.integers(0, 2, SHAPE))
        for model in self.models.values():
            self._predict(model / f"fold_{fold}" / "validation" / f"{name}.npz")

    def _predict(self, npz: Path) -> None:
        npz.parent.mkdir(parents=True, exist_ok=True)
        p, _ = softmax_case(self.rng, SHAPE)
        np.savez_compressed(npz, probabilities=p)
        self._write(npz.with_suffix(".nii.gz"), p.argmax(0))

    def _write(self, path: Path, array: np.ndarray) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(path))

    def _any_model(self) -> Path:
        return self.models[MODELS[self.rng.integers(2)]]

    def _any_prediction(self) -> Path:
        found = sorted(self._any_model().glob("fold_*/validation/*.npz"))
        return found[self.rng.integers(len(found))]

    def _keeping_times(self, path: Path, change: Callable[[], None]) -> None:
        """Change a file; three times in four nobody could tell by its times."""
        times = path.stat()
        change()
        if self.rng.random() < 0.75:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    # What can happen

    def replace_prediction(self) -> None:
        npz = self._any_prediction()
        self._keeping_times(npz, lambda: self._predict(npz))

    def swap_predictions(self) -> None:
        """Two cases of equal size, so that neither size nor time tells."""
        one, other = self._any_prediction(), self._any_prediction()
        for a, b in ((one, other), (one.with_suffix(".nii.gz"), other.with_suffix(".nii.gz"))):
            kept, times = a.read_bytes(), (a.stat(), b.stat())
            a.write_bytes(b.read_bytes())
            b.write_bytes(kept)
            for path, time in zip((a, b), times, strict=True):
                os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))

    def postprocess(self) -> None:
        path = self._any_prediction().with_suffix(".nii.gz")
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        array[self.rng.integers(SHAPE[0])] = self.rng.integers(3)
        self._keeping_times(path, lambda: self._write(path, array))

    def change_reference(self) -> None:
        path = self.references / self._any_prediction().with_suffix(".nii.gz").name
        _, reference = softmax_case(self.rng, SHAPE)
        self._keeping_times(path, lambda: self._write(path, reference))

    def change_mask(self) -> None:
        path = self.masks / self._any_prediction().with_suffix(".nii.gz").name
        mask = self.rng.integers(0, 2, SHAPE)
        self._keeping_times(path, lambda: self._write(path, mask))

    def rename_case(self) -> None:
        old = self._any_prediction().stem
        new = f"case_{self.n_made:02d}"
        self.n_made += 1
        paths = [*self.references.iterdir(), *self.masks.iterdir()]
        for model in self.models.values():
            paths += model.glob("fold_*/validation/*.n*")
        for path in paths:
            if path.name.startswith(f"{old}."):
                path.rename(path.with_name(path.name.replace(old, new)))

    def add_case(self) -> None:
        self._new_case(int(self.rng.integers(2)))

    def add_fold(self) -> None:
        self._new_case(2)

    def remove_case(self) -> None:
        npz = self._any_prediction()
        if len(list(npz.parents[2].glob("fold_*/validation/*.npz"))) > 2:
            if len(list(npz.parent.glob("*.npz"))) == 1:
                shutil.rmtree(npz.parents[1])
            else:
                npz.unlink()
                npz.with_suffix(".nii.gz").unlink()

    def change_option(self) -> None:
        choices: dict[str, list[Any]] = {
            "bins": [10, 15],
            "rois": [["image"], ["boundary:1", "image"], ["crop"], [f"mask:{self.masks}"]],
            "surface": [False, True],
            "tolerance_mm": [2.0, 0.5],
            "lesions": [None, 0.0, 3.0],
            "segmentation": ["file", "argmax"],
        }
        name = list(choices)[self.rng.integers(len(choices))]
        self.options[name] = choices[name][self.rng.integers(len(choices[name]))]

    def rename_class(self) -> None:
        names = ["Anterior", "Posterior", "Head", "Tail"]
        self.rng.shuffle(names)
        for model in self.models.values():
            content = json.loads((model / "dataset.json").read_text())
            content["labels"] = {"background": 0, names[0]: 1, names[1]: 2}
            path = model / "dataset.json"
            self._keeping_times(path, lambda p=path, c=content: p.write_text(json.dumps(c)))

    def copy_model(self) -> None:
        """With its results and all times, as ``cp -a``; history goes on with the copy."""
        name = MODELS[self.rng.integers(2)]
        old = self.models[name]
        new = self.root / f"copy_{len(self.steps)}" / DATASET / old.name
        shutil.copytree(old, new)
        self.models[name] = new

    def copy_results(self) -> None:
        """Those of one model over those of the other."""
        one, other = (self.models[name] / "calibration" for name in MODELS)
        if one.exists():
            shutil.copytree(one, other, dirs_exist_ok=True)

    def damage_what_was_kept(self) -> None:
        kept = sorted(self._any_model().glob("calibration/cases/*.npz"))
        if kept:
            other = kept[self.rng.integers(len(kept))].read_bytes()
            kept[self.rng.integers(len(kept))].write_bytes(other)

    def forget_what_was_kept(self) -> None:
        shutil.rmtree(self._any_model() / "calibration" / "cases", ignore_errors=True)

    def interrupt(self) -> None:
        """Evaluate, and stop at the n-th case that is counted."""
        left, sum_case = [int(self.rng.integers(3))], one_pass.sum_case

        def stopping(*args: Any) -> Any:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return sum_case(*args)

        with patch.object(one_pass, "sum_case", stopping):
            code, _ = self._command(calib_eval.main, self._eval_arguments(self._any_model()))
        if code not in (0, 130):
            raise WrongNumber(f"interrupted with exit code {code}")

    def evaluate(self) -> None:
        model = self._any_model()
        code, printed = self._command(calib_eval.main, self._eval_arguments(model))
        if code:
            raise WrongNumber(f"exit code {code}: {printed}")
        expected = self._from_scratch(model, self.options)
        written = json.loads((model / "calibration" / "calibration.json").read_text())
        del written["origin"]
        _same(written, nan_to_none(expected.to_dict()), "calibration.json")
        if report.table(expected) not in printed:
            raise WrongNumber(f"another table than\n{report.table(expected)}\nis in\n{printed}")

    def compare(self) -> None:
        stored = {}
        for name, model in self.models.items():
            path = model / "calibration" / "calibration.json"
            stored[name] = json.loads(path.read_text())["settings"] if path.exists() else None
        arguments = [f"{name}={model}" for name, model in self.models.items()]
        arguments += ["-o", str(self.root / "comparison")]
        code, printed = self._command(calib_compare.main, arguments)
        defaults = {"bins": 15, "rois": ["image"], "surface": True}
        defaults |= {"tolerance_mm": 2.0, "lesions": None, "segmentation": "file"}
        models = {}
        for name, model in self.models.items():
            options = {k: (stored[name] or defaults)[k] for k in defaults}
            models[name] = self._from_scratch(model, options)
        try:
            expected = tables.terminal(compare(models))
        except Exception as error:  # other ROIs, say: then the command has to say it, too
            if code != 1 or str(error) not in printed:
                raise WrongNumber(f"exit code {code}, expected {error}: {printed}") from None
            return
        if code or expected not in printed:
            raise WrongNumber(f"exit code {code}; another table than\n{expected}\nis in\n{printed}")

    # How it is done

    def _eval_arguments(self, model: Path) -> list[str]:
        options = self.options
        arguments = [str(model), "-np", "1", "--bins", str(options["bins"])]
        arguments += ["--tolerance", str(options["tolerance_mm"])]
        arguments += ["--segmentation", options["segmentation"]]
        arguments += [] if options["surface"] else ["--no-surface"]
        if options["lesions"] is not None:
            arguments += ["--lesions", str(options["lesions"])]
        return [*arguments, "--roi", *options["rois"]]

    def _from_scratch(self, model: Path, options: dict[str, Any]) -> Any:
        return evaluate(None, model, **options)

    def _command(self, main: Callable[[list[str]], int], arguments: list[str]) -> tuple[int, str]:
        with ExitStack() as stack:
            output = io.StringIO()
            stack.enter_context(redirect_stdout(output))
            stack.enter_context(redirect_stderr(output))
            code = main(arguments)
        return code, output.getvalue()

    def run(self) -> None:
        """All steps; the last one compares.

        Raises:
            WrongNumber: a number is not that of the files.
        """
        looks = [self.evaluate, self.compare]
        others = [
            *(self.replace_prediction, self.swap_predictions, self.postprocess),
            *(self.change_reference, self.change_mask, self.rename_case, self.add_case),
            *(self.add_fold, self.remove_case, self.change_option, self.rename_class),
            *(self.copy_model, self.copy_results, self.damage_what_was_kept),
            *(self.forget_what_was_kept, self.interrupt),
        ]
        for i in range(N_STEPS):
            steps = looks if i in (0, N_STEPS - 1) or self.rng.random() < 0.4 else others
            step = self.compare if i == N_STEPS - 1 else steps[self.rng.integers(len(steps))]
            self.steps.append(step.__name__)
            step()


def _same(mine: Any, other: Any, where: str) -> None:
    """Equal to the last bit, but for the folders in the settings."""
    if isinstance(mine, dict) and isinstance(other, dict):
        if set(mine) != set(other):
            raise WrongNumber(f"{where}: {set(mine) ^ set(other)}")
        for key in mine:
            if key not in ("gt_folder", "pred_folder"):
                _same(mine[key], other[key], f"{where}/{key}")
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for i, (a, b) in enumerate(zip(mine, other, strict=True)):
            _same(a, b, f"{where}/{i}")
    elif mine != other:
        raise WrongNumber(f"{where}: {mine!r}, from scratch {other!r}")


def _touch(pictures: Sequence[Picture]) -> None:
    for _, png, svg in pictures:
        png.touch()
        svg.touch()


def run_history(seed: int) -> list[str]:
    """One history in a folder of its own; its steps.

    Raises:
        WrongNumber: a number is not that of the files.
    """
    one_process = {"processes": 1}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        new_environment = {"nnUNet_preprocessed": str(root / "preprocessed")}
        stack.enter_context(patch.dict(os.environ, new_environment))
        # Pictures, intervals and a fine grid are not what is looked at, and take nearly all of
        # the time.
        for patched in (
            patch.object(evaluation_report, "save_pictures", _touch),
            patch.object(comparison_report, "comparison_pictures", lambda *args: {}),
            patch.object(comparison_report, "_write_slices", lambda *args: {}),
            patch.object(page, "render", lambda *args: ""),
            patch.object(statistics, "BOOTSTRAP_RESAMPLES", 100),
            patch.object(calibration, "_SMOOTH_POINTS", 1 << 8),
            patch.object(
                trainings, "evaluate", lambda *a, **k: evaluate(*a, **{**k, **one_process})
            ),
        ):
            stack.enter_context(patched)
        history = History(seed, root)
        try:
            history.run()
        except Exception as error:
            error.args = (f"history {seed}: {', '.join(history.steps)}: {error}",)
            raise
        return history.steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, nargs="?", default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first one (default: 0)")
    options = parser.parse_args()
    n_looks = 0
    for seed in tqdm(range(options.seed, options.seed + options.n), unit="history"):
        steps = run_history(seed)
        n_looks += steps.count("evaluate") + steps.count("compare")
    print(
        f"{options.n} histories, {n_looks} evaluations and comparisons: each number as from scratch"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
