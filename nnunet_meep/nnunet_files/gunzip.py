"""Is a .gz file whole? ITK does not ask.

ITK reads a ``.nii.gz`` that is cut short without a word and makes up the rest, and it does not
notice a disk that is full while it writes one. gzip's own length and checksum tell.
"""

from __future__ import annotations

from pathlib import Path

from isal import igzip, igzip_lib  # ten times as fast as gzip

#: What ISA-L raises for data that is no deflate stream.
IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
#: What :func:`gunzipped_size` raises for a file that is damaged or cut short.
#: (``gzip.BadGzipFile`` is an ``OSError``.)
GUNZIP_ERRORS = (OSError, EOFError, IsalError)


def gunzipped_size(path: Path) -> int:
    """The number of bytes inside a gzip file, after reading and checking them all.

    Raises:
        OSError, EOFError, IsalError: the file is damaged or cut short.
    """
    with igzip.open(path) as file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(1 << 20), b""))
