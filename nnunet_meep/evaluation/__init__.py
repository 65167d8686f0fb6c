"""Evaluate folders of predictions, and compare evaluations. Imports without torch.

``counting`` sums over the voxels of a case, ``metrics`` computes metrics from the sums, ``report``
presents them. ``evaluate`` does all this for folders, ``compare`` for several models.
"""
