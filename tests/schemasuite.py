"""The official test suite of JSON Schema: its schemas and instances, read where they lie.

It comes inside an archive that `make test` fetches by its digest (tests/suites.txt). Here too is
what the suite is asked: which texts of an instance a grammar lets through.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from freehold.engine.grammar import Constraint
from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.structured import json_rule

HERE = Path(__file__).resolve()
PINS = HERE.with_name("suites.txt")
FOLDER = HERE.parents[1] / "build" / "suites"
VALIDATORS: dict[str, Any] = {
    "draft2020-12": jsonschema.Draft202012Validator,
    "draft7": jsonschema.Draft7Validator,
}
_FORMS = 24
"""Texts of one value that are tried: its members in every order, its numbers in two ways."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One schema of the suite; ``cases`` are its instances as ``data`` and ``valid``.

    ``file`` is the one it stands in, such as ``optional/format/date``, which is the keyword's name.
    """

    draft: str
    file: str
    description: str
    schema: Any
    cases: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return f"{self.draft}/{self.file}: {self.description}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a group: ``refused`` holds why it was, and the rest is empty then. The rest is
    instances by their description: ``faults`` are invalid and the grammar allows them, ``lost`` are
    valid and it does not, ``bent`` it allows in another order or with another form of a number."""

    group: Group
    refused: UsageError | None = None
    faults: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    bent: tuple[str, ...] = ()


@cache
def groups(draft: str) -> tuple[Group, ...]:
    """Every group of ``draft``, in order. Skips the test if the archive is not there."""
    pin = next(line for line in PINS.read_text().splitlines() if line.startswith("jsonschema"))
    package, digest = pin.split(" --hash=sha256:")
    archive = FOLDER / f"{package.replace('==', '-')}.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs {archive.name} in build/suites (`make test` fetches it)")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest, f"{archive} is another file"
    return tuple(_read(archive, draft))


def _read(archive: Path, draft: str) -> Iterator[Group]:
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda one: one.name):
            _, found, file = member.name.partition(f"/json/tests/{draft}/")
            if not (found and file.endswith(".json")):
                continue
            content = tar.extractfile(member)
            assert content is not None
            for one in json.load(content):
                yield Group(
                    draft=draft,
                    file=file.removesuffix(".json"),
                    description=one["description"],
                    schema=one["schema"],
                    cases=tuple(one["tests"]),
                )


def judge(
    group: Group,
    begin: Callable[[str], Future[Constraint]],
    encode: Callable[[str], Sequence[int]],
    stop: int,
) -> Judged:
    """Walk the grammar of a group's schema, token by token, along each of its instances."""
    try:
        constraint = begin(f"start: {json_rule(enforceable(group.schema, 'schema'))}").result(60)
        constraint.mask()
    except UsageError as error:
        return Judged(group=group, refused=error)
    found: dict[str, list[str]] = {"faults": [], "lost": [], "bent": []}
    for case in group.cases:
        allowed = (_allows(constraint, encode(text), stop) for text in texts(case["data"]))
        first = next(allowed)
        told = case["description"]
        if not case["valid"] and (first or any(allowed)):
            found["faults"].append(told)
        if case["valid"] and not first:
            found["bent" if any(allowed) else "lost"].append(told)
    return Judged(group=group, **{kind: tuple(which) for kind, which in found.items()})


def _allows(constraint: Constraint, tokens: Sequence[int], stop: int) -> bool:
    at = constraint.fork()
    for token in tokens:
        if not at.allows(token):
            return False
        at.take(token)
    return at.allows(stop)


def texts(value: Any) -> Iterator[str]:
    """JSON texts of ``value``, the usual one first."""
    if isinstance(value, dict):
        orders = itertools.permutations(value)
        for order in itertools.islice(orders, _FORMS):
            for members in _each([value[key] for key in order]):
                pairs = zip(order, members, strict=True)
                yield "{" + ", ".join(f"{_text(key)}: {text}" for key, text in pairs) + "}"
    elif isinstance(value, list):
        for items in _each(value):
            yield f"[{', '.join(items)}]"
    else:
        yield _text(value)
        if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
            yield str(int(value))


def _each(values: Sequence[Any]) -> Iterator[tuple[str, ...]]:
    few = [tuple(itertools.islice(texts(one), _FORMS)) for one in values]
    return itertools.islice(itertools.product(*few), _FORMS)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def keyword(error: UsageError) -> str:
    """What a refusal of a schema names: its keyword, or the library's word for it."""
    param = error.param or ""
    if param not in ("grammar", "schema"):
        return param.rpartition(".")[2].partition("[")[0]
    words = str(error)
    if param == "schema":
        return "must be an object"
    named = ("oneOf", "patternPropert", "multipleOf", "Unsatisfiable", "regex", "Properties")
    return next((word for word in named if word in words), words)
