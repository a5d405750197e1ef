"""An engine as the requests of one adapter see it: they name a model, and need not know that it is
another's weights with a change beside them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from freehold.types import (
    Engine,
    EngineStats,
    Event,
    Floats,
    Ids,
    Logprobs,
    ModelCard,
    Pooling,
    Sampling,
    Tap,
)


class Adapted:
    """``types.Engine``, every request through the adapter ``name``."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name

    @property
    def card(self) -> ModelCard:
        """The model's own."""
        return self._engine.card

    def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event]:
        return self._engine.generate(ids, sampling, adapter=adapter or self._name, taps=taps)

    async def score(
        self, ids: Ids, *, top: int = 0, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> Logprobs:
        return await self._engine.score(ids, top=top, adapter=adapter or self._name, taps=taps)

    async def embed(self, ids: Ids, *, pooling: Pooling, adapter: str | None = None) -> Floats:
        return await self._engine.embed(ids, pooling=pooling, adapter=adapter or self._name)

    async def stats(self) -> EngineStats:
        return await self._engine.stats()
