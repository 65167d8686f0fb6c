"""Post-hoc calibration: learnt on validation predictions, applied to others.

:func:`~nnunet_meep.posthoc.fit.fit` learns a
:class:`~nnunet_meep.posthoc.calibrator.Calibrator` from a folder of predictions and their
references; :func:`~nnunet_meep.posthoc.apply.apply` calibrates a folder into another one.
Importable without torch; the methods of fiducio load it when they are used.
"""
