"""All that Dice, cross-entropy and the terms need of the voxels: a few sums, and their gradient.

Cross-entropy, soft Dice, MEEP-KL, MEEP-H and the confidence penalty are functions of sums over
the voxels. :class:`VoxelSums` reads logits and target once and leaves these sums; its backward pass
reads them once more and writes the gradient in closed form. Nothing as large as the logits is kept
for it but the logits themselves. What is made of the sums (:mod:`nnunet_meep.losses.compound`) is
ordinary torch on a few numbers, also where the sums of several ranks are gathered.

With p = softmax(z), the label y of a voxel, W the misclassified voxels, and the incoming gradients
a of ``intersection``, b of ``predicted``, e of ``cross_entropy`` and t of ``term``, the gradient is

- Dice: ``p_k (a_k [k = y] + b_k - a_y p_y - sum_c b_c p_c)``,
- cross-entropy: ``e (p_k - [k = y])``,
- MEEP-KL, in W: ``t (p_k - 1 / K)``,
- MEEP-H in W, CP everywhere: ``-t p_k (log p_k + H)``, H the entropy of the voxel.

Two classes are one logit, ``d = z_1 - z_0``, and each region is one with a problem of its own.

This is plain torch, in blocks of voxels that stay in the cache. Input as in
:mod:`nnunet_meep.losses.voxels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Logits in a block on a CPU: few enough for the caches, many enough for two threads.
BLOCK = 1 << 19
#: The same on a GPU without Triton, where each operation has to be worth its start.
BLOCK_GPU = 1 << 25


class Sums(NamedTuple):
    """Sums over the valid voxels, in float64. C is K for labels and R for regions.

    Attributes:
        intersection: of p where it is the label's, (B, C); only of class 1 if K = 2, C = 1.
        predicted: of p, (B, C).
        labelled: voxels of each class, (B, C).
        cross_entropy: of -log p of the label (for regions: of all regions), ().
        term: of the divergence or entropy over the misclassified voxels (CP: all), ().
        n_valid: voxels that count, (B,); for regions they are counted once, not for each region.
        n_term: voxels (pairs of voxel and region) in ``term``, ().
    """

    intersection: Tensor
    predicted: Tensor
    labelled: Tensor
    cross_entropy: Tensor
    term: Tensor
    n_valid: Tensor
    n_term: Tensor


def voxel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    term: str | None = None,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Sums:
    """The sums of a batch, with a gradient with respect to ``logits``.

    Args:
        logits, target, ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`; whether they
            fit together is for the caller to check.
        term: ``MEEP_KL``, ``MEEP_H``, ``CP`` or None: what ``term`` sums.
    """
    return Sums(*VoxelSums.apply(logits, target, term, ignore_label, regions))


class VoxelSums(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        term: str | None,
        ignore_label: int | None,
        regions: bool,
    ) -> tuple[Tensor, ...]:
        binary = regions or logits.shape[1] == 2
        problem = (_Binary if binary else _Multiclass)(logits, target, term, ignore_label, regions)
        with _without_autocast(logits):
            sums, kept = problem.forward()
        ctx.save_for_backward(logits, target, *kept)
        ctx.problem = binary, term, ignore_label, regions
        ctx.mark_non_differentiable(sums.labelled, sums.n_valid, sums.n_term)
        return tuple(sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, *kept = ctx.saved_tensors
        binary, *problem = ctx.problem
        given = Sums(*gradients)
        solved = (_Binary if binary else _Multiclass)(logits, target, *problem)
        with _without_autocast(logits):
            return solved.backward(given, kept), None, None, None, None


def _without_autocast(logits: Tensor) -> torch.autocast:
    """Products of matrices would be computed in half precision."""
    return torch.autocast(logits.device.type, enabled=False)


class _Problem:
    """A batch in blocks."""

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        term: str | None,
        ignore_label: int | None,
        regions: bool,
    ) -> None:
        self.shape = logits.shape
        self.logits = logits.detach().flatten(2)
        self.target = target.detach().flatten(2)
        self.term, self.ignore_label, self.regions = term, ignore_label, regions
        self.n_samples, self.n_channels, self.n_voxels = self.logits.shape
        block = BLOCK if logits.device.type == "cpu" else BLOCK_GPU
        self.step = max(block // self.n_channels, 1)

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Sample and voxels of each block."""
        for sample in range(self.n_samples):
            for start in range(0, self.n_voxels, self.step):
                yield sample, slice(start, min(start + self.step, self.n_voxels))

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.logits.device)

    def compute(self, values: Tensor) -> Tensor:
        """In at least float32."""
        return values.to(torch.promote_types(values.dtype, torch.float32))


class _Binary(_Problem):
    """Two classes (one problem), or regions (one problem each).

    All is written with the logit against the label, ``x = d`` where y = 0 and ``-d`` where y = 1,
    and ``q = sigmoid(x)``, the probability of what is not the label: -log p of the label is
    softplus(x), and p - y is q or -q. Masks are numbers, 0 and 1: on a CPU torch multiplies and
    compares them several times faster than it handles truth values.
    """

    def _block(self, sample: int, voxels: slice) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (R, n), y (R, n), the sign of p - y (R, n), and what counts (1, n), None for all."""
        logits, target = self.logits[sample, :, voxels], self.target[sample, :, voxels]
        valid = None
        if self.regions:
            d = self.compute(logits)
            y = _compare(torch.gt, target[: len(logits)], 0.5, d)
            if self.ignore_label is not None:
                valid = _compare(torch.le, target[len(logits) :], 0.5, d[:1])
        else:
            d = self.compute(logits[1:]) - logits[:1]
            y = _compare(torch.eq, target, 1, d)
            if self.ignore_label is not None:
                valid = _compare(torch.ne, target, self.ignore_label, d)
        sign = torch.rsub(y, 1, alpha=2)
        return d * sign, y, sign, valid

    def forward(self) -> tuple[Sums, tuple[Tensor, ...]]:
        n_problems = self.n_channels if self.regions else 1
        intersection, predicted, labelled = (
            self.zeros(self.n_samples, n_problems) for _ in range(3)
        )
        cross_entropy, term, n_term = (self.zeros() for _ in range(3))
        n_valid = self.zeros(self.n_samples)
        for sample, voxels in self.blocks():
            x, y, _, valid = self._block(sample, voxels)
            q = torch.sigmoid(x)
            nll = _softplus(x)
            n_valid[sample] += x.shape[1] if valid is None else valid.sum()
            inside = self._inside(x, y, valid) if self.term is not None else None
            if valid is not None:
                for values in (q, y, nll):
                    values *= valid
            # p is q where y = 0 and 1 - q where y = 1.
            n_labelled, wrongly = y.sum(1), torch.linalg.vecdot(q, y)
            intersection[sample] += n_labelled - wrongly
            predicted[sample] += n_labelled + (q.sum(1) - 2 * wrongly)
            labelled[sample] += n_labelled
            cross_entropy += nll.sum()
            if inside is not None:
                if self.term == "MEEP_KL":  # (softplus(x) + softplus(-x)) / 2 - log 2
                    values = nll.sub_(x, alpha=0.5).sub_(math.log(2))
                else:
                    values = nll.addcmul_(q, x, value=-1)
                term += torch.linalg.vecdot(values, inside).sum()
                n_term += inside.sum()
        sums = Sums(intersection, predicted, labelled, cross_entropy, term, n_valid, n_term)
        return sums, ()

    def _inside(self, x: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
        """The voxels that the term is of, (R, n); a tie is wrong where y = 1."""
        if self.term == "CP":
            inside = torch.ones_like(x)
        else:
            inside = _compare(torch.gt, x, 0, x).addcmul_(_compare(torch.eq, x, 0, x), y)
        return inside if valid is None else inside.mul_(valid)

    def backward(self, given: Sums, kept: list[Tensor]) -> Tensor:
        gradient = torch.empty_like(self.logits)
        e, t = given.cross_entropy.item(), given.term.item()
        for sample, voxels in self.blocks():
            x, y, sign, valid = self._block(sample, voxels)
            q = torch.sigmoid(x)
            slope = torch.addcmul(q, q, q, value=-1)
            a, b = (g[sample, :, None].to(x.dtype) for g in (given.intersection, given.predicted))
            # With respect to x; of d it is the same where y = 0 and the negative where y = 1.
            result = (y * -(a + 2 * b)).add_(b).mul_(slope).add_(q, alpha=e)
            if self.term is not None:
                inside = self._inside(x, y, valid)
                if self.term == "MEEP_KL":
                    result.addcmul_(inside, q.sub_(0.5), value=t)
                else:
                    result.addcmul_(inside, slope.mul_(x), value=-t)
            if valid is not None:
                sign *= valid
            of_logits = gradient[sample, :, voxels]
            result *= sign
            if self.regions:
                of_logits.copy_(result)
            else:
                of_logits[1:] = result
                of_logits[:1] = result.neg_()
        return gradient.view(self.shape)


def _compare(comparison: Callable[..., Tensor], values: Tensor, other: Any, like: Tensor) -> Tensor:
    """The comparison as 0 and 1 of the dtype of ``like``, in one step."""
    return comparison(values, other, out=torch.empty_like(values, dtype=like.dtype))


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full precision, also where it is nearly 0.

    ``exp`` and ``log`` are vectorized on every CPU, ``softplus`` and ``log1p`` are not: they take
    three times as long as this.
    """
    t = x.abs().neg_().exp_()
    total = 1 + t
    lost = t.sub_(total - 1)  # what rounding took from the sum
    return total.log().addcdiv_(lost, total).add_(x.relu())


class _Multiclass(_Problem):
    """K > 2 classes.

    For the backward pass are kept, of each voxel, the log of the sum of ``exp(z - max z)``, and
    whether it is misclassified: 5 bytes.
    """

    def _block(self, sample: int, voxels: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits z (K, n), labels y (n,) with 0 where they do not count, and what counts (n,)."""
        z = self.compute(self.logits[sample, :, voxels])
        y = self.target[sample, 0, voxels].long()
        if self.ignore_label is None:
            return z, y, None
        valid = y != self.ignore_label
        return z, y * valid, valid

    def forward(self) -> tuple[Sums, tuple[Tensor, ...]]:
        shape = (self.n_samples, self.n_channels)
        intersection, predicted, labelled = (self.zeros(*shape) for _ in range(3))
        cross_entropy, term, n_term = (self.zeros() for _ in range(3))
        n_valid = self.zeros(self.n_samples)
        kind = torch.promote_types(self.logits.dtype, torch.float32)
        per_voxel = self.n_samples, self.n_voxels
        log_total_of = torch.empty(per_voxel, dtype=kind, device=self.logits.device)
        wrong = torch.empty(per_voxel, dtype=torch.bool, device=self.logits.device)
        classes = torch.arange(self.n_channels, device=self.logits.device)[:, None]
        for sample, voxels in self.blocks():
            z, y, valid = self._block(sample, voxels)
            largest = z.amax(0)
            e = (z - largest).exp_()
            total = e.sum(0)
            z_y = z.gather(0, y[None])[0]
            log_total = torch.log(total, out=log_total_of[sample, voxels])
            nll = largest - z_y + log_total
            p_y = (-nll).exp_()
            share = total.reciprocal()
            is_wrong = z_y < largest
            self._ties(z, y, largest, total, is_wrong)
            n_valid[sample] += len(y) if valid is None else valid.sum()
            if valid is not None:
                share, p_y, nll = share * valid, p_y * valid, nll * valid
                is_wrong &= valid
            wrong[sample, voxels] = is_wrong
            predicted[sample] += e @ share
            is_label = torch.eq(y, classes, out=torch.empty_like(z))
            intersection[sample] += is_label @ p_y
            labelled[sample] += is_label.sum(1) if valid is None else is_label @ valid.to(z.dtype)
            cross_entropy += nll.sum()
            if self.term is not None:
                inside = self._inside(is_wrong, valid)
                log_p = z[:, inside] - largest[inside] - log_total[inside]
                if self.term == "MEEP_KL":
                    values = -math.log(len(z)) - log_p.mean(0)
                else:
                    values = -(log_p.exp() * log_p).sum(0)
                term += values.sum()
                n_term += len(values)
        sums = Sums(intersection, predicted, labelled, cross_entropy, term, n_valid, n_term)
        return sums, (log_total_of, wrong)

    @staticmethod
    def _ties(z: Tensor, y: Tensor, largest: Tensor, total: Tensor, is_wrong: Tensor) -> None:
        """The first of equal logits wins: mark those that lose against an earlier class."""
        # exp(0) = 1 twice makes at least 2; few voxels are as unsure as that.
        unsure = ((total >= 2) & ~is_wrong).nonzero()[:, 0]
        if len(unsure):
            is_largest = _compare(torch.eq, z[:, unsure], largest[unsure], z)
            tied = unsure[is_largest.sum(0) > 1]
            winner = (z[:, tied] == largest[tied]).to(torch.uint8).argmax(0)
            is_wrong[tied] = winner != y[tied]

    def backward(self, given: Sums, kept: list[Tensor]) -> Tensor:
        log_total_of, wrong = kept
        gradient = torch.empty_like(self.logits)
        e, t = (g.to(log_total_of.dtype) for g in (given.cross_entropy, given.term))
        for sample, voxels in self.blocks():
            z, y, valid = self._block(sample, voxels)
            a, b = (g[sample].to(z.dtype) for g in (given.intersection, given.predicted))
            log_p = (z - z.amax(0)).sub_(log_total_of[sample, voxels])
            p = log_p.exp()
            p_y = p.gather(0, y[None])[0]
            a_y = a.index_select(0, y)
            # Of each class without what it takes as the label: p_k (e + b_k + rest).
            rest = torch.addcmul(b @ p, a_y, p_y).neg_()
            inside = self._inside(wrong[sample, voxels], valid)
            more = None
            if self.term == "MEEP_KL":
                rest[inside] += t
            elif self.term is not None:
                log_p_inside, p_inside = log_p[:, inside], p[:, inside]
                entropy = -(p_inside * log_p_inside).sum(0)
                more = -t * p_inside * (log_p_inside + entropy)
            p *= (rest + e) + b[:, None]
            if self.term == "MEEP_KL":
                p[:, inside] -= t / self.n_channels
            elif more is not None:
                p[:, inside] += more
            # A constant added to the logits changes nothing: the gradient sums to zero over the
            # classes. So the label's loses no digits to 1 - p_y where the voxel is right.
            p.scatter_(0, y[None], 0)
            p.scatter_(0, y[None], p.sum(0, keepdim=True).neg_())
            if valid is not None:
                p *= valid
            gradient[sample, :, voxels] = p
        return gradient.view(self.shape)

    def _inside(self, is_wrong: Tensor, valid: Tensor | None) -> Tensor | slice:
        """The voxels that the term is of."""
        if self.term != "CP":
            return is_wrong.nonzero()[:, 0]
        return slice(None) if valid is None else valid.nonzero()[:, 0]
