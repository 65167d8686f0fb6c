"""The sums over voxels that Dice, cross-entropy and the terms are computed from, with gradients.

Cross-entropy, soft Dice, MEEP-KL, MEEP-H and the confidence penalty (CP) are all functions of a few
sums over the voxels. :class:`VoxelSums` computes these sums while reading logits and target once.
Its backward pass reads them once more and writes the gradient in closed form, so no other tensor as
large as the logits has to be stored. :mod:`nnunet_meep.losses.compound` then computes the loss from
the sums with ordinary torch operations, which also gather the sums of several ranks.

With logits z, p = softmax(z), y the label of a voxel and W the misclassified voxels, let a, b, e
and t be the incoming gradients of ``intersection``, ``predicted``, ``cross_entropy`` and ``term``.
The gradient with respect to z_k is the sum of

- Dice: ``p_k (a_k [k = y] + b_k - a_y p_y - sum_c b_c p_c)``,
- cross-entropy: ``e (p_k - [k = y])``,
- MEEP-KL, in W: ``t (p_k - 1 / K)``,
- MEEP-H in W, CP everywhere: ``-t p_k (log p_k + H)``, where H is the entropy of the voxel.

Two classes are reduced to one logit, ``d = z_1 - z_0``. With regions, each region has one logit
and is a binary problem of its own.

This is plain torch; it works on blocks of voxels small enough to stay in the CPU cache. The input
is described in :mod:`nnunet_meep.losses.voxels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Logits per block on a CPU: few enough for the cache, enough to keep two threads busy.
BLOCK = 1 << 19
#: Logits per block on a GPU without Triton: more, because starting an operation costs time there.
BLOCK_GPU = 1 << 25


class Sums(NamedTuple):
    """Sums over the valid (not ignored) voxels, in float64.

    C is the number of classes K, or of regions R. With two classes, :func:`voxel_sums` below
    returns C = 1, the sums of class 1 only.

    Attributes:
        intersection: for each class, the sum of its probability p over the voxels labelled with
            it, (B, C).
        predicted: for each class, the sum of p over all valid voxels, (B, C).
        labelled: number of voxels labelled with each class, (B, C).
        cross_entropy: sum of -log p of the label (with regions: over all regions, too), ().
        term: sum of the divergence or entropy over the misclassified voxels (CP: all voxels), ().
        n_valid: number of valid voxels, (B,); with regions a voxel still counts once.
        n_term: number of voxels (with regions: pairs of voxel and region) summed in ``term``, ().
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
    """The sums of a batch, differentiable with respect to ``logits``.

    Args:
        logits, target, ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`. The caller
            has to check that they fit together.
        term: ``MEEP_KL``, ``MEEP_H``, ``CP`` or None: which term to sum.
    """
    return Sums(*VoxelSums.apply(logits, target, term, ignore_label, regions))


class VoxelSums(torch.autograd.Function):
    """Computes :class:`Sums`; the gradient is given in the module's docstring."""

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
    """Switch autocast off: it would compute matrix products in half precision."""
    return torch.autocast(logits.device.type, enabled=False)


class _Problem:
    """A batch, processed in blocks of voxels."""

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
        """The sample index and the range of voxels of each block."""
        for sample in range(self.n_samples):
            for start in range(0, self.n_voxels, self.step):
                yield sample, slice(start, min(start + self.step, self.n_voxels))

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.logits.device)

    def compute(self, values: Tensor) -> Tensor:
        """``values`` in at least float32."""
        return values.to(torch.promote_types(values.dtype, torch.float32))


class _Binary(_Problem):
    """Two classes (one binary problem), or regions (one binary problem each).

    Everything is expressed by the logit against the label, ``x = d`` where y = 0 and ``x = -d``
    where y = 1, and by ``q = sigmoid(x)``, the probability of the wrong answer. Then -log p of the
    label is softplus(x), and p - y is q where y = 0 and -q where y = 1. Masks are numbers, 0 and 1,
    because on a CPU torch is several times faster with them than with booleans.
    """

    def _block(self, sample: int, voxels: slice) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (R, n), y (R, n), the sign of p - y (R, n), and the valid voxels (1, n) or None (all).

        R is 1 for two classes.
        """
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
        """Mask of the voxels that the term sums over, (R, n).

        Equal logits (x = 0) predict class 0, so they are an error where y = 1.
        """
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
            # The gradient with respect to x. Since x = d where y = 0 and -d where y = 1, that with
            # respect to d has the opposite sign where y = 1.
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
    """The result of ``comparison`` as 0 and 1 in the dtype of ``like``, without a second pass."""
    return comparison(values, other, out=torch.empty_like(values, dtype=like.dtype))


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full precision, also where it is nearly 0.

    Torch's ``softplus`` and ``log1p`` take three times as long: unlike ``exp`` and ``log``, they
    are not vectorized on every CPU.
    """
    t = x.abs().neg_().exp_()
    total = 1 + t
    lost = t.sub_(total - 1)  # the part of t that was rounded away in 1 + t
    return total.log().addcdiv_(lost, total).add_(x.relu())


class _Multiclass(_Problem):
    """K > 2 classes.

    For the backward pass, 5 bytes per voxel are kept (9 for float64 logits): the log of the sum of
    ``exp(z - max z)``, and whether the voxel is misclassified.
    """

    def _block(self, sample: int, voxels: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits z (K, n), labels y (n,) (0 where ignored), valid voxels (n,) or None (all)."""
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
        """Set ``is_wrong`` where the label ties with an earlier class, which wins."""
        # A tie for the largest logit adds exp(0) = 1 twice, so ``total`` is at least 2. Few voxels
        # get there, and only those are looked at.
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
            # The gradient is p_k (e + b_k + rest), apart from what is added for the label's class.
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
            # The gradient sums to zero over the classes, because adding a constant to all logits
            # changes nothing. The label's gradient is therefore minus the sum of the others:
            # 1 - p_y would lose digits where p_y is nearly 1.
            p.scatter_(0, y[None], 0)
            p.scatter_(0, y[None], p.sum(0, keepdim=True).neg_())
            if valid is not None:
                p *= valid
            gradient[sample, :, voxels] = p
        return gradient.view(self.shape)

    def _inside(self, is_wrong: Tensor, valid: Tensor | None) -> Tensor | slice:
        """Indices of the voxels that the term sums over."""
        if self.term != "CP":
            return is_wrong.nonzero()[:, 0]
        return slice(None) if valid is None else valid.nonzero()[:, 0]
