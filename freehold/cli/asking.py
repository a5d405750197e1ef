"""A guard model behind an OpenAI-compatible address on this machine, for policies that ask one."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freehold.cli.settings import Settings
from freehold.cli.upstream import peer_of
from freehold.errors import EngineError, UsageError

if TYPE_CHECKING:
    from freehold.engine.wire import Remote
    from freehold.guard.model import EndpointGuard
    from freehold.residency.broker import Peer

_SILENCE_SECONDS = 600.0
"""A policy's own patience (``seconds``) ends long before."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and the only place that the counter is connected to for it."""

    remote: Remote
    peer: Peer


def endpoint_of(settings: Settings) -> Endpoint | None:
    """The address of the guard model, if one is named. Raises ``UsageError``: for one that is not
    on this machine, since whoever judges is shown every prompt and answer."""
    from freehold.engine.wire import Remote

    address, name = settings.guard_endpoint, settings.guard_endpoint_model
    if settings.guard == "off" or not address:
        return None
    if settings.guard_model:
        raise UsageError(
            "guard_model and guard_endpoint are both set: one guard model judges, leave out one",
            param="guard_endpoint",
        )
    if not name:
        raise UsageError(
            "guard_endpoint needs guard_endpoint_model: what the model is called there",
            param="guard_endpoint_model",
        )
    peer, ip = peer_of(address, "guard_endpoint")
    if ip and not ipaddress.ip_address(ip).is_loopback:
        raise UsageError(
            f"guard_endpoint is {address!r}, which is another machine ({ip}): a guard model sees "
            "every prompt, so it must be on this one",
            param="guard_endpoint",
        )
    remote = Remote(address=address, ip=ip, what=f"guard model at {address}", name=name)
    return Endpoint(remote=remote, peer=peer)


@asynccontextmanager
async def asking(endpoint: Endpoint) -> AsyncIterator[EndpointGuard]:
    """The guard model there. It need not answer yet: until it does, policies that ask it come to
    their ``failure``."""
    import msgspec

    from freehold.engine.remote.http import AwayError, Wire
    from freehold.guard.model import EndpointGuard

    wire = Wire(endpoint.remote, silence=_SILENCE_SECONDS)

    async def ask(body: Mapping[str, Any]) -> Any:
        try:
            return msgspec.json.decode(await wire.ask("POST", "/v1/chat/completions", body))
        except AwayError as error:
            raise EngineError(f"{endpoint.remote.what} is away: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # no reply that could be read

    try:
        yield EndpointGuard(ask, model=endpoint.remote.name)
    finally:
        await wire.close()
