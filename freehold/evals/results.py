"""What an evaluation found, as plain data, and as JSON that is read back strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, StorageError
from freehold.evals import figures
from freehold.evals.kinds import METRICS

MAX_RESULTS = 1 << 28
FORMAT = "freehold-eval-1"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure with its 95 % interval over ``n`` items, and how that was found; ``none``: it has
    none, and both bounds are the value."""

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One item's scores by name."""

    id: str
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data that was asked."""

    file: str
    sha256: str
    licence: str
    source: str


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task's figures, the main one first, and what they come from. ``digest`` is that of the
    task itself: prompt, scorer, rows."""

    name: str
    suite: str
    language: str
    kind: str
    digest: str
    data: Source
    metrics: tuple[Metric, ...]
    items: tuple[Scored, ...] = field(repr=False)

    @property
    def main(self) -> Metric:
        """The figure that the task is known by."""
        return self.metrics[0]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All tasks of one model. ``limit`` is how many items of each were asked at most; ``None``:
    all."""

    model: str
    digest: str
    numerics: str
    tool: str
    limit: int | None
    tasks: tuple[TaskResult, ...]
    format: str = FORMAT


def metrics_of(kind: str, items: Sequence[Scored]) -> tuple[Metric, ...]:
    """The figures of a task from its items' scores."""
    if kind == "text":
        return (_ratio("bits_per_byte", items), _perplexity(items))
    names = [name for name in METRICS[kind] if name in items[0].scores]
    return tuple(_mean(name, [item.scores[name] for item in items]) for name in names)


def _mean(name: str, values: Sequence[float]) -> Metric:
    n = len(values)
    if all(value in (0.0, 1.0) for value in values) and name != "f1":
        found, how = figures.wilson(round(sum(values)), n), "Wilson"
    else:
        found, how = figures.ratio(values, [1.0] * n), _drawn(n)
    return Metric(name=name, value=found.value, low=found.low, high=found.high, n=n, interval=how)


def _drawn(n: int) -> str:
    """One item drawn again and again tells nothing of others."""
    return "bootstrap" if n > 1 else "none"


def parts_of(name: str, items: Sequence[Scored]) -> tuple[list[float], list[float]]:
    """What stands above and below in a figure's ratio, item by item."""
    if name == "bits_per_byte":
        bits = [item.scores["nats"] / math.log(2) for item in items]
        return bits, [item.scores["bytes"] for item in items]
    if name == "perplexity":
        return [i.scores["nats"] for i in items], [i.scores["tokens"] for i in items]
    return [i.scores[name] for i in items], [1.0] * len(items)


def _ratio(name: str, items: Sequence[Scored]) -> Metric:
    found = figures.ratio(*parts_of(name, items))
    return Metric(
        name=name,
        value=found.value,
        low=found.low,
        high=found.high,
        n=len(items),
        interval=_drawn(len(items)),
    )


def _perplexity(items: Sequence[Scored]) -> Metric:
    found = figures.ratio(*parts_of("perplexity", items))
    return Metric(
        name="perplexity",
        value=math.exp(found.value),
        low=math.exp(found.low),
        high=math.exp(found.high),
        n=len(items),
        interval=_drawn(len(items)),
    )


def public(results: Results, *, items: bool = True) -> dict[str, Any]:
    """As plain JSON data, with or without the single items."""
    built: dict[str, Any] = msgspec.to_builtins(results)
    if not items:
        for task in built["tasks"]:
            del task["items"]
    return built


def encode(results: Results) -> bytes:
    """The bytes of ``results.json``."""
    return (json.dumps(public(results), ensure_ascii=False, indent=1) + "\n").encode()


def read(path: Path) -> Results:
    """Results that ``encode`` wrote. Raises ``NotFoundError``, ``StorageError``,
    ``MalformedError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RESULTS + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there are no results at {path}", param="against") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    value = strictjson.parse(data, file=str(path), max_bytes=MAX_RESULTS)
    try:
        results = msgspec.convert(value, Results)
    except msgspec.ValidationError as error:
        raise MalformedError(
            f"{path} holds no results of an eval: {error}", file=str(path)
        ) from None
    if results.format != FORMAT or not all(task.metrics for task in results.tasks):
        raise MalformedError(f"{path} holds no results of the form {FORMAT}", file=str(path))
    return results
