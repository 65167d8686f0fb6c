"""Maximum entropy on erroneous predictions (MEEP, MICCAI 2023) for nnU-Net v2.

Kept almost empty on purpose: every Python start of an environment with this package imports
it (see ``nnunet_meep._autoload``), so it must cost nothing.
"""

__version__ = "0.1.0"
