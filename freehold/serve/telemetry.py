"""Traces sent to one collector, over OTLP/HTTP: needs the extra ``telemetry``, and is not imported
without it. The lock lets the counter connect to that address and to no other.

No proxy, redirect, ``.netrc`` or other address from the environment is followed. A collector that
is slow or away costs spans, never an answer: a thread of its own sends, from a queue with an end.
"""

from __future__ import annotations

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from freehold import __version__
from freehold.serve.tracing import Trace

_QUEUE = 4096
_BATCH = 512
_EVERY_SECONDS = 2.0
_PATIENCE_SECONDS = 3.0


class Traces:
    """Sends traces to the collector at ``address`` (``http://IP:PORT``), as spans of the service
    ``freehold``. Starts a thread; ``close`` sends what is left, for some seconds at most."""

    def __init__(self, address: str, instance: str) -> None:
        session = requests.Session()
        session.trust_env = False
        exporter = OTLPSpanExporter(
            endpoint=f"{address}/v1/traces", timeout=_PATIENCE_SECONDS, session=session
        )
        described = {
            "service.name": "freehold",
            "service.version": __version__,
            "service.instance.id": instance,
        }
        self._provider = TracerProvider(
            resource=Resource(described),
            sampler=ParentBased(ALWAYS_ON),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_QUEUE,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=1000 * _EVERY_SECONDS,
            )
        )
        self._tracer = self._provider.get_tracer("freehold.serve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, trace: Trace) -> None:
        """Put a trace that is closed into the queue."""
        first, *rest = trace.spans
        outer = self._propagator.extract({"traceparent": trace.parent}) if trace.parent else None
        whole = self._tracer.start_span(
            first.name,
            context=outer,
            kind=SpanKind.SERVER,
            attributes=first.attributes,
            start_time=first.start,
        )
        inner = set_span_in_context(whole)
        for one in rest:
            span = self._tracer.start_span(
                one.name, context=inner, attributes=one.attributes, start_time=one.start
            )
            if one.failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(one.end)
        if first.failed:
            whole.set_status(Status(StatusCode.ERROR))
        whole.end(first.end)

    def close(self) -> None:
        """Send what is left, and end the thread."""
        self._provider.shutdown()
