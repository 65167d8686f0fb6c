"""Sums into numbers; each metric is defined once, here. Imports without torch."""
