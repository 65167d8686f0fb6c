"""Compare trainers on one data set."""
