"""The numbers of a paper: calibration metrics of nnU-Net predictions. Imports without torch.

``cases`` finds and pairs files, ``reference`` reads the references and ``regions`` says which
voxels count; ``stream`` reads probabilities, ``counting`` counts them in compiled loops and
``one_pass`` puts the two together; ``bins`` has the sums that merge, ``kept`` keeps them in files;
``metrics`` turns sums into numbers, ``surface`` has the distances; ``evaluate`` composes all that
for folders, ``trainings`` opens what it left there, ``compare`` sets several side by side;
``headings`` names the metrics; ``report``, ``tables``, ``plots``, ``maps`` and ``slices`` with
``slice_figures`` show them, ``comparison_report`` and its ``page`` all at once.
"""
