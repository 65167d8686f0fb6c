"""How MEEP-KL and MEEP-H act on a small probability: a picture for ``lambda_auto.md``.

    python benchmarks/term_gradients.py

Two classes. Left: how strongly the term pushes a misclassified voxel, by autograd through our own
losses. Right: for many identical voxels, of which a fraction pi is foreground, the p that minimizes
cross-entropy plus lambda times the term, against pi.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq

from nnunet_meep.losses.regularized import TERMS

OUTPUT = Path(__file__).resolve().parent / "pictures" / "terms.png"
LOOKS = {"MEEP_KL": ("MEEP-KL", "#0072B2"), "MEEP_H": ("MEEP-H", "#D55E00")}
#: lambda N / |W|: N voxels, W misclassified. About what automatic lambda reaches on hippocampus,
#: where 1 % of the voxels are misclassified.
STRENGTHS = {"MEEP_KL": 17.0, "MEEP_H": 35.0}


def push(term: str, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The push of the term on the foreground logit: minus the gradient, times |W|.

    Every voxel is foreground and predicted as such with p < 1/2, so all are misclassified.
    """
    function, sign = TERMS[term]
    logit = torch.tensor(np.log(p / (1 - p)), requires_grad=True)
    logits = torch.stack((torch.zeros_like(logit), logit))[None]
    (sign * function(logits, torch.ones(1, 1, len(p))) * len(p)).backward()
    return -logit.grad.numpy()


def least(term: str, pi: float) -> float:
    """The p that minimizes the sum; cross-entropy pushes the logit by pi - p."""
    strength = STRENGTHS[term]

    def gradient(logit: float) -> float:
        p = 1 / (1 + np.exp(-logit))
        return p - pi - strength * pi * float(push(term, np.array([p]))[0])

    highest = -1e-9  # above p = 1/2 the foreground voxels are no longer errors
    logit = brentq(gradient, -25, highest) if gradient(highest) > 0 else highest
    return float(1 / (1 + np.exp(-logit)))


def main() -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.geomspace(1e-6, 0.4999, 300)
    pis = np.geomspace(1e-6, 0.3, 80)
    for term, (name, colour) in LOOKS.items():
        left.plot(p, push(term, p), color=colour, label=name)
        minima = [least(term, pi) for pi in pis]
        label = f"cross-entropy + {name}, lambda N / |W| = {STRENGTHS[term]:g}"
        right.plot(pis, minima, color=colour, label=label)
    left.set(xscale="log", xlabel="p of the label, on a misclassified voxel")
    left.set(ylabel="push on the label's logit, times |W|", title="What the term does to one error")
    right.plot(pis, pis, color="black", linewidth=0.8, label="cross-entropy alone: p = pi")
    right.set(xscale="log", yscale="log", xlabel="pi, share of foreground among like voxels")
    right.set(ylabel="p of the minimum", title="Where that leaves small probabilities")
    left.legend()
    right.legend(fontsize=8)
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
