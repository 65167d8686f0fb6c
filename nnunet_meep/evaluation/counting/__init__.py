"""One pass over a case: voxels into sums that merge. Imports without torch."""
