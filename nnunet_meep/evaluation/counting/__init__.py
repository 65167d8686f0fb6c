"""Reduces the voxels of a case to sums in one pass; sums of cases can be added. Needs no torch."""
