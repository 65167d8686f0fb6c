"""Every value of an npz in its order, whatever it is written as, and a word about every damage."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files import probabilities as stream
from nnunet_meep.nnunet_files.probabilities import open_probabilities

SHAPE = (3, 4, 5, 6)
WRITERS = {"stored": np.savez, "deflated": np.savez_compressed}


def random_p(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).random(shape).astype(dtype)


def read_all(path: Path) -> np.ndarray:
    """The array of a file, put together from its parts; each value must come exactly once."""
    with open_probabilities(path) as file:
        result = np.full((file.shape[0], int(np.prod(file.shape[1:]))), np.nan)
        for part in file.parts():
            assert part.p.flags.c_contiguous
            assert part.p.dtype in (np.float32, np.float64)
            target = result[part.channel, part.start : part.stop]
            assert np.isnan(target).all()
            target[:] = part.p
            part.release()
        return np.stack([c.reshape(file.shape[1:], order=file.order) for c in result])


def refusal(path: Path) -> str:
    """The one line with which a file is refused, be it at its start or at its end."""
    with pytest.raises(InputError) as error:
        read_all(path)
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def outcome(path: Path, expected: np.ndarray) -> str:
    """What comes of reading a file that may be damaged."""
    try:
        result = read_all(path)
    except InputError as error:
        whole = "\n" not in str(error) and str(path) in str(error)
        return "refused" if whole else f"not one line that names the file: {error}"
    except Exception as error:
        return repr(error)
    return "right" if np.array_equal(result, expected) else "wrong values"


@pytest.fixture(params=[7, 1, 10**6], ids=["parts of 7", "parts of 1", "one part"])
def _part_size(request, monkeypatch) -> None:
    monkeypatch.setattr(stream, "PART", request.param)


@pytest.mark.usefixtures("_part_size")
class TestEveryValueComesInItsPlace:
    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_of_any_float_and_order(self, tmp_path, write, dtype, order) -> None:
        write(tmp_path / "a.npz", probabilities=np.asarray(random_p(dtype=dtype), order=order))
        with np.load(tmp_path / "a.npz") as archive:
            expected = archive["probabilities"]
            assert expected.flags.c_contiguous is (order == "C")
            assert expected.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read_all(tmp_path / "a.npz"), expected, strict=False)

    @pytest.mark.parametrize("shape", [(1, 4, 5, 6), (1, 1, 7, 3), (9, 2, 3, 2), (2, 1, 1, 1)])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_of_one_region_and_of_many_classes(self, tmp_path, shape, transposed) -> None:
        p = random_p(shape)
        if transposed:  # of the axes behind the channels, as after a reader with other axes
            p = np.asfortranarray(p)
        np.savez(tmp_path / "a.npz", probabilities=p)
        np.testing.assert_array_equal(read_all(tmp_path / "a.npz"), p)

    def test_of_a_transposed_array(self, tmp_path) -> None:
        p = random_p((6, 5, 4, 3)).T
        np.savez_compressed(tmp_path / "a.npz", probabilities=p)
        np.testing.assert_array_equal(read_all(tmp_path / "a.npz"), p)


@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_of_a_channel_are_counted_up_and_down(tmp_path, monkeypatch, order) -> None:
    monkeypatch.setattr(stream, "PART", 7)
    np.savez(tmp_path / "a.npz", probabilities=np.asarray(random_p(), order=order))
    step = 7 if order == "C" else 2  # 7 values of 3 channels that lie side by side
    stops, n = {}, -(-120 // step)
    with open_probabilities(tmp_path / "a.npz") as file:
        for part in file.parts():
            assert part.start == stops.get(part.channel, 0) == part.index * step
            assert part.left == n - 1 - part.index
            stops[part.channel] = part.stop
            part.release()
    assert stops == {0: 120, 1: 120, 2: 120}


def test_a_newer_npy_header_is_read(tmp_path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array(member, random_p(), version=(2, 0))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("probabilities.npy", member.getvalue())
    np.testing.assert_array_equal(read_all(tmp_path / "a.npz"), random_p())


def test_more_than_four_gigabytes(tmp_path) -> None:
    shape = (2, 1200, 1000, 500)
    header, name = io.BytesIO(), b"probabilities.npy"
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    first = random_p((1000,))
    size = len(header.getvalue()) + 4 * int(np.prod(shape))
    assert size > 1 << 32
    sizes = struct.pack("<HHQQ", 1, 16, size, size)  # zip64's extra field
    unknown = (0xFFFFFFFF, 0xFFFFFFFF)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, *unknown, len(name), len(sizes))
    directory = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, *unknown, len(name), len(sizes), *[0] * 5
    )
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        file.write(local + name + sizes + header.getvalue() + first.tobytes())
        start = len(local + name + sizes) + size
        file.seek(start)  # what is jumped over takes no room
        file.write(directory + name + sizes)
        length, end = file.tell() - start, file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, length, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, length, 0xFFFFFFFF, 0))
    if os.stat(path).st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no files with holes")
    with open_probabilities(path) as opened:
        assert opened.shape == shape
        parts = opened.parts()
        part = next(parts)
        parts.close()
    assert (part.channel, part.start) == (0, 0)
    np.testing.assert_array_equal(part.p[:1000], first)
    assert not part.p[1000:].any()


def patch(path: Path, offset: int, value: bytes) -> None:
    """Change bytes of the only entry of an archive's directory."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2") + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
class TestDamagedFiles:
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path, write) -> None:
        self.path = tmp_path / "a.npz"
        write(self.path, probabilities=random_p())

    @pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, 0.99])
    def test_cut_short(self, share) -> None:
        content = self.path.read_bytes()
        self.path.write_bytes(content[: int(share * len(content))])
        refusal(self.path)

    def test_last_byte_missing(self) -> None:
        self.path.write_bytes(self.path.read_bytes()[:-1])
        refusal(self.path)

    @pytest.mark.parametrize("n_bytes", [0, 1, 60, 700])
    def test_data_that_end_before_their_length(self, n_bytes) -> None:
        patch(self.path, 20, struct.pack("<L", n_bytes))
        refusal(self.path)

    def test_a_hole_in_the_data(self) -> None:
        content = self.path.read_bytes()
        self.path.write_bytes(content[:300] + content[400:])
        refusal(self.path)

    def test_wrong_checksum(self) -> None:
        patch(self.path, 16, b"\1\2\3\4")
        assert "checksum" in refusal(self.path)

    @pytest.mark.parametrize("at", [0, 3, 30, 38])
    def test_a_header_that_is_not_that_of_the_directory(self, at) -> None:
        """Readers differ in what they look at; numpy refuses these, too."""
        content = bytearray(self.path.read_bytes())
        content[at] ^= 0x10
        self.path.write_bytes(content)
        assert "its directory leads to something else" in refusal(self.path)

    def test_an_array_that_reaches_into_its_directory(self) -> None:
        """All data are there, and Python 3.11.7 reads them; 3.11.8 takes it for a zip bomb."""
        (info,) = zipfile.ZipFile(self.path).infolist()
        patch(self.path, 20, struct.pack("<L", info.compress_size + 1))
        assert "its array overlaps its directory" in refusal(self.path)

    def test_encrypted(self) -> None:
        patch(self.path, 8, b"\1\0")
        assert "encrypted" in refusal(self.path)

    def test_other_length_than_the_shape_has(self) -> None:
        patch(self.path, 24, struct.pack("<L", 1000))
        refusal(self.path)

    def test_data_of_one_byte_less(self) -> None:
        patch(self.path, 20, struct.pack("<L", os.stat(self.path).st_size // 2))
        refusal(self.path)

    @pytest.mark.parametrize("flip", [0xFF, 0x01, 0x20])
    def test_any_flipped_byte_is_found_or_harmless(self, write, flip) -> None:
        p = random_p((2, 1, 2, 3))
        write(self.path, probabilities=p)
        content = self.path.read_bytes()
        outcomes = []
        for i in range(len(content)):
            damaged = bytearray(content)
            damaged[i] ^= flip
            self.path.write_bytes(damaged)
            outcomes.append(outcome(self.path, p))
        assert set(outcomes) == {"refused", "right"}
        assert outcomes.count("refused") > len(content) / 4

    @pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
    def test_a_flipped_bit_of_a_value(self, at) -> None:
        content = bytearray(self.path.read_bytes())
        end = content.rindex(b"PK\1\2")
        content[int(at * end)] ^= 1
        self.path.write_bytes(content)
        refusal(self.path)


def test_a_damaged_npy_header_is_said(tmp_path) -> None:
    """The header is read before the checksum is known."""
    member, rng = io.BytesIO(), np.random.default_rng(0)
    np.lib.format.write_array(member, random_p())
    outcomes = set()
    for _ in range(100):
        content = bytearray(member.getvalue())
        for i in rng.integers(10, 90, 3):
            content[i] = rng.choice(list(b"({['\"),:\\\n\0x9"))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("probabilities.npy", bytes(content))  # with a checksum of its own
        outcomes.add(outcome(tmp_path / "a.npz", random_p()))
    assert outcomes <= {"refused", "right"}


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("-" * 9_000, "its npy header is damaged"),  # more than Python's parser takes
        ("{[]}", "its npy header is damaged"),
        ("(" * 400, "its npy header is damaged"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4, -5, 6)}", "(3, -4, -5, 6)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4, 5, 6, True)}", ", 6, True)"),
    ],
)
def test_a_header_that_numpy_falls_over_or_lets_through(tmp_path, header, problem) -> None:
    array = header.encode() + b"\n"
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(array)) + array + random_p().tobytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("probabilities.npy", array)
    assert problem in refusal(tmp_path / "a.npz")


def test_a_header_that_says_it_fills_the_memory(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("probabilities.npy", b"\x93NUMPY\2\0" + struct.pack("<L", 2**32 - 1))
    assert "its npy header has 4294967295 bytes" in refusal(tmp_path / "a.npz")


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_objects_are_never_unpickled(tmp_path, write) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    write(path, probabilities=np.array([Trap(trace)], dtype=object))
    assert "pickled" in refusal(path)
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as archive:  # it would have worked
        _ = archive["probabilities"]
    assert trace.exists()


def test_a_structure_with_objects_is_never_unpickled(tmp_path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    np.savez(path, probabilities=np.array([(1.0, Trap(trace))], dtype="f4,O"))
    refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"softmax": random_p()},
        {"probabilities": random_p(), "more": random_p()},
        {"more": random_p(), "probabilities": random_p()},
        {},
    ],
    ids=["another name", "one more", "one more before", "none"],
)
def test_other_arrays(tmp_path, arrays) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert str(list(arrays)) in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["int16", "uint8", "bool", "complex64", "S4"])
def test_numbers_that_are_no_probabilities(tmp_path, dtype) -> None:
    np.savez(tmp_path / "a.npz", probabilities=np.zeros(SHAPE, dtype))
    assert str(np.dtype(dtype)) in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(tmp_path, method) -> None:
    member = io.BytesIO()
    np.lib.format.write_array(member, random_p())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("probabilities.npy", member.getvalue())
    assert "deflate" in refusal(tmp_path / "a.npz")


def test_an_npy_under_the_name_of_an_npz(tmp_path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, random_p())
    refusal(tmp_path / "a.npz")


def test_something_else_under_the_name_of_the_array(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("probabilities.npy", "no array at all")
    refusal(tmp_path / "a.npz")


def test_a_folder_under_the_name_of_an_npz(tmp_path) -> None:
    (tmp_path / "a.npz").mkdir()
    refusal(tmp_path / "a.npz")


def test_a_file_that_is_not_there(tmp_path) -> None:
    refusal(tmp_path / "a.npz")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", probabilities=random_p())
    (tmp_path / "a.npz").chmod(0)
    refusal(tmp_path / "a.npz")


def test_no_permission_is_said_in_the_words_of_the_system(tmp_path, monkeypatch) -> None:
    def no_entry(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", no_entry)
    assert "Permission denied" in refusal(tmp_path / "a.npz")
