"""What all tests share: machines may be busy, so no test fails for being slow."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

if not torch.cuda.is_available():
    # Read when Triton is imported, which nnU-Net does: its interpreter runs kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("nnunet_meep", deadline=None, max_examples=30)
settings.load_profile("nnunet_meep")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-inputs",
        type=int,
        default=1000,
        metavar="N",
        help="how many damaged inputs to feed (tests/fuzz; 10,000 in .ci/run)",
    )
    parser.addoption(
        "--fuzz-minutes",
        type=float,
        default=0,
        metavar="N",
        help="feed damaged input that was never seen before, for so long (tests/fuzz)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _style_of_the_test_before() -> Iterator[None]:
    """None: nnU-Net's progress.png sets seaborn's large letters for the whole process."""
    with mpl.rc_context():
        yield


@pytest.fixture
def unrendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are put together, but their numbers and words are written in place of pixels.

    To render them takes most of the time of a small evaluation. Tests marked ``rendered`` do it.
    """
    if request.node.get_closest_marker("rendered"):
        return

    def write_content(figure: Figure, target: Any, **how: Any) -> None:
        text = "\n".join(map(repr, content(figure)))
        if isinstance(target, str | Path):
            Path(target).write_text(text)
        else:
            target.write(text.encode())

    monkeypatch.setattr(Figure, "savefig", write_content)


def content(figure: Figure) -> Iterator[Any]:
    """What a figure draws, but for its colours and ticks."""
    for axes in figure.axes:
        yield axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
        yield [text.get_text() for text in axes.texts]
        yield [line.get_xydata() for line in axes.lines]
        yield [patch.get_verts() for patch in axes.patches]
        yield [collection.get_paths() for collection in axes.collections]
        yield [image.get_array() for image in axes.images]
