"""What all tests share: machines may be busy, so no test fails for being slow."""

from hypothesis import settings

settings.register_profile("nnunet_meep", deadline=None, max_examples=50)
settings.load_profile("nnunet_meep")
