"""The same inputs, drawn by atheris, which looks for those that reach new lines of the package.

    pip install atheris
    python tests/fuzz/guided.py -max_total_time=600 CORPUS_FOLDER

The options are libFuzzer's. An input with a wrong answer is kept in a file ``crash-*``; given in
place of the folder, it is tried again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

# numba cannot compile what atheris has instrumented.
with atheris.instrument_imports(["nnunet_meep"], exclude=["nnunet_meep.evaluation.counting.loops"]):
    import folders
    import run


class _FromBytes(Random):
    """Draws from given bytes, and at random after their end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data

    def getrandbits(self, k: int, /) -> int:
        n = (k + 7) // 8
        taken, self._data = self._data[:n], self._data[n:]
        if len(taken) < n:
            return super().getrandbits(k)
        return int.from_bytes(taken, "little") >> (8 * n - k)

    def random(self) -> float:
        return self.getrandbits(53) / 2**53


def _one_input(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=folders.memory()) as folder:
        failure = run.check(_FromBytes(data), Path(folder))
    assert not failure, failure


if __name__ == "__main__":
    with run.without_slow_metrics():
        atheris.Setup(sys.argv, _one_input)
        atheris.Fuzz()
