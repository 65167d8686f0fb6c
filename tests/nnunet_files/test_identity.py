"""Equal for equal content, whatever its name, times and compression; different otherwise."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile

import numpy as np
import pytest

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.identity import archive_identity, file_identity
from nnunet_meep.nnunet_files.probabilities import open_probabilities


@pytest.fixture
def npz(tmp_path):
    p = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", probabilities=p)
    return tmp_path / "a.npz"


def test_of_probabilities_is_of_what_is_in_them(npz, tmp_path) -> None:
    with np.load(npz) as archive:
        p = archive["probabilities"]
    np.savez(tmp_path / "stored.npz", probabilities=p)
    shutil.copy(npz, tmp_path / "renamed.npz")
    os.utime(tmp_path / "renamed.npz", (0, 0))
    with zipfile.ZipFile(npz, "a") as archive:
        archive.comment = b"noted"
    mine = archive_identity(npz)
    assert mine.startswith("crc32:")
    for other in ("stored.npz", "renamed.npz"):
        assert archive_identity(tmp_path / other) == mine
    with open_probabilities(npz) as file:
        assert (file.identity, file.comment) == (mine, b"noted")
    p[1, 2, 3, 4] = np.nextafter(p[1, 2, 3, 4], 1, dtype=np.float32)
    np.savez_compressed(npz, probabilities=p)
    assert archive_identity(npz) != mine


def test_of_an_archive_of_several_files_is_of_all_of_them(tmp_path) -> None:
    """As torch writes checkpoints."""

    def archive(name, *contents):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for i, content in enumerate(contents):
                file.writestr(str(i), content)
        return archive_identity(tmp_path / name)

    assert archive("a", "x", "y") == archive("b", "x", "y")
    assert len({archive("a", "x", "y"), archive("b", "x", "z"), archive("c", "y", "x")}) == 3


def test_of_a_gzip_file_of_several_parts_is_of_all_of_them(tmp_path) -> None:
    """Its trailer, which would be quicker to read, is that of the last part alone."""
    end = gzip.compress(b"")  # as block compression ends a file
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) + end)
    assert (tmp_path / "a").read_bytes()[-8:] == (tmp_path / "b").read_bytes()[-8:]
    assert file_identity(tmp_path / "a") != file_identity(tmp_path / "b")
    shutil.copy(tmp_path / "a", tmp_path / "c")
    assert file_identity(tmp_path / "a") == file_identity(tmp_path / "c")


@pytest.mark.parametrize("identity", [file_identity, archive_identity])
def test_what_cannot_be_read_is_one_line(tmp_path, identity) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path / 'a'}: could not read it: "):
        identity(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"no archive")
    if identity is archive_identity:
        with pytest.raises(InputError, match="could not read it: File is not a zip file"):
            identity(tmp_path / "b")
