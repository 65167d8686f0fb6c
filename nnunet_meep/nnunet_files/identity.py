"""What a file holds, in a few characters, whatever its name and times.

Modification times do not tell: ``cp -p``, ``rsync -a`` and unpacking an archive keep them. The
directory of a zip archive has length and CRC-32 of what is inside, which :mod:`.stream` checks
when it reads the voxels. All other files are small beside them, because label maps compress well,
and are hashed whole. (gzip's own checksum would not do: of a file of several parts, as some
programs write it, the end has that of the last part alone.)
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from nnunet_meep.errors import InputError

_PIECE = 1 << 20  # bytes hashed at a time


def file_identity(path: Path) -> str:
    """``sha256:`` and the hash of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        return f"sha256:{digest.hexdigest()}"
    except OSError as error:
        raise InputError(f"{path}: could not read it: {error.strerror}") from None


def label_map_identity(path: Path) -> str:
    """:func:`file_identity` of a label map, with the spacing that stands beside a TIFF file.

    Raises:
        InputError: it cannot be read.
    """
    identity, beside = file_identity(path), path.with_suffix(".json")
    if path.suffix.lower() in (".tif", ".tiff") and beside.is_file():
        return f"{identity} {file_identity(beside)}"
    return identity


def archive_identity(path: Path) -> str:
    """``crc32:`` and checksum and length of what is in a zip archive, from its directory alone.

    Of an archive of several files a hash of the names, checksums and lengths of them all.

    Raises:
        InputError: it is no archive, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return members_identity(archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path}: could not read it: {error}") from None


def members_identity(members: list[zipfile.ZipInfo]) -> str:
    """:func:`archive_identity` of an open archive."""
    if len(members) == 1:
        return f"crc32:{members[0].CRC:08x}:{members[0].file_size}"
    entries = sorted((m.filename, m.CRC, m.file_size) for m in members)
    return f"sha256:{hashlib.sha256(repr(entries).encode()).hexdigest()}"
