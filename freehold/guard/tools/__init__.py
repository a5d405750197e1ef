"""Tools under policy: who may be called, with what, and not at a stranger's word."""

from freehold.guard.tools.policy import ToolPolicy, ToolRule, read
from freehold.guard.tools.session import Received, Ruling, ToolSession, marked

__all__ = ["Received", "Ruling", "ToolPolicy", "ToolRule", "ToolSession", "marked", "read"]
