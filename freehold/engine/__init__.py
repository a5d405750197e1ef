"""The boiler room: token ids in, token ids out, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freehold.engine.client import EngineProcess
    from freehold.engine.wire import EngineSettings

__all__ = ["EngineProcess", "EngineSettings"]


def __getattr__(name: str) -> Any:
    # Only when asked for: the engine's own process needs no client, and starts sooner without it.
    if name == "EngineProcess":
        from freehold.engine.client import EngineProcess

        return EngineProcess
    if name == "EngineSettings":
        from freehold.engine.wire import EngineSettings

        return EngineSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
