"""What the counter has at hand: the models it serves, its keys, its limits and its measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from freehold.errors import UsageError
from freehold.serve.account import Ledgers
from freehold.serve.errors import Problem, ProblemError
from freehold.serve.guarding import Guarding, Watched
from freehold.serve.keys import KeyInfo, Keyring
from freehold.serve.limits import Admission, Deadlines, Limits
from freehold.serve.metrics import Meter, Metrics
from freehold.serve.prompt import Tokenising
from freehold.serve.pulse import Pulse
from freehold.serve.quotas import Quotas, Spending
from freehold.serve.tracing import Send
from freehold.types import Codec, Engine, Guard, Ledger, ModelCard

FINGERPRINT_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """A model to serve under ``name`` (and ``aliases``). ``created`` is in Unix seconds.

    With a ``parent`` it is an adapter, of that digest, beside the model that is served by that
    name; the ``card`` is then the parent's.
    """

    name: str
    card: ModelCard
    engine: Engine
    codec: Codec
    created: int
    aliases: tuple[str, ...] = ()
    parent: str = ""
    adapter: str = ""

    @property
    def fingerprint(self) -> str:
        """OpenAI's ``system_fingerprint``: the beginning of the model's or the adapter's digest."""
        return f"fp_{(self.adapter or self.card.digest).rpartition(':')[2][:FINGERPRINT_DIGITS]}"


class Served:
    """A hosted model with its own tokenising and instruments."""

    def __init__(
        self, hosted: Hosted, metrics: Metrics, tokenising: Tokenising | None = None
    ) -> None:
        self.hosted = hosted
        self.tokenising = tokenising or Tokenising(hosted.card, hosted.codec)
        self.meter = Meter(metrics, hosted.name)


class Desk:
    """Everything a request needs, in one place. Belongs to one application and one event loop."""

    def __init__(
        self,
        models: Sequence[Hosted],
        keys: Keyring,
        limits: Limits,
        ledger: Ledger | None = None,
        traces: Send | None = None,
        *,
        guard: Guard | None = None,
    ) -> None:
        self.keys = keys
        self.traces = traces
        self.limits = limits
        self.metrics = Metrics()
        self.ledgers = Ledgers(ledger, self.metrics)
        self.admission = Admission(limits)
        self.deadlines = Deadlines(limits)
        self.quotas = Quotas(keys, limits.request_seconds)
        registry = self.metrics.registry
        self.guarding = None if guard is None else Guarding(guard, keys.url, registry)
        self.pulse = Pulse([hosted.engine for hosted in models], keys, ledger)
        self.models: list[Served] = []
        self._by_name: dict[str, Served] = {}
        for hosted in models:
            self._take(Served(hosted, self.metrics))

    def add(self, hosted: Hosted, *, beside: str) -> None:
        """Serve an adapter from now on, ``beside`` the model served by that name. Raises
        ``UsageError`` where its name is taken."""
        self._take(Served(hosted, self.metrics, self._by_name[beside].tokenising))

    def remove(self, name: str) -> None:
        """Serve an adapter no longer; requests under way are answered."""
        served = self._by_name.pop(name)
        self.models.remove(served)
        hosted = served.hosted
        self.metrics.serves_no_longer(name, hosted.adapter, hosted.card.numerics)

    def _take(self, served: Served) -> None:
        hosted = served.hosted
        names: dict[str, Served] = {}
        for name in (hosted.name, *hosted.aliases):
            if name in self._by_name or name in names:
                raise UsageError(f"two models are to be served as {name!r}: rename one")
            names[name] = served
        self._by_name |= names
        self.models.append(served)
        digest = hosted.adapter or hosted.card.digest
        self.metrics.serves(hosted.name, digest, hosted.card.numerics)

    def visible(self, key: KeyInfo | None) -> list[Served]:
        """The models that ``key`` may use."""
        named = None if key is None else key.limits.models
        return [one for one in self.models if named is None or one.hosted.name in named]

    def find(self, name: str, request: Request) -> Served:
        """The model called ``name``, if the request's key may use it. Raises ``ProblemError`` (404)
        naming ``model``."""
        seen = self.visible(key_of(request))
        served = self._by_name.get(name)
        if served is None or served not in seen:
            known = ", ".join(sorted(n for n, one in self._by_name.items() if one in seen))
            known = known or "none"
            raise ProblemError(
                Problem(
                    status=404,
                    message=f"the model {name[:128]!r} is not served here; these are: {known}",
                    param="model",
                    code="model_not_found",
                )
            )
        return served

    def watched(self, request: Request) -> Watched | None:
        """The guard of ``request``, if there is one. Raises ``ProblemError``."""
        return None if self.guarding is None else self.guarding.watched(key_of(request))

    def spending(self, request: Request, served: Served) -> Spending:
        """What ``request`` will cost its key."""
        return self.quotas.spending(key_of(request), served.hosted.name)


def key_of(request: Request) -> KeyInfo | None:
    """The key that ``request`` came with."""
    return cast("KeyInfo | None", request.scope["state"].get("key"))


def desk_of(request: Request) -> Desk:
    """The desk of the application that got ``request``."""
    return cast("Desk", request.app.state.desk)
