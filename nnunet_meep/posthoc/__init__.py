"""Post-hoc calibration: learnt from validation predictions, applied to others.

:func:`~nnunet_meep.posthoc.fit.fit` learns a
:class:`~nnunet_meep.posthoc.calibrator.Calibrator` from a folder of predictions and their
references; :func:`~nnunet_meep.posthoc.apply.apply` calibrates a folder of predictions and writes
the result to another folder. Torch is loaded only when one of fiducio's methods is used.
"""
