"""Wheels of what is installed here: Freehold and everything it needs, byte for byte.

No index is asked and nothing is compiled: a wheel is a zip of the installed files and their
metadata, so the bundle holds exactly what was running where it was made. Source: the binary
distribution format of the Python packaging guide (PEP 427, PEP 376).
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import freehold
from freehold.errors import UsageError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_ALSO = ("pip",)  # the installer itself: a bare machine may not have one


def closure(names: tuple[str, ...] = ("freehold", *_ALSO)) -> list[metadata.Distribution]:
    """The distributions behind ``names`` and all they need on this machine, by name.

    Raises ``UsageError`` naming one that is not installed.
    """
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    wanted = [(name, frozenset[str](), "") for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        name, extras, by = wanted.pop()
        name = _plain(name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            one = found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise UsageError(
                f"{name}, which {by or 'the bundle'} needs, is not installed here: install "
                "Freehold with pip, then bundle again"
            ) from None
        for line in one.requires or ():
            need = Requirement(line)
            environments = [{"extra": extra} for extra in (*extras, "")]
            if need.marker is None or any(need.marker.evaluate(e) for e in environments):
                wanted.append((need.name, frozenset(need.extras), name))
    return [found[name] for name in sorted(found)]


def repack(one: metadata.Distribution, folder: Path) -> Path:
    """Write one installed distribution as a wheel into ``folder``; its path."""
    name, version = _escaped(one.metadata["Name"]), _escaped(one.version)
    about = one.read_text("WHEEL")
    if about is None:
        raise UsageError(f"{name} was not installed from a wheel: install it with pip again")
    tags = re.findall(r"^Tag: (\S+)$", about, re.MULTILINE)
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-{_compressed(tags)}.whl"
    recorded = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for inside, data in sorted(_contents(one, info)):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            recorded.append(f'"{inside}",sha256={digest},{len(data)}')
            _add(wheel, inside, data)
        record = "\n".join([*recorded, f"{info}/RECORD,,", ""])
        _add(wheel, f"{info}/RECORD", record.encode())
    return path


def _contents(one: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the wheel but its record."""
    editable = _plain(one.metadata["Name"]) == "freehold"
    for file in one.files or ():
        inside = file.as_posix()
        if file.parts[0].endswith(".dist-info"):
            if file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                yield f"{info}/{'/'.join(file.parts[1:])}", file.read_binary()
        elif editable or inside.startswith(("..", "/")) or "__pycache__" in file.parts:
            continue  # of scripts, the installer makes its own
        elif (source := Path(str(file.locate()))).is_file():
            yield inside, source.read_bytes()
    if editable:  # what is imported here, be it installed or a checkout
        package = Path(freehold.__file__).parent
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"freehold/{path.relative_to(package).as_posix()}", path.read_bytes()


def _add(wheel: zipfile.ZipFile, inside: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(inside, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    wheel.writestr(entry, data)


def _compressed(tags: list[str]) -> str:
    """Tags of the form ``py-abi-platform`` as one, as file names have them."""
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(part)) for part in parts)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _escaped(text: str) -> str:
    return re.sub(r"[-_.]+" if not text[:1].isdigit() else r"-", "_", text)
