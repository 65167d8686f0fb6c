"""Where a benchmark keeps what it makes, and where nnU-Net keeps its part."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import not_set

#: nnU-Net's folders, by their environment variable: the placeholder in commands and paths.
NNUNET = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


@dataclass(frozen=True)
class Folders:
    """The folders behind the placeholders in commands: ``{work}/predictions/...``.

    A record holds the placeholders, so that a benchmark can be moved with its folders.

    Attributes:
        work: predictions, calibrators, evaluations, records, logs and the report.
        raw: ``nnUNet_raw``.
        preprocessed: ``nnUNet_preprocessed``.
        results: ``nnUNet_results``.
        given: the user's own ``nnUNet_raw`` if ``raw`` is another one, which may link to it.
        given_preprocessed: the user's own ``nnUNet_preprocessed`` if it is another one; only their
            folds are taken from it.
    """

    work: Path
    raw: Path
    preprocessed: Path
    results: Path
    given: Path | None = None
    given_preprocessed: Path | None = None

    @classmethod
    def of(cls, plan: Path, work: Path | None) -> Folders:
        """Everything inside ``work``; None: nnU-Net's folders, and the rest beside the plan.

        Raises:
            InputError: ``work`` is a file; or it is None, and nnU-Net's folders are not set, or
                there would be no folder beside the plan.
        """
        given, prepared = map(os.environ.get, ("nnUNet_raw", "nnUNet_preprocessed"))
        if work is not None and work.exists() and not work.is_dir():
            raise InputError(f"{work}: expected a folder to work in, found a file (--work)")
        if work is not None:
            work = Path(os.path.abspath(work))
            places = {name: work / variable for variable, name in NNUNET.items()}
            return cls(
                work=work,
                given=Path(given).absolute() if given else None,
                given_preprocessed=Path(prepared).absolute() if prepared else None,
                **places,
            )
        missing = [variable for variable in NNUNET if not os.environ.get(variable)]
        if missing:
            raise InputError(f"{not_set(missing[0])}; or give a folder for everything with --work")
        if not plan.suffix:
            raise InputError(
                f"{plan}: expected a name that ends with .toml, because the folder without it is "
                f"for the results; or give a folder for everything with --work"
            )
        places = {name: Path(os.environ[var]).absolute() for var, name in NNUNET.items()}
        return cls(work=Path(os.path.abspath(plan.with_suffix(""))), **places)

    def environment(self) -> dict[str, str]:
        """nnU-Net's environment variables for these folders."""
        return {variable: str(getattr(self, name)) for variable, name in NNUNET.items()}

    def exports(self) -> list[str]:
        """The shell's lines that set them, for commands that are copied; none if all are set."""
        return [
            f"export {variable}={shlex.quote(folder)}"
            for variable, folder in self.environment().items()
            if os.environ.get(variable) != folder
        ]

    def fill(self, text: str) -> str:
        """A text with its placeholders replaced by these folders."""
        for name in ("work", *NNUNET.values()):
            text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text

    def place(self, text: str) -> str:
        """The inverse of :meth:`fill`: a path with a placeholder for the folder it lies in."""
        # The longest first: one may lie in another.
        places = {name: str(getattr(self, name)) for name in ("work", *NNUNET.values())}
        for name, folder in sorted(places.items(), key=lambda item: -len(item[1])):
            if text == folder or text.startswith(folder + os.sep):
                return f"{{{name}}}" + text[len(folder) :]
        return text

    def path(self, text: str) -> Path:
        return Path(self.fill(text))
