"""Reads the probabilities of an npz part by part, so that the whole array is never in memory.

Decompression takes most of the time, so it is done by ISA-L, which is faster than zlib and lets
other threads run meanwhile. Length and CRC-32 are verified, as zipfile would.
"""

from __future__ import annotations

import math
import queue
import struct
import tokenize
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.gunzip import GUNZIP_ERRORS
from nnunet_meep.nnunet_files.identity import members_identity
from nnunet_meep.nnunet_files.paths import refuse_no_file

#: Values per part.
PART = 1 << 18
#: {allowed dtype: how far from 1 a voxel's sum of probabilities over the classes may be}.
SUM_TOLERANCE = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-3}

#: By how much a probability may lie outside [0, 1] (rounding); it is then clipped.
RANGE_TOLERANCE = 1e-3

#: Shape, Fortran order and dtype.
_Header: TypeAlias = tuple[tuple[int, ...], bool, np.dtype[Any]]
_MAX_HEADER = 1 << 16  # bytes of an npy header; nnU-Net's have 128
_READ = 1 << 18  # compressed bytes read at a time
_PARTS_AHEAD = 8  # how many parts may be read before the first is released
# zlib's fastest level: 0.35 s for 21 MB instead of 1.0 s with numpy's level; files are 4 % larger.
_COMPRESSION = 1


@dataclass(frozen=True)
class Part:
    """Some voxels of one channel.

    Attributes:
        channel: index of the channel.
        index: index of the part within its channel.
        left: how many parts of the channel come after this one.
        start, stop: range of the voxels, counted in the order of the file.
        p: their probabilities, float32 or float64, (stop - start,), contiguous.
        release: returns the memory for use by another part; ``p`` is invalid afterwards. It must be
            called for every part, and for parts of the same voxels in the order of their channels.
    """

    channel: int
    index: int
    left: int
    start: int
    stop: int
    p: NDArray[np.floating]
    release: Callable[[], None]


class ProbabilityFile:
    """An open npz with one array ``probabilities`` of shape (C, *shape).

    Attributes:
        identity: identity of its content (see :mod:`.identity`); valid only once the file has been
            read to its end without an error.
        comment: comment of the zip archive; see :func:`.calibrated.note`.
    """

    def __init__(
        self, path: Path, member: _Member, header: _Header, identity: str, comment: bytes
    ) -> None:
        self.path, self.identity, self.comment = path, identity, comment
        self.shape: tuple[int, ...] = header[0]
        self.fortran_order: bool = header[1] and len(self.shape) > 1
        self.dtype = header[2]
        self._member = member

    @property
    def order(self) -> Literal["C", "F"]:
        """Memory order of the voxels of a channel: "C" or "F", as in numpy."""
        return "F" if self.fortran_order else "C"

    def parts(self) -> Iterator[Part]:
        """The whole array in parts, each channel from its first voxel to its last.

        Raises:
            InputError: the file is truncated or damaged.
        """
        n_channels, n_voxels = self.shape[0], math.prod(self.shape[1:])
        # In C order one channel follows the other. In Fortran order all channels of a voxel are
        # next to each other, and the first axis of the voxels varies fastest.
        width = n_channels if self.fortran_order else 1
        step = max(PART // width, PART // 16, 1)
        starts = range(0, n_voxels, step)
        # Limits how far reading runs ahead.
        free: queue.SimpleQueue[NDArray[np.floating]] = queue.SimpleQueue()
        for _ in range(_PARTS_AHEAD):
            free.put(np.empty(step * width, self.dtype))
        for first in range(0, n_channels, width):
            for index, start in enumerate(starts):
                stop, left = min(start + step, n_voxels), len(starts) - 1 - index
                memory = free.get()
                values = memory[: (stop - start) * width]
                self._fill(values)
                for channel in range(first, first + width):
                    p = values[channel - first :: width]
                    if width > 1 or p.dtype not in (np.float32, np.float64):
                        p = p.astype(np.float64 if p.dtype.itemsize == 8 else np.float32)
                    is_last = channel == first + width - 1
                    release = partial(free.put, memory) if is_last else _nothing
                    yield Part(channel, index, left, start, stop, p, release)
        try:
            self._member.finish()
        except ValueError as error:
            raise _unreadable(self.path, error) from None

    def _fill(self, values: NDArray[np.floating]) -> None:
        try:
            self._member.fill(values.data.cast("B"))
        except (ValueError, *GUNZIP_ERRORS) as error:
            raise _unreadable(self.path, error) from None


def _nothing() -> None:
    """The ``release`` of a part whose memory is not to be reused, or that another part releases."""


class ProbabilityArray:
    """Probabilities in memory, with the interface of :class:`ProbabilityFile`.

    Args:
        probabilities: (K, *shape), float16, float32 or float64.
    """

    path = "probabilities"
    fortran_order = False
    order: Literal["C"] = "C"

    def __init__(self, probabilities: NDArray[np.floating]) -> None:
        self.shape, self.dtype = probabilities.shape, probabilities.dtype
        exact = np.float64 if self.dtype.itemsize == 8 else np.float32
        self._flat = np.ascontiguousarray(probabilities, exact).reshape(len(probabilities), -1)

    def parts(self) -> Iterator[Part]:
        """The whole array in parts, each channel from its first voxel to its last."""
        n_voxels = self._flat.shape[1]
        starts = range(0, n_voxels, PART)
        for channel, values in enumerate(self._flat):
            for index, start in enumerate(starts):
                stop = min(start + PART, n_voxels)
                p = values[start:stop]
                yield Part(channel, index, len(starts) - 1 - index, start, stop, p, _nothing)


@contextmanager
def open_probabilities(path: Path) -> Iterator[ProbabilityFile]:
    """Open an npz as nnU-Net writes it. Nothing is ever unpickled.

    Raises:
        InputError: the file is not an npz, has other arrays, or a dtype that is not in
            :data:`SUM_TOLERANCE`.
    """
    refuse_no_file(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                members, comment = archive.infolist(), archive.comment
                directory = archive.start_dir
            names = [m.filename.removesuffix(".npy") for m in members]
            if names != ["probabilities"]:
                raise InputError(
                    f'{path}: expected one array "probabilities" as nnU-Net writes it, found '
                    f"{names}"
                )
            member = _Member(file, members[0], directory)
            header = _npy_header(member)
            shape, _, dtype = header
            if dtype.name not in SUM_TOLERANCE:
                raise InputError(f"{path}: expected float16, 32 or 64 probabilities, got {dtype}")
            expected = math.prod(shape) * dtype.itemsize
            if member.left != expected:
                raise ValueError(f"{member.left} bytes where {expected} are needed for {shape}")
        except (
            zipfile.BadZipFile,
            NotImplementedError,  # zipfile, for a feature that it does not support
            ValueError,
            struct.error,
            *GUNZIP_ERRORS,
        ) as error:
            raise _unreadable(path, error) from None
        yield ProbabilityFile(path, member, header, members_identity(members), comment)


class _Member:
    """Reads one member of a zip archive, whose directory follows it, from beginning to end."""

    def __init__(self, file: BinaryIO, info: zipfile.ZipInfo, directory: int) -> None:
        if info.flag_bits & 1:
            raise ValueError("it is encrypted")
        file.seek(info.header_offset)
        # The extra field in the local header may differ in length from the directory's.
        signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
        name = file.read(name_length)
        if signature != b"PK\x03\x04" or name != info.orig_filename.encode():
            raise ValueError("its directory leads to something else than the array")
        # As zipfile refuses it, too, from 3.11.8 and 3.12.2 on.
        if file.seek(extra_length, 1) + info.compress_size > directory:
            raise ValueError("its array overlaps its directory")
        self.left = info.file_size
        self._file = file
        self._compressed_left = info.compress_size
        self._expected_crc = info.CRC
        self._crc = 0
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        self._inflate = isal_zlib.decompressobj(-15) if deflated else None
        if not deflated and info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("it is compressed otherwise than by deflate")

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes of the npy header, whose length may be a lie."""
        if size > _MAX_HEADER:
            raise ValueError(f"its npy header has {size} bytes")
        result = bytearray(size)
        self.fill(memoryview(result))
        return bytes(result)

    def fill(self, target: memoryview) -> None:
        """Read the next ``len(target)`` bytes into ``target``."""
        done = 0
        while done < len(target):
            piece = self._next(len(target) - done)
            target[done : done + len(piece)] = piece
            done += len(piece)
        self._crc = isal_zlib.crc32(target, self._crc)
        self.left -= len(target)

    def finish(self) -> None:
        """Verify the checksum; to be called after the last byte."""
        if self._crc != self._expected_crc:
            raise ValueError("its checksum is wrong: the file is damaged")

    def _next(self, at_most: int) -> bytes:
        if self._inflate is None:
            piece = data = self._take(at_most)
        else:
            data = self._inflate.unconsumed_tail or self._take(_READ)
            piece = self._inflate.decompress(data, at_most)
        if not piece and (not data or self._inflate is None or self._inflate.eof):
            raise EOFError("it ends too early")
        return piece

    def _take(self, at_most: int) -> bytes:
        data = self._file.read(min(at_most, self._compressed_left))
        self._compressed_left -= len(data)
        return data


def _npy_header(member: _Member) -> _Header:
    """What is said of the array; raises ``ValueError`` as do zip and deflate."""
    version = np.lib.format.read_magic(member)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    try:
        shape, fortran_order, dtype = read(member)  # type: ignore[arg-type]
    except (MemoryError, RecursionError, TypeError, tokenize.TokenError):
        # numpy evaluates the header as a Python expression, and lets through what that raises.
        raise ValueError("its npy header is damaged") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if any(type(n) is not int or n < 0 for n in shape):  # numpy takes -1 and True, too
        raise ValueError(f"its npy header has the shape {shape}")
    return shape, fortran_order, dtype


def refuse_shape(
    path: Path | str, shape: tuple[int, ...], expected: tuple[int, ...], axes: str = "the image"
) -> None:
    """Refuse an array that is not classes or regions times the voxels of an image.

    Args:
        path: named in the error.
        shape: of the array.
        expected: (C, *shape of the image).
        axes: names the image whose axes are expected.

    Raises:
        InputError: the shape is another one, or without voxels.
    """
    if shape != expected or len(expected) < 2:
        raise InputError(
            f"{path}: expected probabilities of shape {expected} (classes or regions of "
            f"dataset.json, then the axes of {axes}), got {shape}"
        )
    if not math.prod(expected):
        raise InputError(f"{path}: expected voxels, got an empty array of shape {expected}")


def refuse_values(path: Path | str, n_not_finite: int, low: float, high: float) -> None:
    """Refuse values that cannot be probabilities.

    Args:
        path: named in the error.
        n_not_finite: number of values that are NaN or infinite.
        low, high: lowest and highest of the other values.

    Raises:
        InputError: a value is not finite, or outside [0, 1] by more than the tolerance.
    """
    if n_not_finite:
        raise InputError(
            f"{path}: expected probabilities, found {n_not_finite} values NaN or infinite"
        )
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise InputError(f"{path}: expected probabilities in [0, 1], got {low:g} to {high:g}")


def refuse_sums(path: Path | str, worst: float, dtype: np.dtype) -> None:
    """Refuse probabilities that do not sum to 1 over the classes.

    Args:
        path: named in the error.
        worst: largest difference from 1 of a voxel's sum over the classes.
        dtype: dtype of the file, which determines the tolerance.

    Raises:
        InputError: ``worst`` is larger than the tolerance.
    """
    tolerance = SUM_TOLERANCE[dtype.name]
    if worst > tolerance:
        raise InputError(
            f"{path}: expected probabilities that sum to 1 over the classes within "
            f"{tolerance:g}, found a voxel that misses it by {worst:.3g}"
        )


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: expected an npz file with probabilities, could not read it: {error}"
    )


def read_channels(
    path: Path, expected: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The channels one after the other: index, and probabilities (*shape) clipped to [0, 1].

    An array may be overwritten as soon as the next channel is requested.

    Raises:
        InputError: the file cannot be read, or its shape is not ``expected``.
    """
    with open_probabilities(path) as file:
        refuse_shape(path, file.shape, expected)
        n_voxels = math.prod(expected[1:])
        # In Fortran order the channels are interleaved and have to be read together.
        together = expected[0] if file.fortran_order else 1
        arrays = np.empty((together, n_voxels), np.float32)
        for part in file.parts():
            row = arrays[part.channel % together]
            np.clip(part.p, 0, 1, out=row[part.start : part.stop], casting="same_kind")
            is_last = part.stop == n_voxels
            channel = part.channel
            part.release()
            if is_last:
                yield channel, row.reshape(expected[1:], order=file.order)


def write_probabilities(path: Path, probabilities: NDArray[np.float32], comment: bytes) -> None:
    """Write an npz like ``numpy.savez_compressed``, but faster and with a comment.

    Args:
        path: the new file.
        probabilities: (K, *shape), classes or regions first, as nnU-Net saves them.
        comment: comment of the zip archive; see :func:`.calibrated.note`.

    Raises:
        OSError: the file cannot be written.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
        archive.comment = comment
        with archive.open("probabilities.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, probabilities, allow_pickle=False)
