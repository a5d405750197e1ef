"""Who may ask for what: a key's role, and the paths that are its own.

A ``user`` asks the model. An ``auditor`` reads what was recorded and models' passports, and nothing
else. A path that is named nowhere here is for users.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Role: TypeAlias = Literal["user", "auditor"]
ROLES: tuple[Role, ...] = ("user", "auditor")

_PATHS: tuple[tuple[str, frozenset[str]], ...] = (
    ("/v1/ledger/", frozenset({"auditor"})),
    ("/v1/passports", frozenset({"user", "auditor"})),
)
_ELSE = frozenset({"user"})


def may(role: str, path: str) -> bool:
    """Whether a key of ``role`` may ask for ``path``."""
    return role in next((roles for start, roles in _PATHS if path.startswith(start)), _ELSE)
