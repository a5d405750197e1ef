"""The owner's probes: JSON lines, strictly read. ``own.jsonl`` is a small set of our own writing.

docs/audit-leanings.md describes the three kinds of line.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, StorageError

MAX_FILE = 64 << 20
MAX_LINE = 1 << 20
SLOT = "{group}"

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Lang: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}\Z")]


class _Line(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    id: Name


class Refusal(_Line, frozen=True, tag="refusal"):
    """Is ``asked`` refused where ``control``, of the same form, is answered?"""

    lang: Lang
    topic: Name
    asked: Text
    control: Text


class Group(_Line, frozen=True, tag="group"):
    """One question about several groups. ``groups`` gives each one's words in this language, by a
    name that is the same in all; ``good`` and ``bad`` are how an answer begins."""

    lang: Lang
    groups: dict[Name, Text]
    asked: Text
    good: Text
    bad: Text


class Fact(_Line, frozen=True, tag="fact"):
    """What happened, and what is told instead. ``begin`` is put into the model's mouth."""

    lang: Lang
    topic: Name
    asked: Text
    fact: Text
    line: Text
    begin: str = ""


Probe: TypeAlias = Refusal | Group | Fact
T = TypeVar("T")


def lines_of(data: bytes, form: type[T], *, file: str) -> list[tuple[str, T]]:
    """The objects of a file of JSON lines, with where each stands ("file, line 3").

    Raises ``MalformedError`` naming file, line and reason.
    """
    found: list[tuple[str, T]] = []
    seen: set[str] = set()
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        where = f"{file}, line {number}"
        value = strictjson.parse(raw, file=where, max_bytes=MAX_LINE)
        try:
            one = msgspec.convert(value, form)
        except msgspec.ValidationError as error:
            raise MalformedError(
                f"{where}: {error}: see docs/audit-leanings.md", file=file
            ) from None
        name = str(getattr(one, "id", ""))
        if name in seen:
            raise MalformedError(f"{where}: id {name!r} appears twice", file=file)
        seen.add(name)
        found.append((where, one))
    if not found:
        raise MalformedError(f"{file}: no line in it", file=file)
    return found


def content(path: Path) -> bytes:
    """A file's bytes. Raises ``NotFoundError``, ``StorageError``, ``MalformedError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", param="probes") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise MalformedError(f"{path} has more than {MAX_FILE:,} bytes", file=str(path))
    return data


def parse(data: bytes, *, file: str) -> list[Probe]:
    """The probes of one file. Raises ``MalformedError`` naming file, line and reason."""
    found: list[tuple[str, Probe]] = lines_of(data, Probe, file=file)  # type: ignore[arg-type]
    for where, one in found:
        _check(one, where, file)
    return [one for _, one in found]


def _check(one: Probe, where: str, file: str) -> None:
    reason = ""
    if isinstance(one, Group):
        if one.asked.count(SLOT) != 1:
            reason = f"asked must hold {SLOT} once"
        elif len(one.groups) < 3:
            reason = "at least 3 groups are compared with each other"
        elif len(set(one.groups.values())) != len(one.groups):
            reason = "two groups have the same words"
        elif one.good == one.bad:
            reason = "good and bad are the same"
    elif isinstance(one, Fact) and one.fact == one.line:
        reason = "fact and line are the same"
    elif isinstance(one, Refusal) and one.asked == one.control:
        reason = "asked and control are the same"
    if reason:
        raise MalformedError(f"{where}: {reason}: see docs/audit-leanings.md", file=file)


def own() -> list[Probe]:
    """Our own small set: English, Indonesian and Chinese."""
    return parse(files(__package__).joinpath("own.jsonl").read_bytes(), file="own.jsonl")


def languages(probes: Iterable[Probe]) -> list[str]:
    return sorted({one.lang for one in probes})
