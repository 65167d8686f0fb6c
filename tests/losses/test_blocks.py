"""The threads that go through the blocks: however many, the same numbers; nothing left behind."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch
from test_closed_form import batch, both, value_and_gradient

from nnunet_meep.losses import blocks


@pytest.fixture
def set_threads(monkeypatch):
    """To set torch's number of threads; a batch has many blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def result(n_classes: int = 3, *, regions: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    logits, target = batch(1, (2, 9, 8, 7), n_classes, ignore=True, regions=regions)
    ours, _ = both(
        term="MEEP_KL", n_classes=n_classes, ignore=True, regions=regions, background=True
    )
    return value_and_gradient(ours, logits, target)


@pytest.mark.parametrize(("n_classes", "regions"), [(2, False), (3, False), (3, True)])
def test_any_number_of_threads_gives_the_same_bits(set_threads, n_classes, regions):
    set_threads(1)
    value, gradient = result(n_classes, regions=regions)
    for n in (2, 3):
        set_threads(n)
        for _ in range(5):
            other_value, other_gradient = result(n_classes, regions=regions)
            assert torch.equal(other_value, value)
            assert torch.equal(other_gradient, gradient)


@pytest.mark.parametrize(("n_classes", "regions"), [(2, False), (3, False), (3, True)])
def test_logits_of_any_memory_layout(set_threads, n_classes, regions):
    logits, target = batch(2, (2, 9, 8, 7), n_classes, ignore=False, regions=regions)
    ours, _ = both(
        term="MEEP_KL", n_classes=n_classes, ignore=False, regions=regions, background=True
    )
    expected = value_and_gradient(ours, logits, target)
    for other in (
        logits.to(memory_format=torch.channels_last_3d),
        logits.transpose(2, 4).contiguous().transpose(2, 4),
    ):
        assert not other.is_contiguous()
        torch.testing.assert_close(value_and_gradient(ours, other, target), expected)


def test_other_threads_keep_their_setting(set_threads):
    """A thread that starts later takes over the setting of the process."""
    set_threads(3)
    blocks._threads.cache_clear()
    result()
    assert torch.get_num_threads() == 3
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [3]
    of_blocks = blocks._threads(3).submit(torch.get_num_threads)
    assert of_blocks.result() == 1  # so that torch starts no threads of its own for a block


def test_an_error_in_a_block_reaches_the_caller(set_threads, monkeypatch):
    set_threads(2)

    def fail(*_: object) -> None:
        raise MemoryError("no memory for a block")

    monkeypatch.setattr("nnunet_meep.losses.multiclass.Multiclass._sums_of", fail)
    with pytest.raises(MemoryError, match="no memory for a block"):
        result()


def in_child(connection) -> None:
    connection.send(result()[0].item())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own(set_threads):
    set_threads(2)
    value = result()[0].item()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(sender,))
    child.start()
    try:
        assert receiver.poll(60)  # without threads it would wait for ever
        assert receiver.recv() == value
    finally:
        child.kill()
        child.join()
