"""``GET`` of ``/v1/models``, ``/v1/passports`` and one of each, ``/health``, ``/metrics``,
``/residency`` and ``/openapi.json``."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from freehold.errors import NotFoundError
from freehold.serve.desk import Hosted, desk_of, key_of
from freehold.serve.metrics import Moment
from freehold.serve.pulse import engine_stats
from freehold.serve.wire import encode


async def list_models(request: Request) -> Response:
    """Every model that the request's key may use."""
    seen = desk_of(request).visible(key_of(request))
    data = [_describe(served.hosted) for served in seen]
    return _json({"object": "list", "data": data})


async def show_model(request: Request) -> Response:
    """One model, by name or alias."""
    served = desk_of(request).find(request.path_params["model"], request)
    return _json(_describe(served.hosted))


def _describe(hosted: Hosted) -> dict[str, Any]:
    card = hosted.card
    return {
        "id": hosted.name,
        "object": "model",
        "created": hosted.created,
        "owned_by": "freehold",
        "aliases": list(hosted.aliases),
        "digest": card.digest,
        "context_length": card.context,
        "numerics": card.numerics,
        "parent": hosted.parent or None,
        "adapter": hosted.adapter or None,
    }


async def list_passports(request: Request) -> Response:
    """Which models have answered here, by name and digest: each has a passport to read."""
    hosted = [served.hosted for served in desk_of(request).models]
    data = [
        {"id": one.name, "object": "passport", "digest": one.adapter or one.card.digest}
        for one in hosted
    ]
    return _json({"object": "list", "data": data})


async def show_passport(request: Request) -> Response:
    """What is known of one served model, with every signed envelope."""
    name = desk_of(request).find(request.path_params["model"], request).hosted.name
    told = request.app.state.passports
    if told is None:
        raise NotFoundError("this server was started without anything that reads passports")
    # Its signatures are checked: other requests need not wait for that.
    data = await asyncio.to_thread(told, name)
    return Response(data, media_type="application/json")


async def health(request: Request) -> Response:
    """Says to anyone whether to send requests here, and nothing else."""
    desk = desk_of(request)
    if desk.deadlines.draining:
        return _json({"status": "draining"}, 503)
    if missing := await desk.pulse.missing():
        return _json({"status": f"{missing}-down"}, 503)
    return _json({"status": "ok"})


async def metrics(request: Request) -> Response:
    """The Prometheus page."""
    desk = desk_of(request)
    # An adapter's requests are its parent's engine's.
    hosted = [served.hosted for served in desk.models if not served.hosted.parent]
    stats = await engine_stats([one.engine for one in hosted])
    engines = tuple(zip((one.name for one in hosted), stats, strict=True))
    residency = request.app.state.residency
    moment = Moment(
        engines=engines,
        inside=desk.admission.inside,
        unsealed=desk.ledgers.unsealed,
        lag=desk.ledgers.lag,
        residency={} if residency is None else residency(),
    )
    return Response(desk.metrics.page(moment), media_type=CONTENT_TYPE_LATEST)


async def show_residency(request: Request) -> Response:
    """What is shut in each of this server's processes, and how many attempts there were."""
    told = request.app.state.residency
    if told is None:
        raise NotFoundError("this server was started without anything that watches its lock")
    return _json(told())


async def openapi(request: Request) -> Response:
    """The schema of this API."""
    return _json(request.app.openapi())


def _json(data: object, status: int = 200) -> Response:
    return Response(encode(data), status, media_type="application/json")
