"""Adapters that come to a running server and leave it: the vault says which, the gate says whether,
the engine takes them, and the counter serves them under their own names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from freehold.cli.gating import admit
from freehold.cli.output import say
from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.cli.trust import trusted
from freehold.errors import EngineError, FreeholdError, IntegrityError

if TYPE_CHECKING:
    from freehold.cli.hosting import Living
    from freehold.engine.client import EngineProcess
    from freehold.serve.desk import Desk, Hosted
    from freehold.store.adapters import Placed

EVERY = 2.0
"""Seconds between two looks into the vault."""


def allow(name: str, digest: str, base: str, settings: Settings) -> None:
    """Return if the vault's adapter may be served beside the model ``base`` (a digest).

    It passes the gate of models, and what its passport says of its parent must be that model.
    Raises ``GateError``, ``IntegrityError`` and what verifying raises.
    """
    from freehold.store import Store, adapters, passport, verify

    store = Store(root())
    found = verify(store, name, keep=False)
    if found.digest != digest:
        raise IntegrityError(f"{name} is another adapter by now: add it again")
    admit(found, settings, "serve")
    adapters.check_base(name, passport.read(store, digest, trusted(settings)), base)


async def attach(living: Living, name: str, digest: str, base: str, settings: Settings) -> int:
    """Ask the gate, then have the engine put the adapter beside the model; the bytes it takes."""
    engine: EngineProcess = living.process
    await asyncio.to_thread(allow, name, digest, base, settings)
    return await engine.attach(name, digest)


@asynccontextmanager
async def following(living: Living, desk: Desk, settings: Settings) -> AsyncIterator[None]:
    """Serve the vault's adapters of this model beside it: those of now, and, as long as this lasts,
    those that come; those that leave are served no longer."""
    if "adapters" not in living.engine.card.caps:
        yield
        return
    shelf = _Shelf(living, desk, settings)
    await shelf.look()
    watching = asyncio.create_task(shelf.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class _Shelf:
    def __init__(self, living: Living, desk: Desk, settings: Settings) -> None:
        self._living, self._desk, self._settings = living, desk, settings
        self._base = living.engine.card.digest
        self._served: dict[str, Placed] = {}
        self._refused: dict[str, Placed] = {}
        self._said = ""

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Bring what is served to what the vault says; what cannot be served is told of once."""
        from freehold.store import Store, adapters

        try:
            found = await asyncio.to_thread(adapters.placed, Store(root()))
        except FreeholdError as error:
            self._say(str(error))
            return
        wanted = {one.name: one for one in found if one.base == self._base}
        for name in [n for n, one in self._served.items() if wanted.get(n) != one]:
            await self._leave(name)
        for name, one in wanted.items():
            if name not in self._served and self._refused.get(name) != one:
                await self._come(one)

    async def _come(self, one: Placed) -> None:
        try:
            nbytes = await attach(self._living, one.name, one.adapter, self._base, self._settings)
            self._desk.add(self._hosted(one), beside=self._living.name)
        except EngineError:
            return  # the engine is gone, and says so itself
        except FreeholdError as error:
            self._refused[one.name] = one
            say(f"the adapter {one.name} is not served: {error}")
            return
        self._served[one.name] = one
        say(f"{one.name} is served beside {self._living.name}, {nbytes / 1e6:.1f} MB")

    async def _leave(self, name: str) -> None:
        del self._served[name]
        self._desk.remove(name)
        await self._living.process.detach(name)
        say(f"{name} is served no longer")

    def _hosted(self, one: Placed) -> Hosted:
        from freehold.serve.adapters import Adapted
        from freehold.serve.desk import Hosted

        engine = self._living.engine
        return Hosted(
            name=one.name,
            card=engine.card,
            engine=Adapted(engine, one.name),
            codec=self._living.codec,
            created=int(time.time()),
            parent=self._living.name,
            adapter=one.adapter,
        )

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            say(line)
