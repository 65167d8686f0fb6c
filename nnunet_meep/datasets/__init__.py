"""Public data sets, folders of scans with labels, and synthetic scans, in nnU-Net's raw format."""
