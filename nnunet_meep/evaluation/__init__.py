"""The numbers of a paper: calibration metrics of nnU-Net predictions. Imports without torch."""
