"""Reduces the voxels of a case to sums in one pass; sums of cases can be added. Needs no torch."""

#: Distance up to which surfaces agree, in mm, if no other is asked for. Here, because the commands
#: show it in their help, for which nothing is loaded.
TOLERANCE_MM = 2.0
