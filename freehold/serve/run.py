"""Open the counter on an address, and close it in good order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from freehold.errors import UsageError
from freehold.serve.desk import Desk
from freehold.serve.metrics import Metrics
from freehold.serve.protocol import GuardedProtocol

if TYPE_CHECKING:
    from freehold.serve.tls import Renewable

LOG = logging.getLogger("freehold.serve")

_KEEP_ALIVE_SECONDS = 65
_BACKLOG = 1024
_GRACE_SECONDS = 3
"""After the drain, for error events to reach their readers."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where to listen. ``port`` 0 takes a free one. Certificate and key are PEM files, and so are
    the authorities whose certificates clients must show, if any are named. ``tls_reload``: they are
    read again at SIGHUP, which else ends a server."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    tls_reload: bool = False
    insecure_bind: bool = False


def check(binding: Binding) -> None:
    """Refuse what ``run`` would refuse, before a model is loaded for nothing.

    Raises ``UsageError`` as ``run`` does.
    """
    family, address = _resolve(binding, _tls(binding))
    _listen(family, address, binding).close()


async def run(
    app: FastAPI,
    binding: Binding,
    *,
    drain_seconds: float,
    on_ready: Callable[[str], None],
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve ``app`` until SIGTERM or SIGINT, then finish what runs and return.

    ``on_listening`` is called once all that is opened is open, before the first request is taken.
    ``on_ready`` gets the address once requests are taken. At the first signal nothing new is
    accepted and running answers have ``drain_seconds`` to end; at the second all ends at once.
    Call it from the main thread, which signals reach. Raises ``UsageError`` when the address is
    not loopback and has neither TLS nor ``insecure_bind``, is taken, or the certificate is bad.
    """
    tls = _tls(binding)
    family, address = _resolve(binding, tls)
    desk: Desk = app.state.desk
    config = uvicorn.Config(
        app,
        loop="none",
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds) + _GRACE_SECONDS,
    )
    config.load()
    config.ssl = tls
    server = _Server(config, desk, drain_seconds)
    with _listen(family, address, binding) as listener:
        scheme = "https" if tls else "http"
        server.announce = lambda: on_ready(f"{scheme}://{_shown(listener)}")
        on_listening()
        try:
            if tls is not None:
                desk.metrics.certificate(tls.ends)
            with _renewing(tls if binding.tls_reload else None, desk.metrics):
                await server.serve(sockets=[listener])
        finally:
            server.hang_up()
            await desk.quotas.settle()
            await desk.ledgers.settle()


class _Server(uvicorn.Server):
    """uvicorn's server, with the counter's own manner of closing."""

    announce: Callable[[], None]

    def __init__(self, config: uvicorn.Config, desk: Desk, drain_seconds: float) -> None:
        super().__init__(config)
        self._desk = desk
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not recorded in uvicorn's list, which would raise the signal again at the end: a drained
        # server ends well.
        act = self._end_now if self.should_exit else self._drain
        self.should_exit = True
        self._loop.call_soon_threadsafe(act)

    def _drain(self) -> None:
        self._desk.deadlines.drain(self._drain_seconds)

    def _end_now(self) -> None:
        self.force_exit = True
        self.hang_up()

    def hang_up(self) -> None:
        """Leave nothing open, even where ``run`` itself is cancelled: a loop that goes on must not
        keep watching a listening socket that is closed, whose number the next one may get."""
        for listening in getattr(self, "servers", ()):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _tls(binding: Binding) -> Renewable | None:
    if binding.tls_cert is None and binding.tls_key is None:
        if binding.tls_client_ca is not None:
            raise UsageError(
                "clients' certificates need TLS: give --tls-cert and --tls-key, too",
                param="tls_client_ca",
            )
        return None
    if binding.tls_cert is None or binding.tls_key is None:
        raise UsageError("TLS needs both --tls-cert and --tls-key", param="tls_cert")
    from freehold.serve.tls import Files, Renewable

    return Renewable(
        Files(cert=binding.tls_cert, key=binding.tls_key, client_ca=binding.tls_client_ca)
    )


@contextmanager
def _renewing(tls: Renewable | None, metrics: Metrics) -> Iterator[None]:
    """Read certificates again at SIGHUP; a server that was told to ignore it (``nohup``) does."""
    here = threading.current_thread() is threading.main_thread()
    hangup = getattr(signal, "SIGHUP", None)
    if tls is None or not here or hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        yield
        return

    def renew() -> None:
        try:
            tls.renew()
            metrics.certificate(tls.ends)
        except UsageError as error:
            LOG.error("TLS goes on with the certificate of before: %s", error)
        else:
            LOG.info("the TLS certificate was read again")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(hangup, renew)
    try:
        yield
    finally:
        loop.remove_signal_handler(hangup)


def _resolve(
    binding: Binding, tls: Renewable | None
) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(
            binding.host or "0.0.0.0",  # noqa: S104 - an empty host means every address: say so
            binding.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(
            f"{binding.host}:{binding.port} is no address of this machine: {error}", param="host"
        ) from error
    loopback = all(ipaddress.ip_address(str(one[4][0])).is_loopback for one in found)
    if not loopback and tls is None and not binding.insecure_bind:
        raise UsageError(
            f"{binding.host} can be reached from other machines, and without TLS keys and answers "
            "would cross the network in the clear: give --tls-cert and --tls-key, or, behind a "
            "proxy that does TLS, --insecure-bind",
            param="host",
        )
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _listen(
    family: socket.AddressFamily, address: tuple[str, int], binding: Binding
) -> socket.socket:
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {binding.host}:{binding.port} ({error.strerror}): choose another "
            "with --host or --port, 0 for any free port",
            param="port",
        ) from error


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
