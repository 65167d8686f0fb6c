"""The numbers of a paper: calibration metrics of nnU-Net predictions. Imports without torch.

``cases`` pairs, reads and checks files; ``bins`` reduces voxels to sums that merge; ``metrics``
turns sums into numbers; ``surface`` has the distances; ``evaluate`` composes them for a folder;
``report`` and ``plots`` show the result.
"""
