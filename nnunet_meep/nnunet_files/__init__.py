"""Reads and writes nnU-Net's data sets, predictions and models on disk. Does not need torch."""
