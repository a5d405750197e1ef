"""What Prometheus sees. One registry per application; names start with ``freehold_``, but for those
of the process itself. Labels are this program's own words and its owner's, never a client's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from freehold import __version__
from freehold.serve import tracing
from freehold.types import EngineStats, Prefilled

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5)
_LEAF_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is asked for when the page is: each model's engine (``None`` is gone), requests inside,
    what the ledger owes, and what ``/residency`` tells, if anything does."""

    engines: Iterable[tuple[str, EngineStats | None]] = ()
    inside: int = 0
    unsealed: int = 0
    lag: float = 0.0
    residency: Mapping[str, Any] = field(default_factory=dict)


class _Now(Collector):
    """The moment's numbers as Prometheus takes them."""

    def __init__(self) -> None:
        self.moment = Moment()

    def collect(self) -> Iterator[Metric]:
        now = self.moment
        yield _gauge("requests_inside", "Requests admitted and not finished.", now.inside)
        yield _gauge("ledger_entries_unsealed", "Entries of running requests.", now.unsealed)
        yield _gauge(
            "ledger_lag_seconds",
            "How long the oldest leaf that is not durable yet has been on its way.",
            now.lag,
        )
        yield from _engines(now.engines)
        if now.residency:
            yield from _residency(now.residency)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"freehold_{name}", text, value=value)


def _engines(engines: Iterable[tuple[str, EngineStats | None]]) -> Iterator[Metric]:
    model = ("model",)
    up = GaugeMetricFamily("freehold_engine_up", "1 while the engine answers.", labels=model)
    running = GaugeMetricFamily(
        "freehold_requests_running", "Requests the engine works on.", labels=model
    )
    waiting = GaugeMetricFamily(
        "freehold_requests_waiting", "Requests queued before the engine.", labels=model
    )
    pages = GaugeMetricFamily(
        "freehold_kv_pages",
        "KV cache pages: free, held by requests, or cached (given up when a request needs them).",
        labels=("model", "state"),
    )
    guessed = CounterMetricFamily(
        "freehold_guessed_tokens", "Tokens guessed ahead (speculative decoding).", labels=model
    )
    kept = CounterMetricFamily(
        "freehold_kept_guesses", "Guesses that were what the model chose.", labels=model
    )
    for name, stats in engines:
        up.add_metric((name,), stats is not None)
        if stats is None:
            continue
        running.add_metric((name,), stats.running)
        waiting.add_metric((name,), stats.waiting)
        held = stats.pages_total - stats.pages_free - stats.pages_cached
        for state, count in (
            ("free", stats.pages_free),
            ("cached", stats.pages_cached),
            ("held", held),
        ):
            pages.add_metric((name, state), count)
        guessed.add_metric((name,), stats.guessed)
        kept.add_metric((name,), stats.kept)
    yield from (up, running, waiting, pages, guessed, kept)


def _residency(told: Mapping[str, Any]) -> Iterator[Metric]:
    processes = told.get("processes", ())
    shut = bool(processes) and all(one["kernel"] for one in processes)
    yield _gauge("residency_enforced", "1 while the kernel shuts every process.", shut)
    yield _gauge("residency_recording", "1 while refused calls are noted.", told["recording"])
    attempts = CounterMetricFamily(
        "freehold_residency_attempts",
        "Calls that the lock refused, by process and system call.",
        labels=("process", "call"),
    )
    for process, calls in told.get("attempts_by", {}).items():
        for call, count in calls.items():
            attempts.add_metric((process, call), count)
    yield attempts


class Metrics:
    """All instruments. Methods are cheap enough to be called per token."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "freehold_http_requests",
            "HTTP requests by route and status (499: the client hung up).",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "freehold_http_request_seconds",
            "From a request's head to its answer's last byte.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        model = ("model",)
        self.prompt = Counter(
            "freehold_prompt_tokens", "Prompt tokens read.", model, registry=self.registry
        )
        self.cached = Counter(
            "freehold_cached_tokens",
            "Prompt tokens found in the prefix cache.",
            model,
            registry=self.registry,
        )
        self.generated = Counter(
            "freehold_generated_tokens", "Tokens generated.", model, registry=self.registry
        )
        self.first = Histogram(
            "freehold_time_to_first_token_seconds",
            "From a choice's hand-over to the engine to its first token, queueing included.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.between = Histogram(
            "freehold_time_per_token_seconds",
            "From one token of an answer to the next.",
            model,
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.prefill = Histogram(
            "freehold_prefill_seconds",
            "From a choice's hand-over to the engine until its prompt is read, queueing included.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "freehold_refusals",
            "Requests that were refused or failed, by the code that the client was told.",
            ("reason",),
            registry=self.registry,
        )
        leaf = Histogram(
            "freehold_ledger_write_seconds",
            "From sending a leaf off until it is durable.",
            ("leaf",),
            buckets=_LEAF_SECONDS,
            registry=self.registry,
        )
        self.opening, self.sealing = leaf.labels("open"), leaf.labels("seal")
        built = Gauge(
            "freehold_build_info", "1; the version.", ("version",), registry=self.registry
        )
        built.labels(__version__).set(1)
        self._model = Gauge(
            "freehold_model_info",
            "1 for each model served.",
            ("model", "digest", "numerics"),
            registry=self.registry,
        )
        self._ends = Gauge(
            "freehold_tls_certificate_end_timestamp_seconds",
            "When the server's certificate ends, in Unix time; 0 without TLS.",
            registry=self.registry,
        )
        self._now = _Now()
        self.registry.register(self._now)
        ProcessCollector(registry=self.registry)

    def serves(self, model: str, digest: str, numerics: str) -> None:
        self._model.labels(model, digest, numerics).set(1)

    def serves_no_longer(self, model: str, digest: str, numerics: str) -> None:
        self._model.remove(model, digest, numerics)

    def certificate(self, ends: float) -> None:
        self._ends.set(ends)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """``reason`` is an error's code, of those in ``docs/serve.md``."""
        self._refused.labels(reason).inc()

    def page(self, moment: Moment) -> bytes:
        """The page in Prometheus' text format."""
        self._now.moment = moment
        return generate_latest(self.registry)


class Meter:
    """One model's instruments, with the label looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.model = model
        self.prefill = metrics.prefill.labels(model)
        self._prompt = metrics.prompt.labels(model)
        self._cached = metrics.cached.labels(model)
        self.generated = metrics.generated.labels(model)
        self.first = metrics.first.labels(model)
        self.between = metrics.between.labels(model)

    def prefilled(self, event: Prefilled) -> None:
        self._prompt.inc(event.prompt_tokens)
        self._cached.inc(event.cached_tokens)

    def clock(self, choice: int = 0) -> TokenClock:
        return TokenClock(self, choice)


Stretch: TypeAlias = "tracing.Span | None"


class TokenClock:
    """Times one answer, from its hand-over to the engine: use it around the work."""

    def __init__(self, meter: Meter, choice: int) -> None:
        self._meter = meter
        self._choice = choice
        self._last = time.perf_counter()
        self._histogram = meter.first
        self._tokens = 0
        self._span: Stretch = None

    def __enter__(self) -> TokenClock:
        self._begin("engine.prefill")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._span is not None:
            if self._span.name == "engine.decode":
                self._span.say("gen_ai.usage.output_tokens", self._tokens)
            # A generator that is closed early has done what it was for.
            self._span.close(failed=kind is not None and not issubclass(kind, GeneratorExit))

    def prefilled(self, event: Prefilled) -> None:
        """The prompt has been read."""
        self._meter.prefilled(event)
        self._meter.prefill.observe(time.perf_counter() - self._last)
        if self._span is not None:
            self._span.say("gen_ai.usage.input_tokens", event.prompt_tokens)
            self._span.say("freehold.cached_tokens", event.cached_tokens)
            self._span.close()
            self._begin("engine.decode")

    def token(self) -> None:
        now = time.perf_counter()
        self._histogram.observe(now - self._last)
        self._histogram = self._meter.between
        self._last = now
        self._tokens += 1
        self._meter.generated.inc()

    def _begin(self, name: tracing.Name) -> None:
        self._span = tracing.begin(name)
        if self._span is not None:
            self._span.say("gen_ai.request.model", self._meter.model)
            self._span.say("freehold.choice", self._choice)
