"""A collector of traces on loopback: takes OTLP over HTTP and decodes it by OpenTelemetry's own
protobuf definitions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Collector:
    """What has come: raw bodies, and the spans in them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Any] = []
        self.paths: set[str] = set()
        self.resources: list[dict[str, str]] = []
        self.status = 200

    def take(self, path: str, body: bytes) -> None:
        """One request's body."""
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        told = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        self.paths.add(path)
        self.bodies.append(body)
        for resource in told.resource_spans:
            named = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.resources.append(named)
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def wait(self, name: str, count: int = 1) -> list[Any]:
        """The spans of a name, once there are so many."""
        deadline = time.monotonic() + 20
        while len(found := [one for one in self.spans if one.name == name]) < count:
            assert time.monotonic() < deadline, [one.name for one in self.spans]
            time.sleep(0.05)
        return found


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as plain data."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    """A running collector and its address. Skips without the extra ``telemetry``."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(self.path, body)
            self.send_response(collector.status)
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", collector
    finally:
        server.shutdown()
        server.server_close()
