"""What its makers do not want learnt: a list that a corpus is built against.

One entry a line, ``#`` begins a remark:

    sha256:2c26b46b...        a document, by the digest of its text (UTF-8)
    minutes/2019-*.txt        documents by source and file, with ``*`` and ``?``
    https://x.example/blog/*  web pages by address, with ``*`` and ``?``
    host:x.example            web pages of a host, and of all below it
    text:a sentence of it     documents that hold these words
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from freehold.errors import NotFoundError, StorageError, UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"[^\s/:@*?]+")
_LEAST = 8


@dataclass(frozen=True, kw_only=True)
class OptOut:
    """The entries of a list, by kind."""

    digests: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()

    def holds(self, place: str, text: str, address: str = "") -> bool:
        """Whether the document at ``place`` (``source/file``) that says ``text``, and was found at
        ``address``, is on it."""
        if address and self._holds_address(address):
            return True
        if self.digests and hashlib.sha256(text.encode()).hexdigest() in self.digests:
            return True
        return any(fnmatchcase(place, one) for one in self.places) or any(
            one in text for one in self.texts
        )

    def _holds_address(self, address: str) -> bool:
        host = host_of(address)
        if self.hosts and any(
            host[at:] in self.hosts
            for at in (0, *(n + 1 for n, letter in enumerate(host) if letter == "."))
        ):
            return True
        # Scheme and host are the same in small letters and in capitals, and some lists have both.
        shown = _small(address)
        return any(fnmatchcase(shown, one) for one in self.addresses)


def host_of(address: str) -> str:
    """The host of an address, in small letters and as the name service knows it; empty where there
    is none."""
    try:
        return _host(urlsplit(address).hostname or "")
    except ValueError:
        return ""


def _host(name: str) -> str:
    try:
        return name.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        return name.rstrip(".").lower()


def _small(address: str) -> str:
    head, gap, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}{gap}{host}".lower() + slash + path


def load(path: Path) -> OptOut:
    """Read a list. Raises ``NotFoundError``, ``StorageError``, ``UsageError`` naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist", param="opt_out") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8", param="opt_out") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    digests, places, texts, addresses, hosts = set(), [], [], [], set()
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        if _DIGEST.fullmatch(entry):
            digests.add(entry.removeprefix("sha256:"))
        elif entry.startswith("text:") and len(entry[5:].strip()) >= _LEAST:
            texts.append(entry[5:].strip())
        elif entry.startswith("host:") and _HOST.fullmatch(entry[5:].strip()):
            hosts.add(_host(entry[5:].strip()))
        elif "://" in entry:
            addresses.append(_small(entry).replace("[", "[[]"))
        elif "/" in entry and ":" not in entry:
            places.append(entry)
        else:
            raise UsageError(
                f"{path}, line {number}: {entry[:60]!r} is no entry: sha256: and 64 digits, "
                f"SOURCE/FILE, an address, host: and a name, or text: and at least {_LEAST} "
                "letters",
                param="opt_out",
            )
    return OptOut(
        digests=frozenset(digests),
        places=tuple(places),
        texts=tuple(texts),
        addresses=tuple(addresses),
        hosts=frozenset(hosts),
    )
