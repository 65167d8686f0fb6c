"""What all tests share: machines may be busy, so no test fails for being slow."""

import os
from collections.abc import Iterator

import matplotlib as mpl
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Read when Triton is imported, which nnU-Net does: its interpreter runs kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("nnunet_meep", deadline=None, max_examples=30)
settings.load_profile("nnunet_meep")


@pytest.fixture(autouse=True)
def _style_of_the_test_before() -> Iterator[None]:
    """None: nnU-Net's progress.png sets seaborn's large letters for the whole process."""
    with mpl.rc_context():
        yield
