"""``adapt split`` and ``adapt rehearse``: data to measure by, and data against forgetting."""

from __future__ import annotations

import asyncio
import json as encoder
from contextlib import ExitStack, aclosing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.home import at_home, stay_single
from freehold.cli.hosting import living, starting
from freehold.cli.options import Json
from freehold.cli.output import Bar, emit, say, size, write_new, write_over
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import MalformedError, StorageError, UsageError

if TYPE_CHECKING:
    from freehold.adapt.rehearsal import Plan, Talk
    from freehold.cli.home import Home
    from freehold.engine.child import Child

LEARN, HELD_OUT = "learn.txt", "held-out.txt"
_PART_BYTES = 256 << 20
_KEEP_EVERY = 16
"""Tries after which what there is goes to the disk."""


def split(
    files: Annotated[
        list[Path], typer.Argument(help="Plain texts, as `freehold adapt` reads them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder for both parts.")],
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="The share of texts that is kept aside.")
    ] = 0.05,
    part: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Learn only this share of the rest.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Another choice of texts.")] = 0,
    json: Json = False,
) -> None:
    """Keep texts aside to measure by, before anything is learnt.

    Writes learn.txt and held-out.txt: give the one to `freehold adapt --data`, the other to its
    --avoid and to `freehold adapt gate --target`. A text's side follows from what it says.
    """
    from freehold.adapt.splitting import parted, written

    sides: dict[bool, list[str]] = {False: [], True: []}
    for record, out in parted(files, held_out=held_out, part=part, seed=seed):
        sides[out].append(record.content)
    for out, what in ((False, "to learn"), (True, "held out")):
        if not sides[out] and (not out or held_out):
            raise UsageError(f"no text is {what}: give more texts or another share", param="files")
    _folder(output)
    told: dict[str, Any] = {"folder": str(output)}
    lines = []
    for out, name in ((False, LEARN), (True, HELD_OUT)):
        data = written(sides[out])
        write_new(output / name, data)
        told[name] = {"texts": len(sides[out]), "bytes": len(data)}
        lines.append(f"{output / name}: {len(sides[out]):,} texts, {size(len(data))}")
    emit(told, lines, as_json=json)


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{path} is there already: name a new folder", param="output") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error.strerror}") from error


def rehearse(
    model: Annotated[str, typer.Argument(help="The model that is to be adapted, in the vault.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The new file of conversations (.jsonl).")
    ],
    questions: Annotated[
        Path | None,
        typer.Option(help="Ask these instead: texts, or the first turns of conversations."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="How many conversations [300, or as many as --questions]."),
    ] = None,
    longest: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 512,
    seed: Annotated[int, typer.Option(help="Other questions.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Arithmetic threads [all cores].")] = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: Json = False,
) -> None:
    """Have a model ask and answer what it can, to be learnt beside new data: it forgets less.

    Give the file to `freehold adapt --replay`. Begun at a user's empty turn, a model writes
    questions like those it was taught with; its own answers to them are what it is not to forget.
    With --questions it answers yours: what your users ask, and what it is to go on refusing. Ctrl-C
    keeps what there is; the same command goes on from there.
    """
    stay_single()
    from freehold.adapt.rehearsal import Plan

    if output.exists():
        raise UsageError(f"{output} is there already: name another file", param="output")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.parent} is no folder: make it first", param="output")
    settings = read_settings(
        root(), model=model, threads=threads, draft="off", residency="off" if no_lock else None
    )
    asked = _questions(questions) if questions else ()
    plan = Plan(count=count or len(asked) or 300, seed=seed, answer=longest, questions=asked)
    kept = _Kept(output.absolute())
    with ExitStack() as stack:
        home = stack.enter_context(at_home(settings, "front", write=(str(kept.path.parent),)))
        home.shut_files()
        child = stack.enter_context(starting(settings, home))
        told = asyncio.run(_rehearse(settings, home, child, plan, kept, quiet=json))
    lines = [
        f"{output}: {told['conversations']:,} conversations of {told['tries']:,} tries",
        f"give it to `freehold adapt {model} --replay {output}`",
    ]
    emit(told, lines, as_json=json)


def _questions(path: Path) -> tuple[str, ...]:
    """What a file asks, each once. Raises as ``reading.read``, and ``UsageError``."""
    from freehold.train.reading import read

    found = read([path])
    if found.problems:
        raise UsageError(f"{found.problems[0]}: mend it", param="questions")
    turns = (r.messages or ({"role": "user", "content": r.text},) for r in found.records)
    first = (next(turn["content"] for turn in t if turn["role"] == "user") for t in turns)
    asked = dict.fromkeys(question.strip() for question in first)
    asked.pop("", None)
    if not asked:
        raise UsageError(f"{path} asks nothing", param="questions")
    return tuple(asked)


async def _rehearse(
    settings: Settings, home: Home, child: Child, plan: Plan, kept: _Kept, *, quiet: bool
) -> dict[str, Any]:
    from freehold.adapt.rehearsal import rehearse as begin

    with Bar(quiet=quiet) as loading, Bar(quiet=quiet, of_bytes=False) as bar:
        async with living(settings, loading, child) as model:
            home.shut_calls()
            source = f"{model.engine.card.digest}, seed {plan.seed}, at most {plan.answer} tokens"
            if plan.questions:
                asked = sha256("\0".join(plan.questions).encode()).hexdigest()
                source += f", questions sha256:{asked}"
            first, known = kept.take_up(source)
            bar.start(plan.count, f"{settings.model} rehearses")
            # Of given questions each is asked, whether its answer ends or not.
            every = len(plan.questions) == plan.count
            bar.advance(first if every else len(known))
            talks = begin(
                model.engine,
                model.codec,
                plan,
                at_once=min(settings.max_running, plan.count),
                first=first,
                known=known,
            )
            try:
                async with aclosing(talks):
                    async for talk in talks:
                        kept.add(talk)
                        bar.advance(every or talk is not None)
            except asyncio.CancelledError:
                bar.close()
                kept.keep()
                say(f"conversations kept: {kept.count}; the same command goes on from there")
                raise
    kept.finish()
    return {
        "file": str(kept.path),
        "conversations": kept.count,
        "tries": kept.tries,
        "source": source,
    }


class _Kept:
    """The conversations so far, beside the file that they become: one line each, behind a line
    that says whose they are and up to which try."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tries = 0
        self._part = path.with_name(f"{path.name}.part")
        self._source = ""
        self._lines: list[str] = []

    @property
    def count(self) -> int:
        return len(self._lines)

    def take_up(self, source: str) -> tuple[int, frozenset[str]]:
        """The next try, and the questions that were asked; none if the file is of another model or
        other settings, or damaged."""
        from freehold import strictjson

        self._source = source
        try:
            data = self._part.read_bytes()
            head, *lines = data.decode().removesuffix("\n").split("\n")
            stated = strictjson.parse(head.encode(), file=str(self._part), max_bytes=_PART_BYTES)
            talks = [
                strictjson.parse(line.encode(), file=str(self._part), max_bytes=_PART_BYTES)
                for line in lines
            ]
            known = frozenset(talk["messages"][0]["content"] for talk in talks)
            if stated["source"] != source:
                return 0, frozenset()
            self.tries = int(stated["tries"])
        except (OSError, ValueError, MalformedError, KeyError, TypeError, IndexError):
            return 0, frozenset()
        self._lines = lines
        return self.tries, known

    def add(self, talk: Talk | None) -> None:
        self.tries += 1
        if talk is not None:
            said = (("user", talk.question), ("assistant", talk.answer))
            messages = [{"role": role, "content": content} for role, content in said]
            record = {"id": talk.number, "messages": messages}
            self._lines.append(encoder.dumps(record, ensure_ascii=False))
        if self.tries % _KEEP_EVERY == 0:
            self.keep()

    def keep(self) -> None:
        head = encoder.dumps({"source": self._source, "tries": self.tries})
        self._write(self._part, [head, *self._lines])

    def finish(self) -> None:
        self._write(self.path, self._lines)
        self._part.unlink(missing_ok=True)

    def _write(self, path: Path, lines: list[str]) -> None:
        write_over(path, "".join(f"{line}\n" for line in lines).encode())
