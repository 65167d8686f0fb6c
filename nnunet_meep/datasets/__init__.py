"""Public data sets and a synthetic one, in nnU-Net's raw format."""
