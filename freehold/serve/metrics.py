"""What Prometheus sees. One registry per application; names start with ``freehold_``."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from freehold.types import EngineStats, Prefilled

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5)
_GAUGES = {
    "running": ("requests_running", "Requests the engine is working on."),
    "waiting": ("requests_waiting", "Requests queued before the engine."),
    "pages_total": ("kv_pages_total", "KV cache pages there are."),
    "pages_free": ("kv_pages_free", "KV cache pages nobody holds."),
    "pages_cached": ("kv_pages_cached", "KV cache pages only the prefix cache holds."),
    "guessed": ("guessed_tokens", "Tokens guessed ahead since the engine's start."),
    "kept": ("kept_guesses", "Guesses that were what the model chose, since the engine's start."),
}


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
        self._up = Gauge(
            "freehold_engine_up", "1 while the engine answers.", model, registry=self.registry
        )
        self._inside = Gauge(
            "freehold_requests_inside",
            "Requests the counter has admitted and not finished.",
            registry=self.registry,
        )
        self._gauges = {
            name: Gauge(f"freehold_{metric}", text, model, registry=self.registry)
            for name, (metric, text) in _GAUGES.items()
        }

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def page(self, inside: int, engines: Iterable[tuple[str, EngineStats | None]]) -> bytes:
        """The page in Prometheus' text format; ``None`` stands for an engine that is gone."""
        self._inside.set(inside)
        for model, stats in engines:
            self._up.labels(model).set(stats is not None)
            if stats is not None:
                for name, gauge in self._gauges.items():
                    gauge.labels(model).set(getattr(stats, name))
        return generate_latest(self.registry)


class Meter:
    """One model's instruments, with the label looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._prompt = metrics.prompt.labels(model)
        self._cached = metrics.cached.labels(model)
        self.generated = metrics.generated.labels(model)
        self.first = metrics.first.labels(model)
        self.between = metrics.between.labels(model)

    def prefilled(self, event: Prefilled) -> None:
        self._prompt.inc(event.prompt_tokens)
        self._cached.inc(event.cached_tokens)

    def clock(self) -> TokenClock:
        return TokenClock(self)


class TokenClock:
    """Times the tokens of one answer."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._last = time.perf_counter()
        self._histogram = meter.first

    def token(self) -> None:
        now = time.perf_counter()
        self._histogram.observe(now - self._last)
        self._histogram = self._meter.between
        self._last = now
        self._meter.generated.inc()
