"""Check what a wheel and an sdist hold: ``python .ci/check_package.py dist``.

The wheel has the package and, in its root, where Python reads it, the .pth that registers the
trainers; the sdist has what is needed to build it and its tests and pages. In neither are
benchmarks, caches or large files.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000  # bytes of a file
PTH = "nnunet_meep_trainers.pth"
#: In the root of the sdist. hatchling adds what it reads itself.
FILES = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO", PTH}
FOLDERS = {"nnunet_meep", "tests", "docs"}
LEFT_OUT = {"benchmarks", "__pycache__", "site"}


def main(dist: Path) -> str:
    """What is wrong, a line for each; empty if nothing is."""
    wheels, sdists = sorted(dist.glob("*.whl")), sorted(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return f"{dist}: expected a wheel and an sdist, found {len(wheels)} and {len(sdists)}"
    source = (ROOT / "nnunet_meep" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.M)[1]
    with zipfile.ZipFile(wheels[0]) as archive:
        in_wheel = {info.filename: info.file_size for info in archive.infolist()}
    with tarfile.open(sdists[0]) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        in_sdist = {str(PurePosixPath(*Path(m.name).parts[1:])): m.size for m in members}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nnunet_meep").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    beside = {name for name in in_wheel if ".dist-info/" not in name}
    found = [
        *(f"wheel: {name} is missing" for name in sorted({*package, PTH} - beside)),
        *(f"wheel: {name} does not belong there" for name in sorted(beside - package - {PTH})),
        *(f"sdist: {name} is missing" for name in sorted((FILES | package) - set(in_sdist))),
    ]
    for name in sorted(in_sdist):
        first, *others = PurePosixPath(name).parts
        if first not in (FOLDERS if others else FILES | {".gitignore"}) or LEFT_OUT & {*others}:
            found.append(f"sdist: {name} does not belong there")
    for kind, files in (("wheel", in_wheel), ("sdist", in_sdist)):
        found += [f"{kind}: {n} has {size} bytes" for n, size in files.items() if size > LARGEST]
    for path in (wheels[0], sdists[0]):
        if not path.name.startswith(f"nnunet_meep-{version}"):
            found.append(f"{path.name}: expected version {version}")
    return "\n".join(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) or 0)
