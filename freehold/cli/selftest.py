"""``audit selftest``: try the backdoor detectors on models whose backdoors are known."""

from __future__ import annotations

import importlib.util
import json as encoder
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.output import Bar, emit, say, write_new
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.audit.bed.running import Bed, Result


def selftest(
    full: Annotated[
        bool, typer.Option("--full", help="All 178 models, for the table in the docs.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(help="The folder for results. A run that was interrupted goes on there."),
    ] = None,
    freeze: Annotated[
        Path | None,
        typer.Option(help="Write the rule and its error rates to this new file (with --full)."),
    ] = None,
    draw: Annotated[
        int,
        typer.Option(
            min=0,
            help="Another number plants other backdoors, in other models, by the same recipes.",
        ),
    ] = 0,
    shipped: Annotated[
        bool,
        typer.Option(
            "--shipped-rule", help="Judge by the rule that is shipped, and choose no thresholds."
        ),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads for the arithmetic.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plant backdoors in small models and count how many are found.

    Trains models with and without backdoors, chooses thresholds on the development recipes, and
    prints true and false positive rates on the held-out ones. Needs the extra `lab`. Quick: about
    three minutes of a core; with --full about thirty. The shipped rule comes from --draw 0: with
    --shipped-rule, only another draw tells how good it is.
    """
    if freeze is not None and not full:
        raise UsageError("a rule is frozen on all models only: add --full", param="freeze")
    bed, results = _run(full, draw, keep, threads, quiet=json)
    from freehold.audit.backdoors.examination import frozen
    from freehold.audit.bed import tables

    table = tables.tabulate(results, frozen()[0] if shipped else None)
    if freeze is not None:
        from freehold.audit.bed import freezing

        words = [freezing.COMMAND]
        words += [f"--draw {draw}"] if draw else []
        words += ["--shipped-rule"] if shipped else []
        rule = freezing.document(table, " ".join(words))
        write_new(freeze, (encoder.dumps(rule, indent=2) + "\n").encode())
    found = {"models": len(results), "bed": asdict(bed), **asdict(table)}
    emit(found, tables.lines(table), as_json=json)


def _run(
    full: bool, draw: int, keep: Path | None, threads: int, *, quiet: bool
) -> tuple[Bed, list[Result]]:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "the self-test trains models, which needs PyTorch: install the extra with "
            "`pip install 'freehold[lab]'`",
            param="lab",
        )
    from freehold.audit.bed import running
    from freehold.cli.places import root

    bed = replace(running.FULL if full else running.QUICK, draw=draw)
    folder = keep or root() / "selftest" / ("full" if full else "quick")
    if not quiet:
        minutes = math.ceil(running.cost(bed) / 60)
        say(f"{len(bed.recipes())} models, about {minutes} minutes of one core; kept in {folder}")
    with Bar(quiet=quiet, of_bytes=False) as bar:
        return bed, running.run(bed, folder, bar, threads=threads)
