"""Computes the metrics from the sums; each metric is defined here, once. Does not need torch."""
