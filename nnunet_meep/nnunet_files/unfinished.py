"""Find what nnU-Net was writing when it was killed: it writes under the final name."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

_CHUNK = 1 << 20


def remove_unfinished(folder: Path, ending: str) -> None:
    """Delete the predicted cases that were not written to the end, so that they are made again.

    nnU-Net takes a case for predicted if its files exist. It writes one case after the other, the
    segmentation last.

    Args:
        folder: of the predictions, with probabilities.
        ending: of the segmentations; those other than ``.gz`` have no checksum, so that the newest
            one counts as not written to the end.
    """
    cases = {path: path.with_name(f"{path.stem}{ending}") for path in folder.glob("*.npz")}
    written = {s: s.stat().st_mtime_ns for s in cases.values() if s.is_file()}
    newest = max(written.values(), default=0)
    for path, segmentation in cases.items():
        if ending.endswith(".gz"):
            is_whole = _is_whole_gzip(segmentation)
        else:
            is_whole = written.get(segmentation, newest) < newest
        if not (is_whole and is_whole_zip(path)):
            for part in (path, segmentation):
                part.unlink(missing_ok=True)


def is_whole_zip(path: Path) -> bool:
    """Whether a file is a zip archive to its end: probabilities, or a checkpoint of torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError):
        return False


def _is_whole_gzip(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
        return path.stat().st_size > 0  # nothing would be a whole file without members
    except (OSError, EOFError, zlib.error):
        return False
