"""Dice, cross-entropy and a term on a GPU, in three Triton kernels.

``forward_kernel``: each program reads a tile (all classes or regions of a few voxels) into
registers and computes there the softmax, the errors and the contributions to every sum of
:class:`nnunet_meep.losses.sums.Sums`. It goes through several tiles and writes its sums once. No
two programs write to the same place, so the result is the same in every run.

``compose_kernel``: a single program adds up these sums and computes the loss and its gradient with
respect to the sums. Torch would need about sixty operations on a few numbers, and starting those
takes longer than reading the logits of two classes.

``backward_kernel`` reads the tiles again and writes the gradient with respect to the logits. It
needs only the logits, the target and the output of ``compose_kernel``.

Arithmetic is in float32 (float64 for float64 logits). Importing this module needs Triton, which
comes with torch on Linux. Formulas and input are those of :mod:`nnunet_meep.losses.sums` and
:mod:`nnunet_meep.losses.compound`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnunet_meep.losses.compound import DiceCE
from nnunet_meep.losses.regularized import TERMS
from nnunet_meep.losses.sums import Sums

#: A tile holds all classes; with more classes than this it would not fit into the registers.
MAX_CLASSES = 128
#: Logits per tile, and the fewest voxels per tile: enough to read whole memory sectors.
TILE, SHORTEST_TILE = 2048, 32
#: Voxels that one program goes through.
VOXELS = 4096
#: Values of one kind of sum that ``compose_kernel`` reads at once (channels times programs).
COMPOSED = 2048
N_WARPS = 8
TERM_CODES = {None: 0, "MEEP_KL": 1, "MEEP_H": 2, "CP": 3}


@dataclass(frozen=True)
class Problem:
    """What to sum; see the arguments of :func:`nnunet_meep.losses.sums.voxel_sums`."""

    term: str | None
    ignore_label: int | None
    regions: bool


def voxel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    term: str | None = None,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Sums:
    """Like :func:`nnunet_meep.losses.sums.voxel_sums`, for at most :data:`MAX_CLASSES` channels.

    With two classes it returns the sums of both, not only those of class 1.
    """
    return Sums(*_VoxelSums.apply(logits, target, Problem(term, ignore_label, regions)))


def fused_loss(
    logits: Tensor, target: Tensor, settings: DiceCE, weight: float, problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its segmentation part and its term, each () in at least float32.

    For training in a single process. Only the loss has a gradient. The term is 0 if
    ``problem.term`` is None.
    """
    parts: tuple[Tensor, Tensor, Tensor] = _FusedLoss.apply(
        logits, target, settings, weight, problem
    )
    return parts


class _VoxelSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, problem: Problem) -> tuple[Tensor, ...]:
        launch = _Launch(logits, target, problem)
        ctx.launch = launch.settings
        ctx.save_for_backward(launch.logits, launch.target)
        per_channel, scalars = launch.sums()
        intersection, predicted, labelled = per_channel.unbind(1)
        cross_entropy, term, n_valid, n_term = scalars.unbind(1)
        sums = Sums(
            intersection,
            predicted,
            labelled,
            cross_entropy.sum(),
            term.sum(),
            n_valid,
            n_term.sum(),
        )
        ctx.mark_non_differentiable(sums.labelled, sums.n_valid, sums.n_term)
        return tuple(sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, target = ctx.saved_tensors
        launch = _Launch(logits, target, ctx.launch)
        given = Sums(*gradients)
        of_channels = torch.stack((given.intersection, given.predicted), 1).to(launch.kind)
        of_all = torch.stack((given.cross_entropy, given.term)).to(launch.kind)
        one = torch.ones((), dtype=launch.kind, device=of_all.device)
        return launch.gradient(of_channels, of_all, one), None, None


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, settings: DiceCE, weight: float, problem: Problem
    ) -> tuple[Tensor, ...]:
        launch = _Launch(logits, target, problem)
        values, of_channels = launch.compose(settings, weight)
        ctx.launch = launch.settings
        ctx.save_for_backward(launch.logits, launch.target, of_channels, values)
        loss, segmentation, term = values[:3].unbind()
        ctx.mark_non_differentiable(segmentation, term)
        return loss, segmentation, term

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, of_channels, values = ctx.saved_tensors
        launch = _Launch(logits, target, ctx.launch)
        gradient = launch.gradient(of_channels, values[3:], of_loss)
        return gradient, None, None, None, None


class _Launch:
    """Launches the kernels for one batch."""

    def __init__(self, logits: Tensor, target: Tensor, problem: Problem) -> None:
        self.logits, self.target = logits.detach().contiguous(), target.detach().contiguous()
        if target.dtype == torch.bool:
            self.target = self.target.view(torch.uint8)
        self.settings = problem
        self.n_samples, self.n_channels = logits.shape[:2]
        self.n_voxels = logits.numel() // (self.n_samples * self.n_channels)
        self.grid = (triton.cdiv(self.n_voxels, VOXELS), self.n_samples)
        self.kind = torch.promote_types(logits.dtype, torch.float32)
        self.ignore_label = -1 if problem.ignore_label is None else problem.ignore_label
        self.constants = constants_of(
            self.n_channels,
            logits.dtype,
            problem.term,
            problem.ignore_label is not None,
            problem.regions,
        )

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.kind, device=self.logits.device)

    def _rows(self) -> Tensor:
        """The sums of each program, (B, programs, 3 * WIDTH + 4).

        A row has ``intersection``, ``predicted`` and ``labelled`` of each channel, then
        ``cross_entropy``, ``term``, ``n_valid`` and ``n_term``.
        """
        rows = self._empty(self.n_samples, self.grid[0], 3 * self.constants["WIDTH"] + 4)
        forward_kernel[self.grid](
            self.logits, self.target, rows, self.n_voxels, self.ignore_label, **self.constants
        )
        return rows

    def sums(self) -> tuple[Tensor, Tensor]:
        """The rows added up over programs: (B, 3, K) and (B, 4), in float64."""
        sums = self._rows().sum(1, dtype=torch.float64)
        per_channel = torch.unflatten(sums[:, :-4], 1, (3, self.constants["WIDTH"]))
        return per_channel[:, :, : self.n_channels], sums[:, -4:]

    def compose(self, settings: DiceCE, weight: float) -> tuple[Tensor, Tensor]:
        """The loss and its gradient with respect to the sums.

        Returns:
            (5,): loss, segmentation loss, term, d loss / d cross_entropy, d loss / d term; and
            (B, 2, K): d loss / d intersection and d loss / d predicted.
        """
        term = self.settings.term
        sign = TERMS[term][1] if term else 0
        values, of_channels = self._empty(5), self._empty(self.n_samples, 2, self.n_channels)
        compose_kernel[(1,)](
            self._rows(),
            values,
            of_channels,
            self.n_samples,
            self.grid[0],
            float(settings.weight_ce),
            float(settings.weight_dice),
            float(settings.smooth),
            float(sign * weight),
            FIRST=0 if settings.background or self.settings.regions else 1,
            BATCH_DICE=settings.batch_dice,
            **compose_constants(self.constants),
        )
        return values, of_channels

    def gradient(self, of_channels: Tensor, of_all: Tensor, of_loss: Tensor) -> Tensor:
        """The gradient with respect to the logits, given that with respect to the sums.

        Args:
            of_channels: gradient of ``intersection`` and ``predicted``, (B, 2, K).
            of_all: gradient of ``cross_entropy`` and ``term``, (2,).
            of_loss: incoming gradient of the loss, which scales both, ().
        """
        gradient = torch.empty_like(self.logits)
        backward_kernel[self.grid](
            self.logits,
            self.target,
            of_channels,
            of_all,
            of_loss,
            gradient,
            self.n_voxels,
            self.ignore_label,
            **self.constants,
        )
        return gradient


def constants_of(
    n_channels: int, dtype: torch.dtype, term: str | None, ignore: bool, regions: bool
) -> dict[str, Any]:
    """Compile-time constants of the forward and backward kernels, and the warps per program."""
    width = triton.next_power_of_2(n_channels)
    return {
        "K": n_channels,
        "WIDTH": width,
        "LENGTH": max(TILE // width, SHORTEST_TILE),
        "VOXELS": VOXELS,
        "TERM": TERM_CODES[term],
        "IGNORE": ignore,
        "REGIONS": regions,
        "KIND": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": N_WARPS,
    }


def compose_constants(constants: dict[str, Any]) -> dict[str, Any]:
    """The compile-time constants of ``compose_kernel`` that follow from those of the others."""
    shared = {key: constants[key] for key in ("K", "WIDTH", "IGNORE", "REGIONS", "KIND")}
    return {**shared, "ROWS": COMPOSED // constants["WIDTH"], "num_warps": N_WARPS}


# In the kernels, a channel is a class or a region. There are K of them, padded to WIDTH, a power of
# two. A tile is (WIDTH, LENGTH), one row per channel; channels and voxels beyond the last one are
# masked.


@triton.jit
def forward_kernel(
    logits, target, rows, n_voxels, ignore_label,
    K: tl.constexpr, WIDTH: tl.constexpr, LENGTH: tl.constexpr, VOXELS: tl.constexpr,
    TERM: tl.constexpr, IGNORE: tl.constexpr, REGIONS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Write one row of sums per program; see ``_Launch._rows``."""
    program, sample = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, WIDTH)
    intersection = tl.zeros((WIDTH,), KIND)
    predicted = tl.zeros((WIDTH,), KIND)
    labelled = tl.zeros((WIDTH,), KIND)
    cross_entropy = tl.zeros((LENGTH,), KIND)
    term = tl.zeros((LENGTH,), KIND)
    n_valid = tl.zeros((LENGTH,), KIND)
    n_term = tl.zeros((LENGTH,), KIND)
    for start in range(0, tl.minimum(n_voxels - program * VOXELS, VOXELS), LENGTH):
        voxels = program * VOXELS + start + tl.arange(0, LENGTH)
        if REGIONS:
            x, y, valid, counts, is_wrong = _region_tile(
                logits, target, sample, voxels, n_voxels, K, WIDTH, IGNORE, KIND
            )
            q, p_y, nll = _logistic(x)
            q = tl.where(counts, q, 0.0)
            p_y = tl.where(counts, p_y, 0.0)
            is_label = y & counts
            intersection += tl.sum(tl.where(is_label, p_y, 0.0), 1)
            predicted += tl.sum(tl.where(is_label, p_y, q), 1)
            cross_entropy += tl.sum(tl.where(counts, nll, 0.0), 0)
            if TERM:
                takes_part = _takes_part(counts, is_wrong, TERM)
                # KL is (softplus(x) + softplus(-x)) / 2 - log 2.
                values = nll - 0.5 * x - 0.6931471805599453 if TERM == 1 else nll - q * x
                term += tl.sum(tl.where(takes_part, values, 0.0), 0)
                n_term += tl.sum(takes_part.to(KIND), 0)
        else:
            z, y, valid = _label_tile(
                logits, target, sample, voxels, n_voxels, ignore_label, K, WIDTH, IGNORE, KIND
            )
            p, log_p, is_label, log_p_y, is_wrong = _softmax(z, channels, y)
            p = tl.where(valid[None, :], p, 0.0)
            is_label = is_label & valid[None, :]
            intersection += tl.sum(tl.where(is_label, p, 0.0), 1)
            predicted += tl.sum(p, 1)
            cross_entropy -= tl.where(valid, log_p_y, 0.0)
            if TERM:
                takes_part = _takes_part(valid, is_wrong, TERM)
                if TERM == 1:
                    of_real = tl.where((channels < K)[:, None], log_p, 0.0)
                    values = -tl.log(K * 1.0) - tl.sum(of_real, 0) / K
                else:
                    values = _entropy(p, log_p)
                term += tl.where(takes_part, values, 0.0)
                n_term += takes_part.to(KIND)
        labelled += tl.sum(is_label.to(KIND), 1)
        n_valid += valid.to(KIND)
    row = rows + (sample * tl.num_programs(0) + program) * (3 * WIDTH + 4)
    tl.store(row + channels, intersection)
    tl.store(row + WIDTH + channels, predicted)
    tl.store(row + 2 * WIDTH + channels, labelled)
    tl.store(row + 3 * WIDTH, tl.sum(cross_entropy, 0))
    tl.store(row + 3 * WIDTH + 1, tl.sum(term, 0))
    tl.store(row + 3 * WIDTH + 2, tl.sum(n_valid, 0))
    tl.store(row + 3 * WIDTH + 3, tl.sum(n_term, 0))


@triton.jit
def compose_kernel(
    rows, values, of_channels, n_samples, n_programs, weight_ce, weight_dice, smooth, weight,
    FIRST: tl.constexpr, BATCH_DICE: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, IGNORE: tl.constexpr, REGIONS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Add up the sums of all programs; compute the loss and its gradient (``_Launch.compose``).

    ``weight`` is lambda with the sign of the term. Dice is computed for the channels from FIRST on.
    """
    channels = tl.arange(0, WIDTH)
    numbers = tl.arange(0, 4)
    of_all = tl.zeros((4,), KIND)
    intersection = tl.zeros((WIDTH,), KIND)
    union = tl.zeros((WIDTH,), KIND)
    sum_dice = tl.sum(tl.zeros((WIDTH,), KIND), 0)
    n_dice = K - FIRST
    if not BATCH_DICE:
        n_dice = n_dice * n_samples
    for sample in range(0, n_samples):
        if not BATCH_DICE:
            intersection = tl.zeros((WIDTH,), KIND)
            union = tl.zeros((WIDTH,), KIND)
        for start in range(0, n_programs, ROWS):
            programs = start + tl.arange(0, ROWS)
            inside = (programs < n_programs)[:, None]
            row = rows + (sample * n_programs + programs)[:, None] * (3 * WIDTH + 4)
            at = row + channels[None, :]
            intersection += tl.sum(tl.load(at, mask=inside, other=0.0), 0)
            union += tl.sum(tl.load(at + WIDTH, mask=inside, other=0.0), 0)
            union += tl.sum(tl.load(at + 2 * WIDTH, mask=inside, other=0.0), 0)
            at = row + 3 * WIDTH + numbers[None, :]
            of_all += tl.sum(tl.load(at, mask=inside, other=0.0), 0)
        if not BATCH_DICE:
            sum_dice += _store_dice(
                of_channels, sample, intersection, union, smooth, weight_dice / n_dice,
                FIRST, K, WIDTH,
            )  # fmt: skip
    if BATCH_DICE:
        for sample in range(0, n_samples):
            sum_dice = _store_dice(
                of_channels, sample, intersection, union, smooth, weight_dice / n_dice,
                FIRST, K, WIDTH,
            )  # fmt: skip
    cross_entropy = tl.sum(tl.where(numbers == 0, of_all, 0.0), 0)
    term = tl.sum(tl.where(numbers == 1, of_all, 0.0), 0)
    n_valid = tl.maximum(tl.sum(tl.where(numbers == 2, of_all, 0.0), 0), 1.0)
    n_term = tl.maximum(tl.sum(tl.where(numbers == 3, of_all, 0.0), 0), 1.0)
    if REGIONS and not IGNORE:  # see ClosedFormLoss._n_cross_entropy
        n_valid = n_valid * K
    of_cross_entropy = weight_ce / n_valid
    segmentation = of_cross_entropy * cross_entropy - weight_dice * sum_dice / n_dice
    tl.store(values, segmentation + weight * term / n_term)
    tl.store(values + 1, segmentation)
    tl.store(values + 2, term / n_term)
    tl.store(values + 3, of_cross_entropy)
    tl.store(values + 4, weight / n_term)


@triton.jit
def _store_dice(
    of_channels, sample, intersection, union, smooth, share,
    FIRST: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Return the sum of Dice over channels, and store the gradient of -``share`` times it."""
    channels = tl.arange(0, WIDTH)
    taken = (channels >= FIRST) & (channels < K)
    below = tl.maximum(union + smooth, 1e-8)
    dice = (2 * intersection + smooth) / below
    of_intersection = tl.where(taken, -2 * share / below, 0.0)
    of_predicted = tl.where(taken & (union + smooth >= 1e-8), share * dice / below, 0.0)
    place = of_channels + sample * 2 * K + channels
    tl.store(place, of_intersection, mask=channels < K)
    tl.store(place + K, of_predicted, mask=channels < K)
    return tl.sum(tl.where(taken, dice, 0.0), 0)


@triton.jit
def backward_kernel(
    logits, target, of_channels, of_all, of_loss, gradient, n_voxels, ignore_label,
    K: tl.constexpr, WIDTH: tl.constexpr, LENGTH: tl.constexpr, VOXELS: tl.constexpr,
    TERM: tl.constexpr, IGNORE: tl.constexpr, REGIONS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Write the gradient with respect to the logits, given that with respect to the sums."""
    program, sample = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, WIDTH)
    scale = tl.load(of_loss).to(KIND)
    at = of_channels + sample * 2 * K + channels
    a = scale * tl.load(at, mask=channels < K, other=0.0)[:, None]
    b = scale * tl.load(at + K, mask=channels < K, other=0.0)[:, None]
    e = scale * tl.load(of_all)
    t = scale * tl.load(of_all + 1)
    for start in range(0, tl.minimum(n_voxels - program * VOXELS, VOXELS), LENGTH):
        voxels = program * VOXELS + start + tl.arange(0, LENGTH)
        if REGIONS:
            x, y, valid, counts, is_wrong = _region_tile(
                logits, target, sample, voxels, n_voxels, K, WIDTH, IGNORE, KIND
            )
            q, p_y, _ = _logistic(x)
            slope = q * p_y
            # The gradient with respect to x = d where y = 0 and x = -d where y = 1; its sign is
            # changed below where y = 1.
            result = tl.where(y, -(a + b), b) * slope + e * q
            if TERM:
                takes_part = _takes_part(counts, is_wrong, TERM)
                more = q - 0.5 if TERM == 1 else -x * slope
                result += tl.where(takes_part, t * more, 0.0)
            result = tl.where(y, -result, result)
        else:
            z, y, valid = _label_tile(
                logits, target, sample, voxels, n_voxels, ignore_label, K, WIDTH, IGNORE, KIND
            )
            p, log_p, is_label, log_p_y, is_wrong = _softmax(z, channels, y)
            p_y = tl.exp(log_p_y)
            of_others = tl.where(is_label, 0.0, p)
            others = tl.sum(of_others, 0)
            b_others = tl.sum(b * of_others, 0)
            a_and_b_y = tl.sum(tl.where(is_label, a + b, 0.0), 0)
            rest = e - b_others - a_and_b_y * p_y
            result = p * (b + rest[None, :])
            of_label = p_y * (a_and_b_y * others - b_others) - e * others  # see multiclass.py
            if TERM:
                takes_part = _takes_part(valid, is_wrong, TERM)
                if TERM == 1:
                    more = p - 1.0 / K
                    more_of_label = p_y - 1.0 / K
                else:
                    entropy = _entropy(of_others, log_p)
                    log_p_y = tl.where(p_y > 0, log_p_y, 0.0)
                    more_of_label = -p_y * (log_p_y * others + entropy)
                    entropy -= p_y * log_p_y
                    more = -p * (tl.where(p > 0, log_p, 0.0) + entropy[None, :])
                result += tl.where(takes_part[None, :], t * more, 0.0)
                of_label += tl.where(takes_part, t * more_of_label, 0.0)
            result = tl.where(is_label, of_label[None, :], result)
            counts = valid[None, :]
        result = tl.where(counts, result, 0.0)
        inside = (channels < K)[:, None] & (voxels < n_voxels)[None, :]
        place = gradient + _start(sample, channels, K, n_voxels)[:, None] + voxels[None, :]
        tl.store(place, result.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _start(sample, channel, n_channels, n_voxels):
    """Offset of a channel of a sample; in 64 bits, as a batch may have more than 2^31 logits."""
    return (sample.to(tl.int64) * n_channels + channel) * n_voxels


@triton.jit
def _label_tile(
    logits, target, sample, voxels, n_voxels, ignore_label,
    K: tl.constexpr, WIDTH: tl.constexpr, IGNORE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Logits (WIDTH, LENGTH), -inf beyond the last class; labels and valid voxels (LENGTH,)."""
    channels = tl.arange(0, WIDTH)
    inside = voxels < n_voxels
    place = logits + _start(sample, channels, K, n_voxels)[:, None] + voxels[None, :]
    z = tl.load(place, mask=(channels < K)[:, None] & inside[None, :], other=0.0).to(KIND)
    z = tl.where((channels < K)[:, None], z, -float("inf"))
    y = tl.load(target + _start(sample, 0, 1, n_voxels) + voxels, mask=inside, other=0)
    y = y.to(tl.int32)
    valid = inside
    if IGNORE:
        valid = inside & (y != ignore_label)
        y = tl.where(valid, y, 0)
    return z, y, valid


@triton.jit
def _softmax(z, channels, y):
    """(WIDTH, LENGTH): p, log p and the one-hot label; (LENGTH,): log p of the label and errors."""
    z = z - tl.max(z, 0)[None, :]
    log_total = tl.log(tl.sum(tl.exp(z), 0))
    is_label = channels[:, None] == y[None, :]
    z_y = tl.sum(tl.where(is_label, z, 0.0), 0)
    # The largest logits are now exactly 0, and the first of them is the predicted class.
    before = tl.max(tl.where(channels[:, None] < y[None, :], z, -float("inf")), 0)
    is_wrong = (z_y < 0) | (before == 0) | (log_total != log_total)  # the last one with a NaN
    log_p = z - log_total[None, :]
    return tl.exp(log_p), log_p, is_label, z_y - log_total, is_wrong


@triton.jit
def _entropy(p, log_p):
    """The entropy of each voxel, (LENGTH,); 0 log 0 is taken as 0."""
    return -tl.sum(p * tl.where(p > 0, log_p, 0.0), 0)


@triton.jit
def _region_tile(
    logits, target, sample, voxels, n_voxels,
    K: tl.constexpr, WIDTH: tl.constexpr, IGNORE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Read a tile of regions.

    Returns the logit against the reference x (WIDTH, LENGTH), the reference y (WIDTH, LENGTH), the
    valid voxels (LENGTH,), and masks of the valid pairs of voxel and region and of the errors, both
    (WIDTH, LENGTH).
    """
    channels = tl.arange(0, WIDTH)
    inside = voxels < n_voxels
    mask = (channels < K)[:, None] & inside[None, :]
    place = _start(sample, channels, K, n_voxels)[:, None] + voxels[None, :]
    d = tl.load(logits + place, mask=mask, other=0.0).to(KIND)
    n_masks: tl.constexpr = K + 1 if IGNORE else K
    place = _start(sample, channels, n_masks, n_voxels)[:, None] + voxels[None, :]
    y = tl.load(target + place, mask=mask, other=0).to(tl.float32) > 0.5
    valid = inside
    if IGNORE:
        place = _start(sample, K, n_masks, n_voxels) + voxels
        ignored = tl.load(target + place, mask=inside, other=0).to(tl.float32) > 0.5
        valid = inside & (ignored == 0)
    x = tl.where(y, -d, d)
    x = tl.where(x < -3e38, -3e38, x)  # -inf: 0 log 0 is 0, and not 0 * -inf
    is_wrong = ((d > 0) != y) | (d != d)  # the last one with a NaN
    return x, y, valid, mask & valid[None, :], is_wrong


@triton.jit
def _takes_part(counts, is_wrong, TERM: tl.constexpr):
    """Mask of what the term sums over: the errors, or everything valid for CP (3)."""
    if TERM == 3:
        return counts
    return counts & is_wrong


@triton.jit
def _logistic(x):
    """sigmoid(x), sigmoid(-x) and softplus(x), each to full precision also where it is nearly 0."""
    t = tl.exp(-tl.abs(x))
    total = 1 + t
    large, small = 1 / total, t / total
    lost = t - (total - 1)  # the part of t that was rounded away in 1 + t
    softplus = tl.maximum(x, 0.0) + tl.log(total) + lost * large
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large), softplus
