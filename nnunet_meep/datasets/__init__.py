"""Public data sets, and a synthetic one, as nnU-Net raw data."""
