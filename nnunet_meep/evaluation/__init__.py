"""Folders into an evaluation, evaluations into a comparison. Imports without torch.

``counting`` makes sums of the voxels of a case, ``metrics`` makes numbers of sums, ``report`` shows
them; ``evaluate`` does it for folders and ``compare`` for several models.
"""
