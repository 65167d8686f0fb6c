"""Identities of files: short strings that depend only on content, not on names or times.

Modification times would not do, because ``cp -p``, ``rsync -a`` and unpacking an archive keep them.
For a zip archive, such as an npz, the identity is the length and CRC-32 in its directory;
:mod:`.probabilities` verifies both when it reads the voxels. Other files are hashed completely,
which is quick: label maps compress well and are small. (The checksum in a gzip file would not do,
because in a file of several parts, as some programs write it, it covers only the last part.)
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import refuse_no_file

_PIECE = 1 << 20  # bytes hashed at a time


def file_identity(path: Path) -> str:
    """``sha256:`` followed by the hash of a file.

    Raises:
        InputError: the file cannot be read.
    """
    refuse_no_file(path)
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        return f"sha256:{digest.hexdigest()}"
    except OSError as error:
        raise InputError(f"{path}: could not read it: {error.strerror}") from None


def label_map_identity(path: Path) -> str:
    """:func:`file_identity` of a label map; for a TIFF file, also of the JSON with its spacing.

    Raises:
        InputError: a file cannot be read.
    """
    identity, beside = file_identity(path), path.with_suffix(".json")
    if path.suffix.lower() in (".tif", ".tiff") and beside.is_file():
        return f"{identity} {file_identity(beside)}"
    return identity


def archive_identity(path: Path) -> str:
    """Identity of a zip archive; only its directory is read.

    ``crc32:CHECKSUM:LENGTH`` of the file inside. If there are several, ``sha256:`` and a hash of
    the names, checksums and lengths of all.

    Raises:
        InputError: the file is not a zip archive, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return members_identity(archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path}: could not read it: {error}") from None


def members_identity(members: list[zipfile.ZipInfo]) -> str:
    """:func:`archive_identity`, given the entries of the archive's directory."""
    if len(members) == 1:
        return f"crc32:{members[0].CRC:08x}:{members[0].file_size}"
    entries = sorted((m.filename, m.CRC, m.file_size) for m in members)
    return f"sha256:{hashlib.sha256(repr(entries).encode()).hexdigest()}"
