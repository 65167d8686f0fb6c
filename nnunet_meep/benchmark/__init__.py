"""Trainers side by side on one data set."""
