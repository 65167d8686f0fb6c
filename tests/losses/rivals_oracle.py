"""The rivals of MEEP as their papers say them, one voxel at a time.

Shares no code with the package. Sums are of single numbers in float64; torch only follows them to
the gradient.
"""

from __future__ import annotations

import itertools
import math

import torch


class Batch:
    """Logits, and for each image and class which voxels have it and which count.

    Args:
        logits: (B, C, *spatial), float64.
        target, ignore_label, regions: as the losses take them.
    """

    def __init__(self, logits, target, ignore_label=None, regions=False):
        self.z, self.regions = logits, regions
        self.n_images, self.n_channels, *self.space = logits.shape
        self.voxels = list(itertools.product(*map(range, self.space)))
        self.target, self.ignore_label = target, ignore_label

    def counts(self, image, voxel):
        if self.ignore_label is None:
            return True
        if self.regions:
            return not self.target[(image, self.n_channels, *voxel)]
        return int(self.target[(image, 0, *voxel)]) != self.ignore_label

    def has(self, image, voxel, channel):
        """1 if the voxel has this label, or is inside this region."""
        if self.regions:
            return int(self.target[(image, channel, *voxel)])
        return int(self.target[(image, 0, *voxel)] == channel)

    def counted(self):
        for image, voxel in itertools.product(range(self.n_images), self.voxels):
            if self.counts(image, voxel):
                yield image, voxel

    def logits(self, image, voxel):
        return [self.z[(image, k, *voxel)] for k in range(self.n_channels)]

    def p(self, image, voxel, channel):
        z = self.logits(image, voxel)
        if self.regions:
            return torch.sigmoid(z[channel])
        return torch.stack(z).softmax(0)[channel]

    def share(self, image, voxel, channel, kernel):
        """The share of a class among the neighbours, weighted by ``kernel(offset)``."""
        total = found = 0.0
        for offset in itertools.product((-1, 0, 1), repeat=len(voxel)):
            other = tuple(
                min(max(x + dx, 0), n - 1)
                for x, dx, n in zip(voxel, offset, self.space, strict=True)
            )
            if self.counts(image, other):
                total += kernel(offset)
                found += kernel(offset) * self.has(image, other, channel)
        return found / total


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cross_entropy(z, target):
    return -(torch.tensor(target, dtype=torch.float64) * torch.stack(z).log_softmax(0)).sum()


def _against(batch, image, voxel, smoothed):
    """How much higher the cross-entropy is against another target than the label."""
    z = batch.logits(image, voxel)
    label = [float(batch.has(image, voxel, k)) for k in range(batch.n_channels)]
    return cross_entropy(z, smoothed) - cross_entropy(z, label)


def label_smoothing(batch):
    uniform = [1 / batch.n_channels] * batch.n_channels
    return mean(_against(batch, *place, uniform) for place in batch.counted())


def svls(batch):
    def gaussian(offset):
        return math.exp(-sum(x**2 for x in offset) / 2)

    offsets = itertools.product((-1, 0, 1), repeat=len(batch.space))
    others = sum(gaussian(offset) for offset in offsets if any(offset))

    def kernel(offset):
        return gaussian(offset) if any(offset) else others

    def smoothed(place):
        return [batch.share(*place, k, kernel) for k in range(batch.n_channels)]

    return mean(_against(batch, *place, smoothed(place)) for place in batch.counted())


def mbls(batch, margin):
    def excess(z):
        return mean(torch.relu(max(z) - x - margin) for x in z)

    zero = torch.zeros((), dtype=torch.float64)
    if batch.regions:
        pairs = ([zero, z] for place in batch.counted() for z in batch.logits(*place))
        return mean(map(excess, pairs))
    return mean(excess(batch.logits(*place)) for place in batch.counted())


def nacl(batch):
    def distance(place, k, z):
        inside = batch.share(*place, k, lambda _: 1.0)
        return abs((2 * inside - 1 if batch.regions else inside) - z)

    return mean(
        distance(place, k, z)
        for place in batch.counted()
        for k, z in enumerate(batch.logits(*place))
    )


def ml1_ace(batch, soft=False, n_bins=20):
    def weight(p, b):
        if not soft:
            return float(b / n_bins < p <= (b + 1) / n_bins)
        centres = [(x + 0.5) / n_bins for x in range(n_bins)]
        inside = p.clamp(centres[0], centres[-1])
        return torch.relu(1 - n_bins * abs(inside - centres[b]))

    def error(image, k):
        voxels = [voxel for voxel in batch.voxels if batch.counts(image, voxel)]
        pairs = [(batch.p(image, v, k), batch.has(image, v, k)) for v in voxels]
        gaps = []
        for b in range(n_bins):
            n = sum(weight(p, b) for p, _ in pairs)
            if n >= (0.01 if soft else 1):
                gaps.append(abs(sum(weight(p, b) * (p - y) for p, y in pairs) / n))
        return mean(gaps)

    images = {image for image, _ in batch.counted()}
    return mean(error(image, k) for image in images for k in range(batch.n_channels))


def dscpp(batch, gamma=2.0, batch_dice=False, background=False, smooth=1e-5):
    first = 0 if background or batch.regions else 1
    images = range(batch.n_images)
    groups = [list(images)] if batch_dice else [[image] for image in images]

    def score(group, k):
        places = [place for place in batch.counted() if place[0] in group]
        right = wrong = 0.0
        for place in places:
            p, y = batch.p(*place, k), batch.has(*place, k)
            right += y * p
            wrong += ((1 - p) if y else p) ** gamma  # of the two, the other one is 0
        return (2 * right + smooth) / (2 * right + wrong + smooth)

    channels = range(first, batch.n_channels)
    return -mean(score(group, k) for group in groups for k in channels)
