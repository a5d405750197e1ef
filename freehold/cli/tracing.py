"""``data index`` and ``data trace``: which documents of a corpus say what a model said."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from freehold.cli.foundry import Corpus, Json, corpus_folder
from freehold.cli.output import Bar, emit
from freehold.errors import StorageError


def index(corpus: Corpus, json: Json = False) -> None:
    """Make the index by which texts are traced: it takes five times the corpus's size on the disk,
    and as much memory for a quarter of a gigabyte at a time."""
    from freehold.train import tracing
    from freehold.train.data import build as corpora

    folder = corpus_folder(corpus)
    manifest = corpora.load(folder)
    done = 0
    with Bar(quiet=json) as bar:
        bar.start((folder / corpora.DOCUMENTS).stat().st_size, "Sorting suffixes")

        def work(what: str, at: int, total: int) -> None:
            nonlocal done
            bar.advance(at - done)
            done = at

        facts = tracing.build(folder, manifest["digest"], work=work)
    emit(facts, [f"texts can be traced: freehold data trace {corpus} 'some words'"], as_json=json)


def trace(
    corpus: Corpus,
    text: Annotated[str, typer.Argument(help="What to look for; without it, standard input.")] = "",
    file: Annotated[Path | None, typer.Option(help="Look for what this file says.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="The text as it is, however short, not its parts.")
    ] = False,
    least: Annotated[int, typer.Option(min=1, help="Characters of a part, at least.")] = 32,
    most: Annotated[int, typer.Option(min=1, max=1000, help="Places to show of each.")] = 10,
    json: Json = False,
) -> None:
    """Find the longest parts of a text that stand in a corpus, word for word, and where.

    Needs the index that `freehold data index` makes.
    """
    from freehold.train import tracing
    from freehold.train.data import build as corpora

    said = text or _read(file)
    folder = corpus_folder(corpus)
    with tracing.Index(folder, corpora.load(folder, check=False)["digest"]) as held:
        if whole:
            one = held.find(said, most=most)
            found = [one] if one.count else []
        else:
            found = held.trace(said, least=least, most=most)
    lines = list(tracing.told(found, said)) or ["nothing of it stands in the corpus"]
    emit([asdict(one) for one in found], lines, as_json=json)


def _read(file: Path | None) -> str:
    try:
        return sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file or 'standard input'} cannot be read: {error}") from error
