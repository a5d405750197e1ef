"""What is done about what the detectors see: the owner's policies, by name.

A policy says for each side (``prompt``, ``answer``) and category what is done, from ``allow`` to
``block``. Two are built in: ``warn`` lets everything pass and tells of it, ``block`` stops what
asks for harm or turns a model against its rules. The owner's file (TOML) may change them and name
others; each begins as the one it is ``like``.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from freehold.errors import UsageError
from freehold.types import Action, Category

Side: TypeAlias = Literal["prompt", "answer"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

ACTIONS: tuple[Action, ...] = get_args(Action)
CATEGORIES: tuple[Category, ...] = get_args(Category)
DATA: tuple[Category, ...] = ("personal", "secret")
"""Categories of data that must not travel: these have spans, and can be masked."""
MAX_WORDS = 4096
MAX_HOLD = 1024
MAX_POLICIES = 256
DEFAULT = "warn"

_HARM: tuple[Category, ...] = tuple(c for c in CATEGORIES if c not in (*DATA, "political"))
_HEX = 12


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One policy. Docs: ``docs/guard-serving.md`` lists what each key means."""

    prompt: dict[Category, Action] = {}
    answer: dict[Category, Action] = {}
    labels: dict[str, Action] = {}
    threshold: float = 0.5
    answer_threshold: float = 0.6
    thresholds: dict[Category, float] = {}
    clean: bool = False
    roles: tuple[Role, ...] = ("system", "user", "assistant", "tool")
    model: Literal["off", "uncertain", "always"] = "off"
    band: tuple[float, float] = (0.2, 0.9)
    loose: bool = False
    probe: bool = True
    seconds: float = 2.0
    failure: Literal["block", "allow"] = "block"
    thoughts: Literal["judge", "hide"] = "judge"
    tools: str = ""
    hold: int = 32
    refusal: str = "This request was stopped by the rules of this server."
    cut: str = "\n\n[The rest of this answer was stopped by the rules of this server.]"
    keep_content: bool = False

    def limit(self, side: Side, category: Category) -> float:
        """The score from which a category counts. Data is as sure in an answer as in a prompt; the
        rest is not, for an answer is judged in many parts, and the worst one counts."""
        answer = side == "answer" and category not in DATA
        usual = self.answer_threshold if answer else self.threshold
        return self.thresholds.get(category, usual)

    def table(self, side: Side) -> Mapping[Category, Action]:
        """What is done about each category on one side; those not named are allowed."""
        return self.prompt if side == "prompt" else self.answer

    @property
    def digest(self) -> str:
        """SHA-256 over all keys, the first 12 digits: the same policy has the same one."""
        written = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(written).hexdigest()[:_HEX]

    @property
    def holds(self) -> bool:
        """Whether answers are held back: only where something could be cut or masked."""
        if self.tools:
            return True
        done = {*self.answer.values(), *(self.labels.values() if self._seeks_data else ())}
        return not done.isdisjoint(("mask", "review", "block"))

    @property
    def passes(self) -> bool:
        """Whether prompts go on as they came, whatever is seen in them."""
        done = {*self.prompt.values(), *self.answer.values(), *self.labels.values()}
        return not (self.clean or self.tools) and done.isdisjoint(("mask", "review", "block"))

    @property
    def _seeks_data(self) -> bool:
        return any(self.answer.get(category, "allow") != "allow" for category in DATA)

    def check(self) -> None:
        """Raises ``UsageError`` naming the first key that cannot be."""
        _within("threshold", self.threshold, 0.0, 1.0)
        _within("answer_threshold", self.answer_threshold, 0.0, 1.0)
        for category, value in self.thresholds.items():
            _within(f"thresholds.{category}", value, 0.0, 1.0)
        _within("band", self.band[0], 0.0, self.band[1])
        _within("band", self.band[1], self.band[0], 1.0)
        _within("seconds", self.seconds, 0.001, 600.0)
        _within("hold", self.hold, 2, MAX_HOLD)
        for name in ("refusal", "cut"):
            if not 0 < len(getattr(self, name)) <= MAX_WORDS:
                raise UsageError(f"{name} must have 1 to {MAX_WORDS} characters", param=name)
        for name in ("prompt", "answer"):
            for category, action in getattr(self, name).items():
                if action == "mask" and category not in DATA:
                    raise UsageError(
                        f"{name}.{category} is mask: only {' and '.join(DATA)} can be masked",
                        param=f"{name}.{category}",
                    )


def _within(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN is refused too.
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{name} is {value}: it must lie between {low:g} and {high:g}", param=name)


def _all(action: Action) -> dict[Category, Action]:
    return dict.fromkeys(_HARM, action) | {"secret": "warn"}


BUILT_IN: Mapping[str, Policy] = MappingProxyType(
    {
        "warn": Policy(prompt=_all("warn"), answer=_all("warn")),
        "block": Policy(
            clean=True,
            prompt=_all("block") | {"secret": "mask"},
            answer=_all("block") | {"secret": "mask"},
        ),
    }
)


def read_policies(path: Path) -> dict[str, Policy]:
    """The built-in policies, and over them those of the file. Raises ``UsageError`` naming the
    file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason}") from error
    try:
        return parse_policies(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", param=error.param) from None


def parse_policies(text: str) -> dict[str, Policy]:
    """The same of the file's text."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"this is not TOML: {error}") from error
    for key in found:
        if key != "policy":
            raise UsageError(f"unknown key {key!r}: begin each policy with [policy.NAME]")
    tables = found.get("policy", {})
    if not isinstance(tables, dict) or len(tables) > MAX_POLICIES:
        raise UsageError(f"policy must hold tables [policy.NAME], at most {MAX_POLICIES}")
    made = dict(BUILT_IN)
    for name in tables:
        _make(name, tables, made, ())
    return made


def _make(
    name: str, tables: Mapping[str, Any], made: dict[str, Policy], waiting: tuple[str, ...]
) -> Policy:
    """The policy of that name, after the one it is like."""
    where = f"[policy.{name}] "
    if name in waiting:
        raise UsageError(f"{where}is like itself: {' -> '.join((*waiting, name))}", param="like")
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise UsageError(f"{where}a policy's name is 1 to 64 printable characters")
    given = tables[name]
    if not isinstance(given, dict):
        raise UsageError(f"policy.{name} must be a table: begin it with [policy.{name}]")
    like = given.get("like", name if name in BUILT_IN else DEFAULT)
    if not isinstance(like, str) or like not in (*tables, *BUILT_IN):
        known = ", ".join(sorted({*BUILT_IN, *tables} - {name}))
        raise UsageError(f"{where}like is {str(like)[:64]!r}: these there are: {known}")
    if like in tables and (like != name or like not in BUILT_IN):
        base = _make(like, tables, made, (*waiting, name))
    else:
        base = BUILT_IN[like]
    own = {key: value for key, value in given.items() if key != "like"}
    try:
        policy = msgspec.convert(_merged(msgspec.to_builtins(base), own), Policy)
        policy.check()
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}{_told(error)}") from None
    except UsageError as error:
        raise UsageError(f"{where}{error}", param=error.param) from None
    made[name] = policy
    return policy


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``; of a table, key by key."""
    merged = dict(base)
    for key, value in own.items():
        before = base.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[key] = {**before, **value} if both and before is not None else value
    return merged


def _told(error: msgspec.ValidationError) -> str:
    """A message of the library's with the path in front, as TOML writes it."""
    reason, _, path = str(error).partition(" - at ")
    path = path.strip("`").removeprefix("$").removeprefix(".")
    reason = reason[:1].lower() + reason[1:]
    return f"{path}: {reason}" if path else reason
