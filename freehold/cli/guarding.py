"""``guard``: what the watch post says of a text, and how good it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import Bar, emit, table, write_new
from freehold.errors import NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from freehold.guard.fast import FastTier

app = typer.Typer(
    help="What the watch post says of a text, and how good it is.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Weights = Annotated[
    Path | None, typer.Option(help="Weights that `guard train` wrote. Without: those shipped.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Manifest = Annotated[Path, typer.Argument(help="A MANIFEST.json of data sets.")]


@app.command()
def check(
    text: Annotated[
        str | None, typer.Argument(help="The text. Without one: what comes on standard input.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The score from which a text is flagged.")
    ] = 0.5,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Score one text: jailbreak, prompt injection, harmful request, toxicity.

    Exit code 1 if any score reaches the threshold.
    """
    said = sys.stdin.buffer.read().decode("utf-8", "replace") if text is None else text
    reading = _tier(weights).read(said)
    flagged = [name for name, score in reading.scores.items() if score >= threshold]
    lines = [
        *(f"{name:10} {score:.3f}" for name, score in reading.scores.items()),
        f"flagged: {', '.join(flagged)} (as {reading.view})" if flagged else "not flagged",
    ]
    found = {
        "detector": reading.detector,
        "scores": dict(reading.scores),
        "view": reading.view,
        "flagged": flagged,
    }
    emit(found, lines, as_json=json)
    raise typer.Exit(1 if flagged else 0)


@app.command()
def train(
    manifest: Manifest,
    output: Annotated[Path, typer.Option("--output", "-o", help="The weights' file, a new one.")],
    json: Json = False,
) -> None:
    """Train the fast tier's weights from the data sets that may be shipped, and text of our own.

    The same data gives the same file. Needs the extra `train`; takes about as long as `report`.
    """
    from freehold.guard.building import train as build

    _absent(output)
    with Bar(quiet=json, of_bytes=False) as bar:
        model, data = _with_extra(lambda: build(manifest, bar))
    write_new(output, data)
    found = {"file": str(output), "bytes": len(data), "sha256": model.digest}
    emit(found, [f"{output}: {len(data)} bytes, sha256 {model.digest}"], as_json=json)


@app.command()
def report(
    manifest: Manifest,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where report.html and report.json go.")
    ] = Path(),
    texts: Annotated[
        int, typer.Option("--texts", min=1, help="At most so many of each set and class.")
    ] = 800,
    json: Json = False,
) -> None:
    """Measure the fast tier on data sets it never saw, and write a page of it.

    Data sets are left out whole, attacks and harmless ones, and thresholds are nested. Sets that
    may not be shipped are measured and never trained on. Fewer `--texts` take less time, also for
    training. Needs the extra `train`.
    """
    from freehold.guard.building import report as measure

    page, data = output / "report.html", output / "report.json"
    _absent(page)
    _absent(data)
    # Before the work, which takes long: a folder that cannot be made is told at once.
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output} cannot be made: {error.strerror}") from error
    with Bar(quiet=json, of_bytes=False) as bar:
        figures, html, plain = _with_extra(lambda: measure(manifest, bar, texts=texts))
    write_new(page, html.encode())
    write_new(data, plain.encode())
    rows = [
        (row["set"], f"{row['flagged']['share']:.3f}", str(row["flagged"]["n"]))
        for row in (*figures["attacks"], *figures["harmless"])
    ]
    summary = [f"{name}: {value:.3f}" for name, value in figures["summary"].items()]
    lines = [*table(("set", "flagged", "texts"), rows), *summary, f"{page}, {data}"]
    emit(figures["summary"], lines, as_json=json)


@app.command()
def calibrate(
    traffic: Annotated[
        Path, typer.Argument(help="Harmless texts of yours: one a line, or JSON lines with `text`.")
    ],
    per_thousand: Annotated[
        float, typer.Option(min=0.1, max=500, help="False alarms per 1,000 that you accept.")
    ] = 10,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="The texts are answers: each is read as it would stream, and its worst part "
            "counts. The threshold is a policy's `answer_threshold`.",
        ),
    ] = False,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Find the threshold that flags so many of your own harmless texts per thousand."""
    from freehold.guard.calibration import AsAnswer, read_traffic
    from freehold.guard.calibration import calibrate as find

    texts = read_traffic(traffic)
    with Bar(quiet=json, of_bytes=False) as bar:
        bar.start(len(texts), "scoring your texts")
        tier = AsAnswer(_tier(weights)) if answers else _tier(weights)
        found = find(tier, texts, per_thousand / 1000, bar.advance)
    result = {
        "threshold": found.threshold,
        "texts": found.texts,
        "flagged": found.flagged,
        "per_thousand_at_most": found.upper * 1000,
        "detector": found.detector,
    }
    key = "answer_threshold" if answers else "threshold"
    lines = [
        f"{key} {found.threshold:.4f}: {found.flagged} of {found.texts} texts flagged",
        f"with 95 % confidence at most {found.upper * 1000:.1f} per 1,000 of such texts",
    ]
    emit(result, lines, as_json=json)


def _tier(weights: Path | None) -> FastTier:
    from freehold.guard.fast import FastTier, load

    if weights is None:
        return FastTier()
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{weights} cannot be read: {error.strerror}", param="weights"
        ) from None
    return FastTier(load(data, name=str(weights)))


def _absent(path: Path) -> None:
    """Hours of work must not end at a file that is there already."""
    if path.exists():
        raise UsageError(f"{path} is there already: name another file", param="output")


def _with_extra(work: Any) -> Any:
    try:
        return work()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "scipy":
            raise
        raise UsageError(
            "training needs scipy: install the extra with `pip install 'freehold[train]'`"
        ) from None
