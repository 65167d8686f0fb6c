"""Checks that a .gz file is complete, which ITK does not.

ITK silently reads a truncated ``.nii.gz`` and makes up the rest, and it does not notice a full disk
while writing one. The length and checksum that gzip stores reveal both.
"""

from __future__ import annotations

from pathlib import Path

from isal import igzip, igzip_lib  # ten times as fast as gzip

#: What ISA-L raises for data that is not a deflate stream.
IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
#: What :func:`gunzipped_size` raises for a damaged or truncated file.
#: (``gzip.BadGzipFile`` is an ``OSError``.)
GUNZIP_ERRORS = (OSError, EOFError, IsalError)


def gunzipped_size(path: Path) -> int:
    """The decompressed size of a gzip file in bytes, after reading and verifying all of it.

    Raises:
        OSError, EOFError, IsalError: the file is damaged or truncated.
    """
    with igzip.open(path) as file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(1 << 20), b""))
