"""Who is told of what a server does: nobody, unless the owner's file names them."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from freehold.cli.peers import found
from freehold.cli.settings import Settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.residency.broker import Peer
    from freehold.serve.tracing import Send


def collector_of(settings: Settings) -> tuple[Peer, ...]:
    """The address of the collector of traces, if one is named. Raises ``UsageError``."""
    if not settings.telemetry.traces:
        return ()
    whole = ("opentelemetry", "opentelemetry.exporter", "opentelemetry.sdk")
    if not all(map(importlib.util.find_spec, whole)):
        raise UsageError(
            "traces need what sends them: pip install 'freehold[telemetry]'", param="traces"
        )
    host, port = settings.telemetry.address()
    return (found(host, port, "traces"),)


@contextmanager
def telling(collector: tuple[Peer, ...]) -> Iterator[Send | None]:
    """Send traces to ``collector`` until the end; nothing of it is imported where there is none."""
    if not collector:
        yield None
        return
    from freehold.serve.telemetry import Traces

    ((host, port),) = collector
    shown = f"[{host}]" if ":" in host else host
    traces = Traces(f"http://{shown}:{port}", secrets.token_hex(8))
    try:
        yield traces
    finally:
        traces.close()
