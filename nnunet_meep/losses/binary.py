"""The sums and their gradient for two classes (one binary problem), or regions (one each).

Everything is expressed by the logit against the label, ``x = d`` where y = 0 and ``x = -d`` where
y = 1, and by ``q = sigmoid(x)``, the probability of the wrong answer. Then -log p of the label is
softplus(x), and p - y is q where y = 0 and -q where y = 1. Masks are numbers, 0 and 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_meep.losses.blocks import Problem, compare


class Binary(Problem):
    """Two classes, with the sums of class 1 only, or regions."""

    def _sums_of(self, sample: int, voxels: slice) -> Tensor:
        x, y, _, wrong, valid = self._block(sample, voxels)
        q, p, nll = _logistic(x, wrong)
        n_valid = x.new_tensor(x.shape[1]) if valid is None else valid.sum()
        term, n_term = self._term(x, q, nll, self._inside(wrong, valid))
        if valid is not None:
            for values in (q, p, y, nll):
                values *= valid
        intersection, labelled = torch.linalg.vecdot(p, y), y.sum(1)
        # The probability of class 1 is q where y = 0 and p where y = 1.
        predicted = q.sum(1) - torch.linalg.vecdot(q, y) + intersection
        scalars = torch.stack((nll.sum(), term, n_valid, n_term))
        return torch.cat((intersection, predicted, labelled, scalars))

    def _term(self, x: Tensor, q: Tensor, nll: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the term and over how much it goes, each ()."""
        if self.term is None:
            return x.new_zeros(()), x.new_zeros(())
        if self.term == "MEEP_KL":  # (softplus(x) + softplus(-x)) / 2 - log 2
            values = torch.sub(nll, x, alpha=0.5).sub_(math.log(2))
        else:
            values = torch.addcmul(nll, q, x, value=-1)
        return torch.linalg.vecdot(values, inside).sum(), inside.sum()

    def _write_gradient(
        self, out: Tensor, sample: int, voxels: slice, a: Tensor, b: Tensor, e: float, t: float
    ) -> None:
        x, y, sign, wrong, valid = self._block(sample, voxels)
        q, slope = _sigmoid(x, wrong)
        # The gradient with respect to x. Since x = d where y = 0 and -d where y = 1, that with
        # respect to d has the opposite sign where y = 1.
        result = (y * -(a + 2 * b)).add_(b).mul_(slope).add_(q, alpha=e)
        if self.term is not None:
            inside = self._inside(wrong, valid)
            if self.term == "MEEP_KL":
                result.addcmul_(inside, q.sub_(0.5), value=t)
            else:
                result.addcmul_(inside, slope.mul_(x), value=-t)
        if valid is not None:
            sign *= valid
        result *= sign
        if self.regions:
            out.copy_(result)
        else:
            out[1:] = result
            out[:1] = result.neg_()

    def _block(
        self, sample: int, voxels: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """x, y, the sign of p - y and the errors, (R, n); the valid voxels (1, n) or None (all).

        R is 1 for two classes. Equal logits (d = 0) predict class 0.
        """
        logits, target = self.logits[sample, :, voxels], self.target[sample, :, voxels]
        valid = None
        if self.regions:
            d = logits.to(self.kind)
            y = compare(torch.gt, target[: len(logits)], 0.5, d)
            if self.ignore_label is not None:
                valid = compare(torch.le, target[len(logits) :], 0.5, d[:1])
        else:
            d = logits[1:].to(self.kind) - logits[:1]
            y = compare(torch.eq, target, 1, d)
            if self.ignore_label is not None:
                valid = compare(torch.ne, target, self.ignore_label, d)
        wrong = compare(torch.ne, compare(torch.gt, d, 0, d), y, d)
        sign = torch.rsub(y, 1, alpha=2)
        # With -inf, what is left out of a sum would be 0 * inf.
        x = (d * sign).clamp_(min=torch.finfo(self.kind).min)
        return x, y, sign, wrong, valid

    def _inside(self, wrong: Tensor, valid: Tensor | None) -> Tensor:
        """Mask of what the term sums over, (R, n)."""
        inside = torch.ones_like(wrong) if self.term == "CP" else wrong
        return inside if valid is None else inside * valid


def _logistic(x: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sigmoid(x), sigmoid(-x) and softplus(x), each to full precision also where it is nearly 0.

    ``wrong`` is 1 where x > 0, and 0 where x < 0.

    Torch's ``softplus`` and ``log1p`` take three times as long: unlike ``exp`` and ``log``, they
    are not vectorized on every CPU.
    """
    t, total, small, large = _parts(x)
    difference = large.sub_(small)
    q = torch.addcmul(small, wrong, difference)
    p = small.addcmul_(torch.rsub(wrong, 1), difference)
    lost = t.sub_(total - 1)  # the part of t that was rounded away in 1 + t
    return q, p, total.log().addcdiv_(lost, total).add_(x.relu())


def _sigmoid(x: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """sigmoid(x) and its derivative; q - q^2 would lose digits where q is nearly 1."""
    _, _, small, large = _parts(x)
    slope = small * large
    return small.addcmul_(wrong, large.sub_(small)), slope


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """t = exp(-|x|), 1 + t, t / (1 + t) and 1 / (1 + t)."""
    t = x.abs().neg_().exp_()
    total = 1 + t
    large = total.reciprocal()
    return t, total, t * large, large
