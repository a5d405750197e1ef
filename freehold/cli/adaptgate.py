"""``adapt gate``: an adapted model beside the one it was made from, before anybody else gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.gating import gate_folder
from freehold.cli.home import at_home, stay_single
from freehold.cli.hosting import living, starting
from freehold.cli.output import Bar, emit, say, table, write_over
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import GateError, UsageError

if TYPE_CHECKING:
    from freehold.adapt.gate import Report
    from freehold.adapt.measuring import Kind, Measure
    from freehold.audit.planted import Canary
    from freehold.cli.home import Home
    from freehold.cli.hosting import Living
    from freehold.engine.child import Child
    from freehold.evals import Plan, Task
    from freehold.evals.cells import Cells


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Everything that both models are asked. ``texts`` and tasks go with their data's folder."""

    tasks: tuple[tuple[Task, Path], ...]
    kinds: dict[str, Kind]
    canaries: tuple[Canary, ...]
    plan: Plan
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two models. ``answers``: the folder where its answers are kept, as an eval's."""

    settings: Settings
    child: Child
    answers: Path


def gate(
    model: Annotated[str, typer.Argument(help="The adapted model, in the vault.")],
    against: Annotated[str, typer.Option("--against", help="The model it was made from.")],
    target: Annotated[
        list[Path],
        typer.Option("--target", help="Text in what it was adapted to, not learnt. Repeatable."),
    ],
    keep: Annotated[
        list[Path] | None,
        typer.Option("--keep", help="Text that must not be forgotten (English, code). Repeatable."),
    ] = None,
    canaries: Annotated[
        Path | None,
        typer.Option(help="Secrets that must not be learnt, as the audit reads them."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Tasks and suites of `freehold eval`, by commas. Where code must not be "
            "forgotten, name humaneval: bits per byte do not tell whether programs run."
        ),
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Their languages, by commas.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder of their data [data, in the vault's folder].")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Items of each task and documents of each text.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The report goes to this folder as well.")
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option("--sign", help="Put the verdict into its passport, signed by this key."),
    ] = None,
    passphrase_fd: PassphraseFd = None,
    threads: Annotated[int | None, typer.Option(help="Arithmetic threads [all cores].")] = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare an adapted model with its base, and refuse it if it lost too much.

    Measured on both: the target text, what must be kept, tasks, whether harm is still refused and
    harmless questions still are not, and secrets that must not be learnt. The margins stand in
    [adapt] in freehold.toml. A model that is refused is not published. Ends with 8 then.
    Answers to tasks and texts are kept with those of `freehold eval`: none is asked for twice.
    """
    stay_single()
    settings = read_settings(
        root(), model=model, threads=threads, draft="off", residency="off" if no_lock else None
    )
    rival = replace(settings, model=against)
    asked = _asked(settings, target, keep or [], canaries, suite, lang, data, limit, quiet=json)
    key = None if sign is None else signing_key(sign, passphrase_fd)
    folders = [path.absolute() for path in ([] if output is None else [output])]
    report = _run(asked, settings, rival, folders, signs=key is not None)
    if key is not None:
        _sign(report, key)
    lines = [
        *table(("measure", "before", "after", "change (95 %)", "asked", ""), _rows(report)),
        f"report: {_folder(report.digest) / 'gate.html'}",
    ]
    import msgspec

    emit(msgspec.to_builtins(report), lines, as_json=json)
    if not report.passed:
        lost = ", ".join(row.name for row in report.rows if row.passed is False)
        say(
            f"{model} is refused: it does not keep the margins of [adapt] against {against} "
            f"({lost}). It is not published; adapt again, with --replay or less"
        )
        raise typer.Exit(GateError.exit_code)


def _rows(report: Report) -> list[tuple[str, ...]]:
    from freehold.adapt.gate import lines

    return list(lines(report))


def _asked(
    settings: Settings,
    target: Sequence[Path],
    keep: Sequence[Path],
    canaries: Path | None,
    suite: str | None,
    lang: str | None,
    data: Path | None,
    limit: int | None,
    *,
    quiet: bool,
) -> _Asked:
    from freehold.adapt.measuring import read_canaries
    from freehold.evals import Plan, suite_of
    from freehold.evals.data import of_text

    kinds: dict[str, Kind] = {}
    tasks: list[tuple[Task, Path]] = []
    sides: tuple[tuple[Kind, Sequence[Path]], ...] = (("target", target), ("kept", keep))
    for kind, paths in sides:
        for path in paths:
            task = of_text(path)
            if task.name in kinds:
                raise UsageError(f"two texts are called {path.name}: rename one", param="target")
            kinds[task.name] = kind
            tasks.append((task, path.absolute().parent))
    if suite is not None:
        folder = (data or root() / "data").absolute()
        names = [part.strip() for part in suite.split(",") if part.strip()]
        languages = [part.strip() for part in (lang or "").split(",") if part.strip()]
        tasks += ((task, folder) for task in suite_of(names, languages=languages))
    return _Asked(
        tasks=tuple(tasks),
        kinds=kinds,
        canaries=tuple(read_canaries(canaries)) if canaries else (),
        plan=Plan(limit=limit, at_once=settings.max_running),
        quiet=quiet,
    )


def _folder(digest: str) -> Path:
    folder = gate_folder(digest)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(
    asked: _Asked, settings: Settings, rival: Settings, outputs: Sequence[Path], *, signs: bool
) -> Report:
    """Start both models in one lock, ask them one after the other, and judge."""
    from freehold.cli.evaluating import answers_folder, cells_for
    from freehold.store import Store

    answers = [answers_folder(one.model) for one in (rival, settings)]
    folders = [_folder(Store(root()).manifest(settings.model).digest), *outputs]
    cells = cells_for(task for task, _ in asked.tasks)
    passports = [root() / "passports"] if signs else []
    for folder in (*folders, *passports):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        read = tuple(sorted({str(folder) for _, folder in asked.tasks}))
        write = [*map(str, (*folders, *passports, *answers)), *([cells.folder] if cells else [])]
        home = stack.enter_context(at_home(settings, "front", read=read, write=tuple(write)))
        home.shut_files()
        if cells is not None:
            stack.enter_context(cells)
        sides = [
            _Side(settings=one, child=stack.enter_context(starting(one, home)), answers=folder)
            for one, folder in zip((rival, settings), answers, strict=True)
        ]
        report = asyncio.run(_both(asked, sides, home, settings, cells))
        return _kept(report, folders)


async def _both(
    asked: _Asked,
    sides: Sequence[_Side],
    home: Home,
    settings: Settings,
    cells: Cells | None,
) -> Report:
    from freehold import __version__
    from freehold.adapt import gate as gates

    found: list[list[Measure]] = []
    cards = []
    with Bar(quiet=asked.quiet) as loading, Bar(quiet=asked.quiet, of_bytes=False) as bar:
        for number, side in enumerate(sides):
            async with living(side.settings, loading, side.child) as model:
                if number == 0:
                    home.shut_calls()
                found.append(await _measured(asked, model, side.answers, bar, cells))
                cards.append(model.engine.card)
    rows = gates.judge(found[0], found[1], settings.adapt)
    before, after = cards
    return gates.Report(
        format=gates.FORMAT,
        model=after.name,
        digest=after.digest,
        base=before.name,
        base_digest=before.digest,
        tool=f"freehold {__version__}",
        numerics=after.numerics,
        margins=asdict(settings.adapt),
        rows=rows,
        passed=all(row.passed is not False for row in rows),
    )


async def _measured(
    asked: _Asked, model: Living, answers: Path, bar: Bar, cells: Cells | None
) -> list[Measure]:
    from freehold.adapt import measuring
    from freehold.cli.evaluating import ANSWERS
    from freehold.evals import evaluate
    from freehold.evals.kept import Kept

    parts = (model.engine, model.codec)
    kept = Kept(answers / ANSWERS)
    found: list[Measure] = []
    try:
        for task, folder in asked.tasks:
            results = await evaluate(
                *parts, [task], data=folder, plan=asked.plan, cells=cells, kept=kept, progress=bar
            )
            found += measuring.of_results(results, asked.kinds)
    except asyncio.CancelledError:
        bar.close()
        say(f"{len(kept)} answers are kept in {answers}: the same command goes on from there")
        raise
    found += await measuring.manners(*parts, at_once=asked.plan.at_once)
    if asked.canaries:
        at_once = asked.plan.at_once
        found += await measuring.canaries(*parts, asked.canaries, at_once=at_once)
    return found


def _kept(report: Report, folders: Sequence[Path]) -> Report:
    from freehold.adapt import gate as gates

    for folder in folders:
        write_over(folder / "gate.json", gates.encode(report))
        write_over(folder / "gate.html", gates.page(report).encode())
    return report


def _sign(report: Report, key: Any) -> None:
    from freehold.adapt.gate import digest_of
    from freehold.cli.passports import append
    from freehold.store import Store, statements

    figures: dict[str, float] = {}
    for row in report.rows:
        figures |= {f"{row.name}, before": row.before, f"{row.name}, after": row.after}
    said = statements.Gated(
        made=statements.now(),
        base=statements.Named(name=report.base, digest=report.base_digest),
        passed=report.passed,
        report=statements.Named(name="gate.json", digest=digest_of(report)),
        tool=f"{report.tool}, {report.numerics}",
        figures=figures,
    )
    manifest = Store(root()).manifest(report.model)
    append(manifest, [statements.about(manifest.name, manifest.digest, said, key)])
