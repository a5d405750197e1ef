"""What ``freehold residency prove`` tries from inside each process of a server.

An attack is harmless where it succeeds: it sends a few marked bytes to a listener of the prover's,
makes a file of its own and removes it, looks and does not touch. It returns when it got through. It
raises ``PermissionError`` (or another ``OSError``) when the kernel refused, and ``AbsentError``
where this machine has nothing to attack.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MARK = b"freehold residency prove"

_REFUSED = (errno.EPERM, errno.EACCES)
_NOT_HERE = (
    errno.ENOSYS,
    errno.ENOENT,
    errno.ENODEV,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.EOPNOTSUPP,
)


class AbsentError(Exception):
    """There is nothing of the kind here."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the prover has set up: addresses outside, and files that must stay out of reach.
    ``renderer`` names what renders a model's chat template, as ``module:class``: the process that
    is attacked has it imported already, or imports it."""

    v4: str
    v6: str
    port: int
    dns: int
    interface: str
    unix: str
    abstract: str
    resolvers: tuple[str, ...]
    secret: str
    autostart: str
    store: str
    blob: str
    parent: int
    outsider: int
    int80: bool
    renderer: str


Attack = Callable[[Target], None]


@dataclass(frozen=True)
class Kind:
    """One kind of attempt: a short name, what it tries in words, and the deed."""

    name: str
    what: str
    attack: Attack


def kinds() -> list[Kind]:
    """All kinds, in the order in which they are tried."""
    from freehold.residency.attacks import files, network, plugins, system

    return [
        Kind(name, what, attack)
        for room in (network, system, files, plugins)
        for name, what, attack in room.KINDS
    ]


def attempt(name: str, target: dict[str, Any]) -> dict[str, str]:
    """Try one kind; ``outcome`` is ``done``, ``refused``, ``absent`` or ``failed``, ``how`` in
    words."""
    known = {kind.name: kind.attack for kind in kinds()}
    if name not in known:
        return {"outcome": "absent", "how": "this version knows no such kind"}
    aim = Target(**{**target, "resolvers": tuple(target["resolvers"])})
    try:
        known[name](aim)
    except AbsentError as error:
        return {"outcome": "absent", "how": str(error)}
    except OSError as error:
        outcome = "failed"
        if error.errno in _REFUSED:
            outcome = "refused"
        elif error.errno in _NOT_HERE:
            outcome = "absent"
        return {"outcome": outcome, "how": f"{type(error).__name__}: {error}"[:200]}
    except Exception as error:  # whatever a library makes of a refusal
        return {"outcome": "failed", "how": f"{type(error).__name__}: {error}"[:200]}
    return {"outcome": "done", "how": "it got through"}
