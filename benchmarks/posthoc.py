"""Post-hoc calibration of the models of ``first_runs.py``: the runs behind its section there.

    python benchmarks/posthoc.py hippocampus SRC WORK
    python benchmarks/posthoc.py la SRC WORK

SRC and WORK as for ``first_runs.py``, but nothing is trained: the committed models predict the
validation and test scans (10 minutes per run on one CPU core); calibrators are fitted to the
validation scans and applied to the test scans, on which all results are evaluated. Existing
predictions are reused. Comparisons are written into ``posthoc/`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from first_runs import HERE, RUNS, Run, command, make_hippocampus, work_in

ROIS = ["image", "boundary:5"]
#: Method: suffix of the model's name. The paper's Table 1 has the first two.
METHODS = {"platt": " + PS", "isotonic": " + IR", "temperature": " + T"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    arguments = parser.parse_args()
    run, work = RUNS[arguments.run], arguments.work.absolute()
    work_in(work)
    raw = work / "nnUNet_raw" / run.dataset
    if not raw.exists():
        if arguments.run == "hippocampus":
            make_hippocampus(arguments.source, raw)
        else:
            command("meep-convert-la", str(arguments.source), "-d", run.dataset_id)
    collect_validation(raw)
    results = {}
    for trainer in run.trainers:
        model = short_name(trainer)
        predictions = {part: predict(run, work, trainer, part) for part in ("Val", "Ts")}
        results[model] = evaluate(run, work, model, predictions["Ts"])
        methods = METHODS if "MEEP" not in trainer else {"temperature": " + T"}
        for method, suffix in methods.items():
            calibrated = calibrate(run, work, model, method, predictions)
            results[model + suffix] = evaluate(run, work, model + suffix, calibrated)
    print(f"\n{run.dataset}, test scans\n\n{markdown_table(results)}\n", flush=True)
    compare(run, work, results)


def collect_validation(raw: Path) -> None:
    """Copy the validation scans into folders of their own, like those of the test scans."""
    split = json.loads((raw / "splits_final.json").read_text())[0]
    for case in split["val"]:
        for kind, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
            target = raw / f"{kind}Val" / name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                shutil.copyfile(raw / f"{kind}Tr" / name, target)


def short_name(trainer: str) -> str:
    return trainer.removeprefix("nnUNetTrainer").rsplit("_", 2)[0]


def predict(run: Run, work: Path, trainer: str, part: str) -> Path:
    """Predict the validation or test scans with a committed model; return the output folder."""
    output = work / f"predictions{part}" / run.dataset / short_name(trainer)
    images = work / "nnUNet_raw" / run.dataset / f"images{part}"
    if len(list(output.glob("*.npz"))) < len(list(images.glob("*_0000.nii.gz"))):
        (model,) = (HERE / "models" / run.dataset).glob(f"{trainer}__*")
        asked = ["-i", str(images), "-o", str(output), "-m", str(model), "-f", "0"]
        asked += ["-device", "cpu", "--save_probabilities", "-npp", "1", "-nps", "1"]
        command("nnUNetv2_predict_from_modelfolder", *asked)
    return output


def calibrate(run: Run, work: Path, model: str, method: str, predictions: dict[str, Path]) -> Path:
    """Fit to the validation scans and apply to the test scans, with paths relative to WORK."""
    references = Path("nnUNet_raw") / run.dataset / "labelsVal"
    calibrator = Path("calibrators") / run.dataset / model / f"{method}.json"
    folder = os.path.relpath(predictions["Val"], work)
    command(*("meep-calib-fit", method, str(references), folder, "-o", str(calibrator)), cwd=work)
    output = Path("calibrated") / run.dataset / f"{model}_{method}"
    shutil.rmtree(work / output, ignore_errors=True)
    folder = os.path.relpath(predictions["Ts"], work)
    command("meep-calib-apply", str(calibrator), folder, "-o", str(output), cwd=work)
    return work / output


def evaluate(run: Run, work: Path, name: str, predictions: Path) -> Path:
    """Evaluate the test scans; return the folder of the result."""
    references = Path("nnUNet_raw") / run.dataset / "labelsTs"
    output = Path("evaluated") / run.dataset / name
    folders = [str(references), os.path.relpath(predictions, work)]
    command("meep-calib-eval", *folders, "-o", str(output), "--roi", *ROIS, cwd=work)
    return work / output


def compare(run: Run, work: Path, results: dict[str, Path]) -> None:
    """Compare the models of each segmentation loss with its plain, temperature-scaled network."""
    plain = [name for name in results if name in ("Dice", "DiceCE")]
    for loss in plain:
        with_term = ("DiceMEEP",) if loss == "Dice" else ("MEEP",)
        names = [n for n in results if n.startswith((f"{loss} +", *with_term))]
        names = [f"{loss} + T", loss, *(n for n in names if n != f"{loss} + T")]
        models = [f"{name}={os.path.relpath(results[name], work)}" for name in names]
        output = Path("compared") / run.dataset / loss
        command("meep-calib-compare", *models, "-o", str(output), cwd=work)
        target = HERE / "posthoc" / run.dataset / loss
        target.mkdir(parents=True, exist_ok=True)
        for name in ("comparison.md", "comparison.csv", "reliability.png"):
            shutil.copyfile(work / output / name, target / name)


def markdown_table(results: dict[str, Path]) -> str:
    """Mean over cases of each metric, a row for each model and class."""
    headings = ["model", "class", "Dice", "Brier e-4", "Brier+", "NLL e-3", "ECE e-3"]
    headings += ["pooled ECE e-3", "ECE in 5 mm e-3", "AURC e-3", "expected / actual errors"]
    lines = [f"| {' | '.join(headings)} |", "|" + " --- |" * len(headings)]
    for model, folder in results.items():
        content = json.loads((folder / "calibration.json").read_text())
        near = content["by_roi"]["boundary:5"]["classes"]
        for i, (key, entry) in enumerate(content["classes"].items()):
            mean = {metric: values["mean"] for metric, values in entry["per_case"].items()}
            cells = [
                f"{mean['dice']:.3f}",
                f"{1e4 * mean['brier']:.1f}",
                f"{mean['brier_plus']:.3f}",
                f"{1e3 * mean['nll']:.1f}",
                f"{1e3 * mean['ece']:.2f}",
                f"{1e3 * entry['pooled']['ece']:.2f}",
                f"{1e3 * near[key]['per_case']['ece']['mean']:.1f}",
            ]
            top = content["top_label"]
            aurc = top["per_case"]["aurc"]["mean"]
            ratio = top["pooled"]["error_rate_ratio"]
            cells += [f"{1e3 * aurc:.2f}", f"{ratio:.2f}"] if i == 0 else ["", ""]
            lines.append(f"| {model} | {entry['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
