"""The adapters that lie beside the model, by name: put there and taken away while answers run.

A request holds the adapter it began with: one that is taken away, or replaced by another of the
same name, is let go of when its last answer ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from freehold.errors import IntegrityError, UsageError
from freehold.qwen.adapter import Adapter
from freehold.types import VerifiedModel

MOST = 64
"""Adapters beside one model at a time."""


class Taker(Protocol):
    """What is asked of the model."""

    def adapter(self, found: VerifiedModel) -> Adapter: ...


class Adapters:
    """Those of one model. ``fetch`` verifies one of the vault; without, there are none."""

    def __init__(self, model: Taker, fetch: Callable[[str], VerifiedModel] | None) -> None:
        self._model, self._fetch = model, fetch
        self._held: dict[str, Adapter] = {}

    @property
    def taken(self) -> bool:
        """Whether any can be put here."""
        return self._fetch is not None

    def attach(self, name: str, digest: str) -> Adapter:
        """Put an adapter of the vault beside the model; ``digest`` is the only one it may have.

        Raises what verifying raises, ``IntegrityError``, ``MalformedError`` and ``UsageError``.
        """
        if self._fetch is None:
            raise UsageError("this engine takes no adapters", param="adapter")
        if name not in self._held and len(self._held) >= MOST:
            raise UsageError(f"{MOST} adapters are there already: remove one", param="adapter")
        found = self._fetch(name)
        if found.digest != digest:
            raise IntegrityError(f"{name} is not the adapter that the gate let pass: add it again")
        self._held[name] = made = self._model.adapter(found)
        return made

    def detach(self, name: str) -> None:
        """Take one away; what runs with it runs on."""
        self._held.pop(name, None)

    def find(self, name: str) -> Adapter | None:
        """The adapter of a request; ``None`` for an empty name. Raises ``UsageError`` for one that
        is not here."""
        if not name:
            return None
        if name not in self._held:
            raise UsageError(f"adapter {name!r} is not beside this model", param="adapter")
        return self._held[name]
