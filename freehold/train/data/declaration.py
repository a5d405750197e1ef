"""What a corpus is to be made of, as its maker declares it in a TOML file.

    name = "harbour"
    held_out = 0.01

    [steps]
    languages = ["en"]
    near = true

    [[source]]
    name = "minutes"
    licence = "CC-BY-4.0"
    path = "minutes"

    [[source]]
    name = "stories"
    licence = "Apache-2.0"
    program = "stories"
    documents = 20000

Everything that decides which bytes come out is here, and its digest is in the corpus's manifest.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from freehold import strictjson
from freehold.errors import NotFoundError, StorageError, UsageError
from freehold.train.data.stories import PROGRAMS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One source. Its documents come from ``path`` (a file or folder, see ``reading``), taken from
    where the declaration lies, or from a ``program`` of Freehold's own with a ``seed``.
    ``address`` says where others get the same; ``sha256`` pins the bytes of a single file."""

    name: str
    licence: str
    path: str = ""
    program: str = ""
    seed: int = 0
    documents: int = 0
    address: str = ""
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to the documents, in this order.

    ``opt_out``: a file of what its makers do not want learnt (``optout``). ``languages`` (ISO
    639-1): others, where they are told surely, are left out. ``quality``: rules after Gopher
    (``quality``). ``avoid``: files of evals; what shares about 60 letters in a row with one is left
    out. ``mask``: personal data is hidden. ``exact`` and ``near``: of documents that say the same,
    or nearly, the first stays.
    """

    opt_out: str = ""
    languages: tuple[str, ...] = ()
    quality: bool = True
    avoid: tuple[str, ...] = ()
    mask: bool = True
    exact: bool = True
    near: bool = True


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A corpus to be built. ``held_out`` is the share of documents that no model may learn; of
    more than ``most_held_out`` the rest is left out. ``vocab`` is how many tokens the tokenizer
    made of it has (0: none). ``folder`` is where paths start from, and no part of what is
    declared."""

    name: str
    sources: tuple[Origin, ...]
    steps: Steps = field(default_factory=Steps)
    held_out: float = 0.01
    most_held_out: int = 1000
    vocab: int = 0
    seed: int = 0
    folder: Path = field(default=Path(), compare=False)

    def plain(self) -> dict[str, Any]:
        """As JSON values, without ``folder``."""
        found = asdict(self)
        del found["folder"]
        return found

    def canonical(self) -> bytes:
        """The one byte form, to be digested."""
        return strictjson.canonical(self.plain())


def load(path: Path) -> Declaration:
    """Read a declaration. Raises ``NotFoundError``, ``StorageError``, and ``UsageError`` naming
    the member that is wrong."""
    try:
        data = path.read_bytes()[:_MAX_BYTES]
        found = tomllib.loads(data.decode())
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist", param="config") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}", param="config") from None
    return of(found, folder=path.parent.resolve(), where=str(path))


def of(found: dict[str, Any], *, folder: Path, where: str) -> Declaration:
    """A declaration from its values. Raises ``UsageError``."""
    found = dict(found)
    given = found.pop("source", [])
    if not isinstance(given, list) or not given:
        raise UsageError(f"{where} names no [[source]]", param="source")
    sources = tuple(_made(Origin, one, f"{where}, source {n}") for n, one in enumerate(given, 1))
    steps = _made(Steps, found.pop("steps", {}), f"{where}, [steps]")
    made = _made(
        Declaration,
        found | {"sources": sources, "steps": steps, "folder": folder},
        where,
    )
    _check(made, where)
    return made


T = TypeVar("T")


def _made(kind: type[T], given: Any, where: str) -> T:
    if not isinstance(given, dict):
        raise UsageError(f"{where} is no table", param="config")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    if unknown := given.keys() - known.keys():
        raise UsageError(
            f"{where} has the unknown member {sorted(unknown)[0]!r}: it may have "
            f"{', '.join(sorted(known.keys() - {'folder', 'sources'}))}",
            param="config",
        )
    values = {}
    for name, one in known.items():
        bare = one.default is MISSING and one.default_factory is MISSING
        if name not in given and bare:
            raise UsageError(f"{where} lacks {name}", param="config")
        if name in given:
            values[name] = _fitting(given[name], str(one.type), f"{where}: {name}")
    return kind(**values)


def _fitting(value: Any, kind: str, where: str) -> Any:
    """A value of the kind that a field is declared as."""
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if kind in plain:
        wanted = plain[kind]
        if not isinstance(value, wanted) or (kind != "bool" and isinstance(value, bool)):  # type: ignore[arg-type]
            raise UsageError(f"{where} is {value!r}: it must be a {kind}", param="config")
        return float(value) if kind == "float" else value
    if kind == "tuple[str, ...]":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{where} must be a list of texts", param="config")
        return tuple(value)
    return value


def _check(made: Declaration, where: str) -> None:
    for name in (made.name, *(one.name for one in made.sources)):
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{where}: {name!r} is no name: small letters, digits, dots and hyphens",
                param="name",
            )
    names = [one.name for one in made.sources]
    if len(set(names)) != len(names):
        raise UsageError(f"{where}: two sources have one name", param="source")
    if not 0 <= made.held_out < 1:
        raise UsageError(f"{where}: held_out must be from 0 to below 1", param="held_out")
    if made.vocab and made.vocab < 320:
        raise UsageError(
            f"{where}: vocab is {made.vocab}: 256 bytes and the control tokens take more",
            param="vocab",
        )
    for one in made.sources:
        if bool(one.path) == bool(one.program):
            raise UsageError(f"{where}: source {one.name} needs path or program", param="source")
        if not one.licence.strip():
            raise UsageError(f"{where}: source {one.name} names no licence", param="licence")
        if one.program and (one.program not in PROGRAMS or one.documents < 1):
            raise UsageError(
                f"{where}: source {one.name} needs a program of {', '.join(PROGRAMS)} and how many "
                "documents it is to write",
                param="program",
            )
