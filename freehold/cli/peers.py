"""Addresses that a locked process is connected to: looked up once, before the lock, since no locked
process asks a resolver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from freehold.residency.broker import Peer

POSTGRES_PORT = 5432


def found(host: str, port: int, param: str) -> Peer:
    """The first address of ``host``, in figures. Raises ``UsageError`` naming ``param``."""
    import socket

    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"the host {host} of {param} is not known: {error}", param=param) from None
    return str(addresses[0][4][0]), port


def data_base(url: URL, param: str) -> tuple[str, Peer]:
    """A PostgreSQL server's URL with its address in figures, and that address. Raises
    ``UsageError`` naming the setting ``param``."""
    port = url.port or int(str(url.query.get("port", POSTGRES_PORT)))
    host = url.host or url.query.get("host") or "/var/run/postgresql"
    if not isinstance(host, str):
        raise UsageError(f"{param} names several hosts: name one", param=param)
    if host.startswith("/"):
        return url.render_as_string(hide_password=False), (f"{host}/.s.PGSQL.{port}",)
    peer = found(host, port, param)
    fixed = url.update_query_dict({"hostaddr": peer[0]})
    return fixed.render_as_string(hide_password=False), peer


def ports(peers: Sequence[Peer]) -> tuple[int, ...]:
    """The TCP ports among ``peers``, for Landlock."""
    return tuple(peer[1] for peer in peers if len(peer) == 2)


def passwords() -> str:
    """Where PostgreSQL's driver looks for a password that the URL does not hold."""
    return str(Path.home() / ".pgpass")
