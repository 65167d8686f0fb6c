"""Messages of errors: one line that can be read, whatever is named in it."""

import pytest

from nnunet_meep.errors import InputError


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    found = "x" * 5000
    message = str(InputError(f"dataset.json: expected labels, got {found}; give another file"))
    assert len(message) == 1000
    assert message.startswith("dataset.json: expected labels, got xxx")
    assert message.endswith("xxx; give another file")
    assert "x ... x" in message


@pytest.mark.parametrize("length", [999, 1000])
def test_a_message_that_is_not_long_is_complete(length: int) -> None:
    assert str(InputError("y" * length)) == "y" * length
