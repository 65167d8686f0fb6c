"""nnU-Net's data sets, predictions and models on disk. Imports without torch."""
