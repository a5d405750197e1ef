"""The boiler room: token ids in, token ids out, in a process of its own."""

from freehold.engine.client import EngineProcess
from freehold.engine.wire import EngineSettings

__all__ = ["EngineProcess", "EngineSettings"]
