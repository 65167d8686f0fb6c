"""Code blocks of README, ``docs/`` and ``benchmarks/``: Python runs, commands are parsed."""

from __future__ import annotations

import argparse
import doctest
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import evaluation
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from predictions import example_folders, softmax_case

from nnunet_meep.benchmark.results import TrainingResult, write_result
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.losses import focal_loss
from nnunet_meep.trainers import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "site" not in p.relative_to(ROOT).parts),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language, also those inside of lists."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def with_blocks(language: str) -> Any:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the blocks read, in the places that they name."""
    root = example_folders(tmp_path_factory.mktemp("examples"))
    for name in ("outbox", "new_predictions"):
        (root / name).symlink_to(root / "predictions")
    for name, target in (("nnUNetTrainer", "predictions"), ("nnUNetTrainerMEEP_KL", "predictions")):
        (root / "predictions" / name).symlink_to(root / target)
    of_cases = evaluation(("t0", "t1", "t2"), 2.0)
    result = TrainingResult("hip", "nnUNetTrainerDiceCE", 0, 0, {"test": of_cases})
    places = {name: root / name for name in ("work", "raw", "preprocessed", "results")}
    write_result(result, root / "plan" / "report" / "results", Folders(**places))
    for trainer in ("nnUNetTrainer", "nnUNetTrainerMEEP_KL_lambdaauto"):
        fold = f"Dataset004_Hippocampus/{trainer}__nnUNetPlans__3d_fullres/fold_0"
        save_checkpoint(root / "nnUNet_results" / fold)
    return root


def save_checkpoint(fold: Path) -> None:
    """A checkpoint with the log of two epochs."""
    fold.mkdir(parents=True)
    log = LocalLogger().my_fantastic_logging
    content = {
        "network_weights": {"weight": torch.ones(2)},
        "logging": {key: [1.0, 0.5] for key in log},
        "init_args": {},
        "trainer_name": fold.parent.name.partition("__")[0],
    }
    torch.save(content, fold / "checkpoint_final.pth")


def names() -> dict[str, Any]:
    """What blocks of Python use that is the reader's own."""
    rng = np.random.default_rng(0)
    p, labels = softmax_case(rng, (5, 6, 7))
    # Enough cases for a rate of 10 %, and few wrong voxels.
    validation = [softmax_case(rng, (5, 6, 7))[0] for _ in range(20)]
    of_validation = [np.where(rng.random((5, 6, 7)) < 0.02, 0, v.argmax(0)) for v in validation]
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    return {
        **{"probabilities": p, "labels": labels},
        "validation_probabilities": validation,
        "validation_labels": of_validation,
        **{"logits": logits, "target": torch.randint(0, 3, (2, 1, 4, 5))},
        "my_segmentation_loss": focal_loss,
    }


@pytest.mark.usefixtures("unrendered")
@with_blocks("python")
def test_python_runs(page: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    namespace = names()
    for text in blocks(page, "python"):
        if ">>>" in text:
            example = doctest.DocTestParser().get_doctest(text, namespace, page.stem, None, 0)
            runner = doctest.DocTestRunner()
            runner.run(example, clear_globs=False)
            assert not runner.failures
        else:
            if "import monai" in text or "from monai" in text:
                pytest.importorskip("monai")
            exec(compile(text, str(page), "exec"), namespace)


COMMANDS = {
    script.name: script
    for script in entry_points(group="console_scripts")
    if script.name.startswith(("meep-", "nnUNetv2_"))
}


def command_lines(text: str) -> Iterator[list[str]]:
    """The lines of a block of bash that call one of our commands or nnU-Net's, in words.

    >>> text = "for a in 1 2; do meep-trainers $a; done  # all\\nsbatch --wrap 'meep-trainers x'"
    >>> list(command_lines(text))
    [['meep-trainers', '$a'], ['meep-trainers', 'x']]
    """
    for line in re.sub(r"\$\([^)]*\)", "X", text.replace("\\\n", " ")).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if re.fullmatch(r"[();<>|&]+", word):
                if words and words[0] in COMMANDS:
                    yield words
                words = []
            elif word != "do":
                words.append(word)
                if " " in word and word.split()[0] in COMMANDS:
                    yield word.split()


class _ParsedError(Exception):
    """The arguments of a command are right."""


@with_blocks("bash")
def test_commands_take_their_arguments(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own parsers, up to the point where they would begin."""
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(parser: Any, args: Any = None, namespace: Any = None) -> None:
        parse_args(parser, args, namespace)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    for text in blocks(page, "bash"):
        for words in command_lines(text):
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(_ParsedError):
                COMMANDS[words[0]].load()()
            for flag, value in pairwise(words):
                if flag == "-tr" and "$" not in value:
                    parse(value)  # raises if it is nearly a name of ours


def test_command_lines_are_found() -> None:
    finder = doctest.DocTestFinder().find(command_lines, "command_lines", globs=globals())
    assert [doctest.DocTestRunner().run(example).failed for example in finder] == [0]
    found = [
        words for page in PAGES for text in blocks(page, "bash") for words in command_lines(text)
    ]
    assert len(found) > 30
