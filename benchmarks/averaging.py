"""What averaging does to calibration; does a calibrator of the members hold for their average?

Takes what ``meep-benchmark run`` leaves in a work folder. Two kinds of ensembles are in it:

- seeds: trainings of the same fold, which share validation and test scans. ``nnUNetv2_ensemble``
  makes such averages of several folders;
- folds: a scan is averaged over the folds that did not train on it (it is one of their validation
  or test scans), if there are several. Calibrators are fitted without the scans that they are
  applied to, in ten groups.

The single predictions, their averages of logits and of probabilities are evaluated as they are, and
with a temperature that was fitted to single predictions (as ``meep-calib-fit --folds`` does) or to
the average itself. Logits are log p, which is all that is saved of them: their average is that of
nnU-Net up to rounding.

    python benchmarks/averaging.py WORK -o benchmarks/averaging.md
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import machine
from numpy.typing import NDArray
from scipy.special import softmax
from tqdm import tqdm

import nnunet_meep as nm
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report.tables import markdown_table

#: {case: files of its predictions}
Files = dict[str, list[Path]]
Probabilities = NDArray[np.float32]

METHOD = "temperature"
#: Fewer averaged scans tell nothing.
MIN_SCANS = 4
N_GROUPS = 10


@dataclass
class Ensemble:
    """Trainings that are averaged.

    Attributes:
        name: data set, trainer, and which trainings.
        dataset_json: nnU-Net's.
        references: {case: file}.
        singles: predictions to which a calibrator of the members is fitted.
        fitting: predictions whose average a calibrator is fitted to.
        testing: predictions that are averaged and evaluated.
    """

    name: str
    dataset_json: dict
    references: dict[str, Path]
    singles: Files = field(default_factory=lambda: defaultdict(list))
    fitting: Files = field(default_factory=lambda: defaultdict(list))
    testing: Files = field(default_factory=lambda: defaultdict(list))


def read(path: Path) -> Probabilities:
    return np.load(path)["probabilities"].astype(np.float32)


def mean_probability(members: Sequence[Probabilities]) -> Probabilities:
    return np.mean(members, axis=0, dtype=np.float32)


def mean_logit(members: Sequence[Probabilities]) -> Probabilities:
    with np.errstate(divide="ignore"):
        return softmax(np.mean(np.log(members), axis=0), axis=0).astype(np.float32)


AVERAGES: dict[str, Callable[[Sequence[Probabilities]], Probabilities]] = {
    "logits": mean_logit,
    "probabilities": mean_probability,
}


def find_ensembles(work: Path) -> list[Ensemble]:
    """All ensembles in a work folder, also those with too few scans."""
    found = []
    for data in sorted(path for path in (work / "predictions").iterdir() if path.is_dir()):
        trainings = defaultdict(list)
        for fold in sorted(data.glob("*/fold_*")):
            trainings[re.sub(r"_seed\d+", "", fold.parent.name)].append(fold)
        for trainer, folders in trainings.items():
            numbers = {folder.name for folder in folders}
            for number in sorted(numbers):
                of_fold = [folder for folder in folders if folder.name == number]
                if len(of_fold) > 1:
                    title = f"{data.name}, {trainer}, {len(of_fold)} seeds of {number}"
                    found.append(_ensemble(title, work, of_fold, are_seeds=True))
            if len(numbers) > 1:
                of_trainer = [folder for folder in folders if folder.parent.name == trainer]
                title = f"{data.name}, {trainer}, {len(of_trainer)} folds"
                found.append(_ensemble(title, work, of_trainer, are_seeds=False))
    return found


def _ensemble(name: str, work: Path, folders: list[Path], *, are_seeds: bool) -> Ensemble:
    plans = json.loads((folders[0] / "plans.json").read_bytes())
    raw = work / "nnUNet_raw" / plans["dataset_name"]
    references = {
        path.name.removesuffix(".nii.gz"): path
        for part in ("labelsTr", "labelsTs")
        for path in raw.glob(f"{part}/*.nii.gz")
    }
    content = json.loads((folders[0] / "dataset.json").read_bytes())
    ensemble = Ensemble(name, content, references)
    for folder in folders:
        results = work / "nnUNet_results" / plans["dataset_name"]
        (validation,) = results.glob(f"{folder.parent.name}__*/{folder.name}/validation")
        for path in sorted(validation.glob("*.npz")):
            ensemble.singles[path.stem].append(path)
            (ensemble.fitting if are_seeds else ensemble.testing)[path.stem].append(path)
        for path in sorted(folder.glob("*.npz")):
            ensemble.testing[path.stem].append(path)
    ensemble.testing = {case: paths for case, paths in ensemble.testing.items() if len(paths) > 1}
    if not are_seeds:
        ensemble.fitting = ensemble.testing
    return ensemble


def fitted(ensemble: Ensemble, cases: Iterable[tuple[str, Probabilities]]) -> nm.Calibrator:
    names, probabilities = zip(*cases, strict=True)
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(ensemble.references[n])) for n in names]
    ignored = ensemble.dataset_json["labels"].get("ignore")
    return nm.fit_calibrator(METHOD, list(probabilities), labels, ignore_label=ignored)


def evaluated(
    ensemble: Ensemble, cases: Iterable[tuple[str, Probabilities]], folder: Path
) -> dict[str, float]:
    """Metrics over the voxels of all cases; of classes their mean over the foreground."""
    (folder / "gt").mkdir(parents=True)
    (folder / "pred").mkdir()
    for i, (name, p) in enumerate(cases):
        (folder / "gt" / f"{i}.nii.gz").symlink_to(ensemble.references[name])
        np.savez(folder / "pred" / f"{i}.npz", probabilities=p)
    (folder / "pred" / "dataset.json").write_text(json.dumps(ensemble.dataset_json))
    (folder / "pred" / "plans.json").write_text('{"image_reader_writer": "SimpleITKIO"}')
    evaluation = nm.evaluate(folder / "gt", folder / "pred", surface=False)
    pooled = evaluation.pooled["image"]
    of_classes = {
        name: statistics.mean(metrics[name] for metrics in pooled.classes.values())
        for name in ("ece", "brier", "dice")
    }
    return {"error_rate_ratio": pooled.top_label["error_rate_ratio"], **of_classes}


def measure(ensemble: Ensemble) -> list[dict]:
    """One row for each average, and the single predictions, with each calibrator."""
    singles = {case: [read(path) for path in paths] for case, paths in ensemble.singles.items()}
    testing = {case: [read(path) for path in paths] for case, paths in ensemble.testing.items()}
    fitting = {case: [read(path) for path in paths] for case, paths in ensemble.fitting.items()}
    #: {(what is evaluated, what its calibrator was fitted to): cases}
    results: dict[tuple[str, str], list[tuple[str, Probabilities]]] = defaultdict(list)
    temperatures: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = sorted(testing)
    n_groups = min(N_GROUPS, len(names)) if testing.keys() & (singles | fitting).keys() else 1
    for group in (set(names[i::n_groups]) for i in range(n_groups)):
        of_members = fitted(
            ensemble, ((c, p) for c, all_p in singles.items() if c not in group for p in all_p)
        )
        of_average = {
            what: fitted(ensemble, ((c, mean(p)) for c, p in fitting.items() if c not in group))
            for what, mean in AVERAGES.items()
        }
        for case in sorted(group):
            ways = {"each alone": testing[case]}
            ways |= {f"average of {what}": [mean(testing[case])] for what, mean in AVERAGES.items()}
            for way, predictions in ways.items():
                calibrators = {"none": None, "members": of_members}
                if way != "each alone":
                    calibrators["the average"] = of_average[way.removeprefix("average of ")]
                for to, calibrator in calibrators.items():
                    results[way, to] += [
                        (case, p if calibrator is None else calibrator(p)) for p in predictions
                    ]
                    if calibrator is not None:
                        temperatures[way, to].append(_temperature(calibrator))
    with tempfile.TemporaryDirectory() as folder:
        return [
            {
                "what": way,
                "fitted to": to,
                "T": statistics.mean(temperatures[way, to]) if to != "none" else None,
                **evaluated(ensemble, cases, Path(folder) / f"{way} {to}"),
            }
            for (way, to), cases in results.items()
        ]


def _temperature(calibrator: nm.Calibrator) -> float:
    function = calibrator.joint or next(iter(calibrator.binary.values()))
    return function.temperature


def report(measured: dict[str, list[dict]], left_out: dict[str, int]) -> str:
    """The report in Markdown."""
    lines = [
        "# What averaging does to calibration",
        "",
        "`python benchmarks/averaging.py WORK`, on the trainings of "
        "[benchmarks/plans](plans). Seeds: trainings of one fold, averaged on its test scans; "
        "calibrators are fitted on its validation scans. Folds: each scan is averaged over the "
        "folds that did not train on it; calibrators are fitted to the other scans. All numbers "
        "are computed over the voxels of all scans together; ECE, Brier score and Dice are means "
        "over the foreground classes. Expected / actual errors: below 1 the network is "
        "overconfident. T is the "
        'temperature, fitted to single predictions ("members", as `meep-calib-fit --folds` does) '
        "or to the average itself.",
        "",
        *_sentences(measured),
    ]
    metrics = ("error_rate_ratio", "ece", "brier", "dice")
    headings = ("expected / actual errors", *(CATALOGUE[m].heading for m in metrics[1:]))
    for name, rows in measured.items():
        table = [["", "fitted to", "T", *headings]]
        for row in rows:
            numbers = [CATALOGUE[m].number(row[m]) for m in metrics]
            t = "" if row["T"] is None else f"{row['T']:.2f}"
            to = "" if row["T"] is None else row["fitted to"]
            table.append([row["what"], to, t, *numbers])
        lines += ["", f"## {name}", "", markdown_table(table)]
    if left_out:
        lines += ["", "## Left out", ""]
        lines += [
            f"- {name}: {n} scan{'s' * (n != 1)} that several of its folds did not train on; at "
            f"least {MIN_SCANS} are needed"
            for name, n in left_out.items()
        ]
    versions = ("nnunet-meep", "nnunetv2", "numpy", "torch")
    return "\n".join([*lines, "", machine(versions), ""])


def _sentences(measured: dict[str, list[dict]]) -> list[str]:
    """What the tables show, in words."""
    n = len(measured)

    def values(way: str, to: str = "none", metric: str = "error_rate_ratio") -> NDArray[np.float64]:
        """One number for each ensemble."""
        rows = [row for of_ensemble in measured.values() for row in of_ensemble]
        asked = (way, to)
        return np.array([row[metric] for row in rows if (row["what"], row["fitted to"]) == asked])

    def span(numbers: NDArray[np.float64], sign: str = "") -> str:
        return " to ".join(f"{f(numbers):{sign}.2f}" for f in (min, max))

    alone, calibrated = values("each alone"), values("each alone", "members")
    lines = [
        f"- Each training alone: the ratio of expected to actual errors is {span(alone)} in the "
        f"{n} ensembles as trained, and {span(calibrated)} with the temperature of the members. "
        f"A calibrator that also suits the average brings the average to the same ratio."
    ]
    for what in AVERAGES:
        way = f"average of {what}"
        fewer = values(way, metric="brier") < values("each alone", metric="brier")
        lines.append(
            f"- The average of {what}, without a calibrator: the ratio is higher than that of each "
            f"alone in {sum(values(way) > alone)} of {n} ({span(values(way) - alone, '+')}), and "
            f"the Brier score is lower in {sum(fewer)} of {n}. With a calibrator, compared with "
            f"the calibrated members: the ratio changes by "
            f"{span(values(way, 'members') - calibrated, '+')} with the temperature of the "
            f"members, and by {span(values(way, 'the average') - calibrated, '+')} with its own."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="work folder of meep-benchmark")
    parser.add_argument("-o", type=Path, help="Markdown file to write the tables into as well")
    options = parser.parse_args()
    ensembles = find_ensembles(options.work.resolve())
    enough = [e for e in ensembles if len(e.testing) >= MIN_SCANS]
    measured = {
        f"{e.name}, {len(e.testing)} scans": measure(e) for e in tqdm(enough, unit="ensemble")
    }
    text = report(measured, {e.name: len(e.testing) for e in ensembles if e not in enough})
    print(text)
    if options.o:
        options.o.write_text(text)


if __name__ == "__main__":
    main()
