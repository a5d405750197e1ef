"""A task: what is asked, how the reply is scored, and which data it is asked of. One TOML file.

A file describes a family, one task for each language that it has data for: `xcopa` gives
`xcopa-id`, `xcopa-vi`, ... The shipped ones lie in ``tasks/``; an owner's own is named by its path.
docs/evals.md describes every key. A key that is not known is an error, and so is a place in a
prompt that nothing can fill.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from freehold.errors import MalformedError, NotFoundError, StorageError, UsageError
from freehold.evals import template

BY_LANGUAGE = ("multilingual", "language")
"""Suites whose tasks are always known by their language, if it is the only one too."""
MAX_FILE = 1 << 18

KindName: TypeAlias = Literal["choice", "number", "code", "span", "language", "text"]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}\Z")]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=20_000)]
Line: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Plain: TypeAlias = str | int | bool


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Ask(_Part, frozen=True):
    prompt: Text = ""
    option: Text = " {option}"
    program: Text = ""
    answer: Line = "answer"
    choices: Line = "choices"
    letters: bool = False
    chat: bool = False
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=32_768)] = 512
    shots: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    shot: Text = ""


class _Range(_Part, frozen=True):
    from_: int = msgspec.field(name="from")
    to: int


class _Rows(_Part, frozen=True):
    id: Line = "id"
    where: dict[Line, Plain | _Range] = msgspec.field(default_factory=dict)
    shots: dict[Line, Plain | _Range] = msgspec.field(default_factory=dict)


class _Data(_Part, frozen=True):
    file: Line
    source: Line
    licence: Line
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


class _File(_Part, frozen=True):
    name: Name
    suite: Name
    about: Line
    kind: KindName
    ask: _Ask
    data: Annotated[dict[Name, _Data], msgspec.Meta(min_length=1)]
    rows: _Rows = _Rows()
    words: dict[Name, dict[Line, Text]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One file of rows: its path below the data folder, where it comes from, under which licence,
    and the SHA-256 of its bytes (empty: whatever is there, and the result says what it was)."""

    file: str
    source: str
    licence: str
    sha256: str = ""


Bounds: TypeAlias = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One family in one language.

    ``where`` are the rows that are asked: each field's value, or the lowest and highest whole
    number it may be; ``shots_where`` those that ``shots`` examples before the question are taken
    from. ``letters``: options are listed in the prompt and the model says which, by its letter.
    ``chat``: the prompt is put through the model's chat template. ``words`` are what ``{@word}``
    stands for in this language.
    """

    name: str
    suite: str
    language: str
    about: str
    kind: KindName
    data: DataSource
    prompt: str = ""
    option: str = " {option}"
    program: str = ""
    answer: str = "answer"
    choices: str = "choices"
    id: str = "id"
    letters: bool = False
    chat: bool = False
    max_tokens: int = 512
    shots: int = 0
    shot: str = ""
    where: Mapping[str, Plain | Bounds] = field(default_factory=dict)
    shots_where: Mapping[str, Plain | Bounds] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def parse(data: bytes, *, file: str) -> list[Task]:
    """The tasks of one file, by language. Raises ``MalformedError`` naming ``file`` and the key."""

    def refuse(reason: str) -> MalformedError:
        return MalformedError(f"{file}: {reason}: see docs/evals.md", file=file)

    if len(data) > MAX_FILE:
        raise refuse(f"{len(data)} bytes, and a task has at most {MAX_FILE}")
    try:
        found = msgspec.convert(tomllib.loads(data.decode("utf-8")), _File)
    except UnicodeDecodeError as error:
        raise refuse(f"byte {error.start} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise refuse(f"not TOML ({error})") from None
    except msgspec.ValidationError as error:
        raise refuse(f"no task ({error})") from None
    several = len(found.data) > 1
    tasks = [_task(found, language, several) for language in found.data]
    for task in tasks:
        if reason := _flaw(task):
            raise refuse(f"{task.name}: {reason}")
    return tasks


def _task(found: _File, language: str, several: bool) -> Task:
    ask, data = found.ask, found.data[language]
    several = several or found.suite in BY_LANGUAGE
    return Task(
        name=f"{found.name}-{language}" if several else found.name,
        suite=found.suite,
        language=language,
        about=found.about,
        kind=found.kind,
        data=DataSource(
            file=data.file, source=data.source, licence=data.licence, sha256=data.sha256
        ),
        prompt=ask.prompt,
        option=ask.option,
        program=ask.program,
        answer=ask.answer,
        choices=ask.choices,
        id=found.rows.id,
        letters=ask.letters,
        chat=ask.chat,
        max_tokens=ask.max_tokens,
        shots=ask.shots,
        shot=ask.shot,
        where=_bounds(found.rows.where),
        shots_where=_bounds(found.rows.shots),
        words=found.words.get(language, {}),
    )


def _bounds(where: Mapping[str, Plain | _Range]) -> dict[str, Plain | Bounds]:
    return {
        key: (value.from_, value.to) if isinstance(value, _Range) else value
        for key, value in where.items()
    }


def _flaw(task: Task) -> str:
    """What is wrong with a task, in words; empty if nothing is."""
    path = Path(task.data.file)
    inside = not path.is_absolute() and ".." not in path.parts
    rules = (
        (inside, f"data.file {task.data.file!r} must lie below the data folder"),
        (task.kind == "text" or task.prompt, "ask.prompt is missing"),
        (
            (task.kind == "code") == bool(task.program),
            "ask.program goes with kind = 'code', and that needs it",
        ),
        (task.kind == "choice" or not task.letters, "ask.letters goes with kind = 'choice'"),
        (
            bool(task.shots) == bool(task.shot and task.shots_where),
            "ask.shots, ask.shot and rows.shots go together",
        ),
    )
    for kept, reason in rules:
        if not kept:
            return reason
    for name, text in (
        ("prompt", task.prompt),
        ("option", task.option),
        ("program", task.program),
        ("shot", task.shot),
    ):
        if reason := template.flaw(text, task.words):
            return f"ask.{name}: {reason}"
    return ""


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file. Raises ``NotFoundError``, ``StorageError``, ``MalformedError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no task file {path}", param="suite") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    return parse(data, file=str(path))


def shipped() -> list[Task]:
    """Every task that comes with Freehold, by family and language."""
    folder = resources.files("freehold.evals") / "tasks"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return [task for file in files for task in parse(file.read_bytes(), file=file.name)]


def suite_of(names: Iterable[str], *, languages: Sequence[str] = ()) -> list[Task]:
    """The tasks that ``names`` stand for: suites, families, single tasks, or paths of task files.

    Of a family with several languages, those in ``languages`` (all, without). Raises
    ``NotFoundError`` naming what is not known, and what ``read_tasks`` does.
    """
    known = shipped()
    chosen: dict[str, Task] = {}
    for name in names:
        if "/" in name or name.endswith(".toml"):
            found = _spoken(read_tasks(Path(name)), languages)
        elif exact := [task for task in known if task.name == name]:
            found = exact
        else:
            found = _spoken([t for t in known if name in (t.suite, _family(t))], languages)
            if not any(name in (task.suite, _family(task)) for task in known):
                raise _unknown(name, known)
        chosen |= {task.name: task for task in found}
    if not chosen:
        told = ", ".join(languages)
        raise UsageError(f"no task of these has data in {told}: name others", param="lang")
    return list(chosen.values())


def _family(task: Task) -> str:
    return task.name.removesuffix(f"-{task.language}")


def _spoken(tasks: list[Task], languages: Sequence[str]) -> list[Task]:
    """Those in ``languages``, and those that have no other language to be had in."""
    return [t for t in tasks if not languages or t.language in languages or _family(t) == t.name]


def _unknown(name: str, known: Sequence[Task]) -> NotFoundError:
    suites = ", ".join(dict.fromkeys(task.suite for task in known))
    families = ", ".join(dict.fromkeys(map(_family, known)))
    return NotFoundError(
        f"{name!r} is no suite ({suites}), no task ({families}) and no path of a task file",
        param="suite",
    )


def plain(task: Task) -> dict[str, Any]:
    """A task as plain data, for whoever keeps a record of what was asked."""
    built: dict[str, Any] = msgspec.to_builtins(task)
    return built
