"""Damage, drawn at random: to bytes, and to what they mean in a zip, an npy, a NIfTI or a JSON.

Each function takes a ``Draw`` first and returns new content. Damage that a checksum would reveal at
once is also made with a checksum that fits, so that what lies behind it is reached.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
from copy import deepcopy
from random import Random as Draw
from typing import Any

#: Numbers at which readers go wrong.
_EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31)
_EDGES = (*_EDGES, 2**32 - 1, 2**63 - 1, 2**64 - 1)

_ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "0",
        "nan",
        "../../x",
        "a\nb",
        "\ud800",
        "<script>",
        "%s",
        "$\\frac{$",
    ),
    *([], {}, [[]], [None], {"": 0}, {"a": {"a": {}}}, [0] * 50, "x" * 5000),
    *(0, -1, 1, 2, 255, 10**12, 10**30, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf")),
)


def damaged(draw: Draw, data: bytes) -> bytes:
    """One to four edits of bytes that know nothing of the format."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(content) + 1)
        length = draw.choice((1, 2, 4, 8, 16, 64))
        edit = draw.randrange(7)
        if edit == 0:
            del content[at:]
        elif edit == 1:
            del content[at : at + length]
        elif edit == 2:
            content[at:at] = draw.randbytes(length)
        elif edit == 3:
            content[at:at] = content[at : at + length]
        elif edit == 4 and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif edit == 5:
            content += draw.randbytes(length)
        else:
            _overwrite(draw, content, at)
    return bytes(content)


def _overwrite(draw: Draw, content: bytearray, at: int) -> None:
    """A number of 1 to 8 bytes is replaced by one of the edges."""
    length = draw.choice((1, 2, 4, 8))
    number = draw.choice(_EDGES) % 2 ** (8 * length)
    content[at : at + length] = number.to_bytes(length, draw.choice(("little", "big")))


def zip_structure(draw: Draw, data: bytes) -> bytes:
    """A field of a zip's local header, its directory, or the end of its directory."""
    content = bytearray(data)
    directory = data.rfind(b"PK\x01\x02")
    end = data.rfind(b"PK\x05\x06")
    start, length = draw.choice(((0, 30), (directory, 46), (end, 22)))
    _overwrite(draw, content, start + draw.randrange(length))
    return bytes(content)


def deflate_stream(draw: Draw, data: bytes) -> bytes:
    """The compressed bytes of the only member of a zip."""
    name, extra = struct.unpack("<26xHH", data[:30])
    start, stop = 30 + name + extra, data.rfind(b"PK\x01\x02")
    stream = bytearray(data[start:stop])
    _overwrite(draw, stream, draw.randrange(len(stream)))
    return data[:start] + bytes(stream[: stop - start]) + data[stop:]


def npy_header(draw: Draw, data: bytes) -> bytes:
    """What an npy within a zip says of its array, with checksums that fit."""
    npy = zipfile.ZipFile(io.BytesIO(data)).read("probabilities.npy")
    (length,) = struct.unpack("<H", npy[8:10])
    header, values = npy[10 : 10 + length].decode("latin1").rstrip(), npy[10 + length :]
    tokens = re.findall(r"'[^']*'|\w+|.", header)
    for _ in range(draw.choice((1, 1, 2))):
        odd = draw.choice((*_HEADER_WORDS, str(draw.choice(_EDGES)), str(-draw.choice(_EDGES))))
        at = draw.randrange(len(tokens))
        tokens[at : at + draw.randrange(2)] = [odd]
    text = "".join(tokens).encode("latin1")
    version = draw.choice((b"\x01\x00",) * 6 + (b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    width = "<I" if version == b"\x02\x00" else "<H"
    if len(text) > 60_000:
        version, width = b"\x02\x00", "<I"
    text += b"\n"
    return npz(
        {"probabilities.npy": npy[:6] + version + struct.pack(width, len(text)) + text + values}
    )


_HEADER_WORDS = (
    *("'|O'", "'<f2'", "'>f4'", "'<f8'", "'<i4'", "'|b1'", "'<c8'", "'<f16'", "'<M8[D]'", "'|S0'"),
    *(
        "'<f4,<f4'",
        "[('a', '<f4')]",
        "True",
        "False",
        "None",
        "1e9",
        "()",
        "(1,)",
        "{[]}",
        "[",
        "(",
    ),
    *(
        "-" * 9000,
        "(" * 300,
        "'shape'",
        "'descr'",
        "''",
        "\x00",
        "\\",
        "0x10",
        "0b1",
        "1_0",
        "lambda: 0",
    ),
)


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of the given members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def nifti_header(draw: Draw, data: bytes) -> bytes:
    """Fields of the header of a ``.nii.gz``, compressed again."""
    content = bytearray(gzip.decompress(data))
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(352)
        if draw.randrange(3):
            _overwrite(draw, content, at)
        else:
            at -= at % 4
            number = draw.choice(
                (0.0, -1.0, 1.0, 2.0, 0.5, 1e30, 1e-30, float("nan"), float("inf"))
            )
            content[at : at + 4] = struct.pack("<f", number)
    return gzip.compress(bytes(content), 1)


def gzip_trailer(draw: Draw, data: bytes) -> bytes:
    """The checksum, the length, or what follows them."""
    choice = draw.randrange(4)
    if choice == 0:
        return data[:-8] + draw.randbytes(4) + data[-4:]
    if choice == 1:
        return data[:-4] + struct.pack("<I", draw.choice(_EDGES) % 2**32)
    if choice == 2:
        return data + draw.choice((b"\x00" * 8, b"\x1f\x8b", gzip.compress(b"more"), data))
    return data[: -draw.randrange(1, 9)]


def json_value(draw: Draw, data: bytes) -> bytes:
    """A value, a key or a whole branch of a JSON file."""
    tree = json.loads(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        branches = [b for b in _branches(tree) if b]
        if not branches:
            break
        branch = draw.choice(branches)
        key = draw.choice(list(branch) if isinstance(branch, dict) else range(len(branch)))
        edit = draw.randrange(5)
        if edit == 0 and isinstance(branch, dict) and len(branch) > 1:
            del branch[key]
        elif edit == 1 and isinstance(branch, dict):
            branch[draw.choice(("", "0", "-1", "background", "\ud800", "$", "a\nb", "1"))] = branch[
                key
            ]
        elif edit == 2:
            branch[key] = deepcopy(draw.choice(branches))
        else:
            branch[key] = deepcopy(draw.choice(_ODD_VALUES))
    return json.dumps(tree).encode()


def _branches(tree: Any) -> list[Any]:
    if not isinstance(tree, dict | list):
        return []
    values = tree.values() if isinstance(tree, dict) else tree
    return [tree, *(b for value in values for b in _branches(value))]


def json_text(draw: Draw, data: bytes) -> bytes:
    """A JSON file that is odd as a whole."""
    return draw.choice(
        (
            *(b"", b"null", b"[]", b"{}", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 50_000),
            *(b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"\xff" + data, data + data),
            *(
                data.replace(b":", b": 1" + b"0" * 5000 + b" ", 1),
                data.replace(b'"', b"'"),
                data * 2,
            ),
        )
    )


def toml_text(draw: Draw, data: bytes) -> bytes:
    """A word, a number or a line of a TOML file."""
    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    edit = draw.randrange(5)
    if edit == 0:
        del lines[at]
    elif edit == 1:
        lines.insert(draw.randrange(len(lines)), lines[at])
    else:
        tokens = re.findall(r'"[^"]*"|[\w.-]+|\s+|.', lines[at]) or [""]
        odd = draw.choice(
            (
                *(
                    "0",
                    "-1",
                    "1e400",
                    "nan",
                    "true",
                    '""',
                    '"x"',
                    "[]",
                    "{}",
                    "[[]]",
                    "[",
                    '"',
                    "\\",
                ),
                *(
                    "1979-05-27",
                    '"a\\nb"',
                    '"../x"',
                    "99999999999999999999",
                    '"\\ud800"',
                    "{a.b = 1}",
                ),
                *(
                    '"nnUNetTrainer_lambda0p1"',
                    '"$(touch x)"',
                    "''",
                    '"{0p1,0p3}"',
                    '"%s"',
                    "[1, 'a']",
                ),
            )
        )
        tokens[draw.randrange(len(tokens))] = odd
        lines[at] = "".join(tokens)
    return "\n".join(lines).encode()
