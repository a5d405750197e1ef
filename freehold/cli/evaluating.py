"""``freehold eval``: how good a model is, and how sure that is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import options
from freehold.cli.home import at_home, stay_single
from freehold.cli.hosting import living, starting
from freehold.cli.output import Bar, emit, say, table, write_over
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.cli.upstream import hosting, upstream_of
from freehold.errors import StorageError, UsageError

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.cli.upstream import Upstream, Warden
    from freehold.engine.child import Child
    from freehold.evals import Plan, Results, Task
    from freehold.evals.cells import Cells
    from freehold.evals.comparing import Compared
    from freehold.evals.figures import Interval
    from freehold.signing.keys import SigningKey

ANSWERS, RESULTS, REPORT = "answers.jsonl", "results.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class _Work:
    """All that is decided before anything starts."""

    tasks: tuple[Task, ...]
    plan: Plan
    data: Path
    output: Path
    earlier: Results | None
    key: SigningKey | None
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """A model's settings, and what answers for it."""

    settings: Settings
    child: Child
    above: Upstream | None = None
    warden: Warden | None = None


def evaluate(
    model: options.ModelOrDefault = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Suites (coding, math, multilingual, language), tasks, or task files, by commas."
        ),
    ] = None,
    lang: Annotated[
        str | None, typer.Option(help="Languages, by commas (id,vi,th). Without: all there are.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file: its bits per byte and perplexity.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder of data sets [data, in the vault's folder].")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each task, the first ones.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare with another model, or with results.json of an earlier run."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Answers, results and report go to this folder."),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option("--sign", help="Add the scores to the model's passport, signed by this key."),
    ] = None,
    passphrase_fd: PassphraseFd = None,
    at_once: Annotated[
        int | None, typer.Option(help="Requests asked together [as many as run at once].")
    ] = None,
    threads: options.Threads = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    engine: options.EngineName = None,
    upstream: options.Upstream = None,
    upstream_model: options.UpstreamModel = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: options.Json = False,
) -> None:
    """Measure how good a model is: coding, mathematics, languages, any text of yours.

    Every figure has its 95 % interval. Ctrl-C keeps what was answered; the same command goes on
    from there. Programs that the model writes run in cells that can do nothing but compute.
    """
    stay_single()  # tasks are read, with numpy, before the lock
    settings = read_settings(
        root(),
        model=model,
        threads=threads,
        backend=backend,
        dtype=dtype,
        engine=engine,
        upstream=upstream,
        upstream_model=upstream_model,
        residency="off" if no_lock else None,
    )
    rival = None
    earlier = None
    if against is not None:
        if against.endswith(".json"):
            from freehold.evals import results

            earlier = results.read(Path(against))
        else:
            rival = _rival(settings, against)
    work = _work(settings, suite, lang, text, data, limit, output, at_once or settings.max_running)
    key = None if sign is None else signing_key(sign, passphrase_fd)
    work = replace(work, earlier=earlier, key=key, quiet=json)
    found = _run(work, settings, rival)
    for each in found:
        _write(work.output if each is found[0] else answers_folder(each.model), each)
    _finish(work, found, json=json)


def _rival(settings: Settings, against: str) -> Settings:
    if settings.engine != "freehold":
        raise UsageError(
            f"--against {against}: two models run side by side on Freehold's own engine alone; "
            "name the results.json of an earlier run",
            param="against",
        )
    return replace(settings, model=against)


def _work(
    settings: Settings,
    suite: str | None,
    lang: str | None,
    text: Path | None,
    data: Path | None,
    limit: int | None,
    output: Path | None,
    at_once: int,
) -> _Work:
    from freehold.evals import Plan, suite_of
    from freehold.evals.data import of_text

    if (suite is None) == (text is None):
        raise UsageError("name what to measure: --suite NAMES or --text FILE", param="suite")
    if at_once > (most := settings.max_running + settings.max_waiting):
        raise UsageError(
            f"at_once is {at_once}: the engine takes {most} requests (max_running and max_waiting)",
            param="at_once",
        )
    folder = data or root() / "data"
    if text is not None:
        tasks, folder = [of_text(text)], text.absolute().parent
    else:
        assert suite is not None, "one of the two is there"
        tasks = suite_of(_parts(suite), languages=_parts(lang or ""))
    return _Work(
        tasks=tuple(tasks),
        plan=Plan(limit=limit, at_once=at_once),
        data=folder.absolute(),
        output=answers_folder(settings.model, output),
        earlier=None,
        key=None,
        quiet=False,
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def answers_folder(model: str, output: Path | None = None) -> Path:
    """Where answers and results of ``model`` go, made if it is not there."""
    folder = (output or root() / "evals" / model).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def _run(work: _Work, settings: Settings, rival: Settings | None) -> list[Results]:
    """Start everything in its lock, and ask."""
    folders = [work.output] + ([answers_folder(rival.model)] if rival else [])
    with ExitStack() as stack:
        cells = cells_for(work.tasks)
        write = [str(folder) for folder in folders] + ([cells.folder] if cells else [])
        if work.key is not None:
            passports = root() / "passports"
            passports.mkdir(parents=True, exist_ok=True)
            write.append(str(passports))
        above = stack.enter_context(upstream_of(settings))
        home = stack.enter_context(
            at_home(
                settings,
                "front",
                read=(str(work.data),),
                write=tuple(write),
                also=[above.reach] if above else [],
                connects=bool(above),
            )
        )
        warden = stack.enter_context(hosting(settings, above, home))
        home.shut_files()
        if cells is not None:
            stack.enter_context(cells)
        child = stack.enter_context(starting(settings, home, above))
        engines = [_Engine(settings=settings, child=child, above=above, warden=warden)]
        if rival is not None:
            other = stack.enter_context(starting(rival, home))
            engines.append(_Engine(settings=rival, child=other))
        return asyncio.run(_all(work, home, engines, folders, cells))


def cells_for(tasks: Iterable[Task]) -> Cells | None:
    """Cells for programs, if any are to be run; started once files are shut (who is to be ended
    must be inside), and before calls are."""
    if all(task.kind != "code" for task in tasks):
        return None
    from freehold.cli.workload import usable_cores
    from freehold.evals.cells import Cells

    return Cells(usable_cores())


async def _all(
    work: _Work,
    home: Home,
    engines: Sequence[_Engine],
    folders: Sequence[Path],
    cells: Cells | None,
) -> list[Results]:
    from freehold.evals import evaluate as ask
    from freehold.evals.kept import Kept

    found = []
    with Bar(quiet=work.quiet) as loading, Bar(quiet=work.quiet, of_bytes=False) as bar:
        for number, engine in enumerate(engines):
            kept = Kept(folders[number] / ANSWERS)
            parts = (engine.child, engine.above, engine.warden)
            async with living(engine.settings, loading, *parts) as model:
                if number == 0:
                    home.shut_calls()
                try:
                    results = await ask(
                        model.engine,
                        model.codec,
                        work.tasks,
                        data=work.data,
                        plan=work.plan,
                        cells=cells,
                        kept=kept,
                        progress=bar,
                    )
                except asyncio.CancelledError:
                    bar.close()
                    say(
                        f"{len(kept)} answers are kept in {folders[number]}: "
                        "the same command goes on from there"
                    )
                    raise
                found.append(results)
    return found


def _write(
    folder: Path, results: Results, compared: Sequence[Compared] = (), other: str = ""
) -> None:
    from freehold.evals.page import page
    from freehold.evals.results import encode

    write_over(folder / RESULTS, encode(results))
    write_over(folder / REPORT, page(results, compared, other).encode())


def _finish(work: _Work, found: Sequence[Results], *, json: bool) -> None:
    """Compare, sign and print."""
    from freehold.evals.comparing import compare
    from freehold.evals.results import public

    results, *others = found
    other = others[0] if others else work.earlier
    compared = compare(results, other) if other is not None else []
    if compared and other is not None:
        _write(work.output, results, compared, other.model)
    told: dict[str, Any] = public(results, items=False)
    lines = _lines(results)
    if other is not None:
        import msgspec

        told["against"] = {
            "model": other.model,
            "digest": other.digest,
            "tasks": msgspec.to_builtins(compared),
        }
        lines += ["", *_compared_lines(results.model, other.model, compared)]
    if work.key is not None:
        told["signed"] = [_sign(results, work.key) for results in found]
        lines.append(f"{sum(told['signed'])} statements signed into the passports")
    told["folder"] = str(work.output)
    lines.append(f"{work.output / REPORT}, {RESULTS}, {ANSWERS}")
    emit(told, lines, as_json=json)


def _lines(results: Results) -> list[str]:
    rows = [
        (
            task.name if number == 0 else "",
            metric.name,
            f"{metric.value:.4f}",
            "none" if metric.interval == "none" else f"{metric.low:.4f} to {metric.high:.4f}",
            str(metric.n),
        )
        for task in results.tasks
        for number, metric in enumerate(task.metrics)
    ]
    head = f"{results.model}, {results.numerics}"
    return [head, *table(("task", "figure", "value", "95 %", "items"), rows)]


def _compared_lines(first: str, other: str, compared: Sequence[Compared]) -> list[str]:
    rows = [
        (
            row.task,
            row.metric,
            f"{row.first:.4f}",
            f"{row.other:.4f}",
            _signed(row.difference),
            "" if row.paired is None else f"{row.paired.p:.3f}",
            {"first": first, "other": other, "": "no difference shown"}[row.better],
        )
        for row in compared
    ]
    head = ("task", "figure", first, other, "difference (95 %)", "McNemar p", "better")
    return table(head, rows)


def _signed(found: Interval) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _sign(results: Results, key: SigningKey) -> int:
    """Add a statement for each task to the model's passport; how many."""
    from freehold.cli.passports import append
    from freehold.evals.passport import statements_of
    from freehold.store import Store, statements

    manifest = Store(root()).manifest(results.model)
    said = statements_of(results)
    signed = [statements.about(manifest.name, manifest.digest, one, key) for one in said]
    return len(append(manifest, signed))
