"""The sums and their gradient for more than two classes.

For the backward pass, 5 bytes per voxel are kept (9 for float64 logits): the log of the sum of
``exp(z - max z)``, and whether the voxel is misclassified.

Everything is computed for all voxels of a block and then multiplied by a mask, also a term that
sums over few of them. To pick out voxels takes longer, and many times as long at the start of a
training, when most are misclassified.

The label's gradient is written with the sum of the other classes' probabilities,
``others = 1 - p_y``, which keeps its digits where p_y is nearly 1:

- Dice: ``p_y ((a_y + b_y) others - sum_{c != y} b_c p_c)``,
- cross-entropy: ``-e others``,
- MEEP-KL: ``t (p_y - 1 / K)``; a misclassified voxel has no p_y near 1,
- MEEP-H, CP: ``-t p_y (others log p_y - sum_{c != y} p_c log p_c)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nnunet_meep.losses.blocks import Problem, compare


class Multiclass(Problem):
    """K > 2 classes."""

    def __init__(self, logits: Tensor, *options: Any) -> None:
        super().__init__(logits, *options)
        # Labels fit into 16 bits. To compare 64 bits with numbers takes five times as long.
        n_classes = logits.shape[1]
        self.classes = torch.arange(n_classes, dtype=torch.int16, device=logits.device)[:, None]

    def forward(self) -> Tensor:
        n_samples, _, n_voxels = self.logits.shape
        log_total = self.logits.new_empty(n_samples, n_voxels, dtype=self.kind)
        self.kept = [log_total, torch.empty_like(log_total, dtype=torch.uint8)]
        return super().forward()

    def _sums_of(self, sample: int, voxels: slice) -> Tensor:
        z, y, valid = self._block(sample, voxels)
        log_total_of, wrong_of = (x[sample, voxels] for x in self.kept)
        n = len(y)
        # As gather(0, y[None]), in less time.
        at_label = torch.arange(n, device=y.device).add_(y, alpha=n)
        z_y = z.view(-1).index_select(0, at_label)
        is_label = torch.empty_like(z)
        wrong = self._wrong(z, y, z_y, is_label)
        mean = z.mean(0) if self.term == "MEEP_KL" else None
        entropies = self.term in ("MEEP_H", "CP")
        e = z.exp() if entropies else z.exp_()
        total = e.sum(0)
        share = total.reciprocal()
        log_total = torch.log(total, out=log_total_of)
        values = None
        if mean is not None:
            values = (log_total - math.log(len(z))).sub_(mean)
        elif entropies:
            values = log_total - _finite(z).mul_(e).sum(0).mul_(share)
        p_y = e.view(-1).index_select(0, at_label).mul_(share)
        nll = log_total - z_y
        n_valid = z.new_tensor(n)
        if valid is not None:
            share, p_y, nll, wrong = share * valid, p_y * valid, nll * valid, wrong * valid
            n_valid = valid.sum()
        wrong_of.copy_(wrong)
        term = n_term = z.new_zeros(())
        if values is not None:
            inside = wrong
            if self.term == "CP":
                inside = torch.ones_like(wrong) if valid is None else valid
            term, n_term = inside @ values, inside.sum()
            if not term.isfinite():  # 0 * inf: the divergence with a logit of -inf
                term = values[inside > 0].sum()
        torch.eq(y.to(torch.int16), self.classes, out=is_label)
        predicted, intersection = e @ share, is_label @ p_y
        labelled = is_label.sum(1) if valid is None else is_label @ valid
        scalars = torch.stack((nll.sum(), term, n_valid, n_term))
        return torch.cat((intersection, predicted, labelled, scalars))

    def _write_gradient(
        self, out: Tensor, sample: int, voxels: slice, a: Tensor, b: Tensor, e: float, t: float
    ) -> None:
        z, y, valid = self._block(sample, voxels)
        log_total, wrong = (x[sample, voxels] for x in self.kept)
        log_p = z.sub_(log_total)
        entropies = self.term in ("MEEP_H", "CP")
        p = log_p.exp() if entropies else log_p.exp_()
        is_label = torch.eq(y.to(torch.int16), self.classes, out=torch.empty_like(p))
        of_label = p * is_label
        p_y = of_label.sum(0)
        p -= of_label  # now of the other classes only
        others, b_others = p.sum(0), b[:, 0] @ p
        a_y, b_y = (x[:, 0].index_select(0, y) for x in (a, b))
        label = (a_y + b_y).mul_(others).sub_(b_others).mul_(p_y).sub_(others, alpha=e)
        # The other classes' gradient is p_k (b_k + rest + more_k).
        rest = torch.addcmul(b_others, a_y + b_y, p_y).neg_().add_(e)
        slope = torch.add(b, rest, out=of_label)
        if self.term is not None:
            t_of = torch.full_like(p_y, t) if self.term == "CP" else wrong.to(p.dtype).mul_(t)
        if self.term == "MEEP_KL":
            slope += t_of
            label.addcmul_(t_of, p_y)
        elif entropies:
            log_p = _finite(log_p)
            log_p_y = (log_p * is_label).sum(0)
            entropy = (p * log_p).sum(0).neg_()
            label.addcmul_(log_p_y.mul(others).add_(entropy).mul_(p_y), t_of, value=-1)
            slope -= log_p.add_(entropy.addcmul_(p_y, log_p_y, value=-1)).mul_(t_of)
        p *= slope
        if self.term == "MEEP_KL":
            p -= t_of.mul_(1 / len(p))
        p.addcmul_(is_label, label)
        out.copy_(p if valid is None else p.mul_(valid))

    def _block(self, sample: int, voxels: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits z - max z (K, n), labels y (n,) (0 where ignored), valid voxels (n,) or None.

        None stands for all. The mask is a number, 0 or 1.
        """
        z = self.logits[sample, :, voxels].to(self.kind)
        z = torch.sub(z, z.amax(0), out=z.new_empty(z.shape))  # contiguous
        y = self.target[sample, 0, voxels]
        if self.ignore_label is None:
            return z, y.long(), None
        valid = compare(torch.ne, y, self.ignore_label, z)
        return z, y.long() * valid.long(), valid

    @staticmethod
    def _wrong(z: Tensor, y: Tensor, z_y: Tensor, scratch: Tensor) -> Tensor:
        """Mask of the misclassified voxels, (n,); a voxel with a NaN is one."""
        wrong = compare(torch.ge, z_y, 0, z_y).neg_().add_(1)
        is_largest = torch.eq(z, 0, out=scratch)
        if is_largest.sum() > len(y):  # the label may tie with an earlier class, which wins
            tied = ((is_largest.sum(0) > 1) & (wrong == 0)).nonzero()[:, 0]
            winner = is_largest[:, tied].argmax(0)
            wrong[tied] = (winner != y[tied]).to(wrong.dtype)
        return wrong


def _finite(z: Tensor) -> Tensor:
    """-inf as the lowest number, in place, so that 0 log 0 is 0."""
    return z.clamp_(min=torch.finfo(z.dtype).min)
