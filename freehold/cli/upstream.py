"""An engine that is another program: vLLM in a lock of its own, or a server that runs already. What
it may reach, and how it is started."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from freehold.cli.home import existing
from freehold.cli.output import say
from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.errors import EngineError, IntegrityError, UsageError

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.engine.vllm.command import Installed, Wishes
    from freehold.engine.wire import Remote
    from freehold.residency.broker import Peer
    from freehold.residency.landlock import Reach
    from freehold.types import VerifiedModel

LOG = "vllm.log"
"""What vLLM says, in the vault's folder: of its last start."""
_KEY_BYTES = 8192
_PREFIX = "freehold-vllm-"
_FRESH_SECONDS = 600.0
"""A younger folder may not be held yet."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where the engine is. ``reach`` is what everything that belongs to it may reach, ``peers``
    what the process that asks it connects to. ``vllm`` and ``folder`` are there if it is ours."""

    remote: Remote
    reach: Reach
    peers: tuple[Peer, ...]
    shown: str
    vllm: Installed | None = None
    folder: Path | None = None
    hosts: tuple[str, ...] = ()


@contextmanager
def upstream_of(settings: Settings) -> Iterator[Upstream | None]:
    """The engine that the settings ask for, or ``None`` for Freehold's own. Looks up names and
    makes folders: before the lock. Raises ``UsageError``, ``NotFoundError``."""
    if settings.engine == "freehold":
        for name in ("upstream", "upstream_model"):
            if getattr(settings, name):
                raise UsageError(
                    f'{name} goes with engine = "openai" (--engine openai)', param=name
                )
        yield None
    elif settings.engine == "openai":
        yield _elsewhere(settings)
    else:
        with _ours(settings) as made:
            yield made


def _elsewhere(settings: Settings) -> Upstream:
    from freehold.engine.wire import Remote
    from freehold.residency.landlock import Reach

    if not settings.upstream:
        raise UsageError(
            f'engine = "openai" needs upstream, the address of a server: {_ADDRESSES}',
            param="upstream",
        )
    peer, ip = peer_of(settings.upstream, "upstream")
    return Upstream(
        remote=Remote(
            address=settings.upstream,
            ip=ip,
            what=f"openai at {settings.upstream}, weights not verified here",
            name=settings.upstream_model,
            key=_key(settings.upstream_key),
            start_seconds=30.0,
        ),
        reach=Reach(connect=tuple(peer[1:])),
        peers=(peer,),
        shown=settings.upstream if not ip else f"{settings.upstream} ({ip} port {peer[1]})",
    )


_ADDRESSES = "write unix:/PATH, http://HOST:PORT or https://HOST"


def peer_of(address: str, param: str) -> tuple[Peer, str]:
    """The only place that may be connected to for the setting ``param``, and a host's address in
    figures. Raises ``UsageError`` naming it."""

    def wrong(why: str) -> UsageError:
        return UsageError(
            f"{param} is {address!r}: {why}; {_ADDRESSES}",
            param=param,
        )

    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/") or len(os.fsencode(path)) > 107:
            raise wrong("the path of a socket is absolute and has at most 107 bytes")
        return (path,), ""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(str(error)) from None
    if parts.scheme not in ("http", "https") or not host:
        raise wrong("that is no address")
    if parts.username or parts.query or parts.fragment:
        raise wrong("a key goes into a file, and there is nothing behind the path")
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise wrong(f"its host is not known ({error})") from None
    ip = str(found[0][4][0])
    if parts.scheme == "http" and not ipaddress.ip_address(ip).is_loopback:
        say(
            f"prompts and answers go to {ip} in the clear: take https:// where others share the net"
        )
    return (ip, port), ip


def _key(file: str) -> str:
    if not file:
        return ""
    try:
        with Path(file).expanduser().open("rb") as opened:
            key = opened.read(_KEY_BYTES).decode("ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"upstream_key: {file} cannot be read: {error}", param="upstream_key"
        ) from None
    if not key or not key.isprintable():
        raise UsageError(f"upstream_key: the first line of {file} is no key", param="upstream_key")
    return key


# --- vLLM -----------------------------------------------------------------------------------------


@contextmanager
def _ours(settings: Settings) -> Iterator[Upstream]:
    import sys

    from freehold.engine.vllm import command
    from freehold.engine.wire import Remote
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import devices, library

    if settings.upstream:
        raise UsageError(
            'upstream goes with engine = "openai"; vLLM is started here', param="upstream"
        )
    command.check_arguments(settings.vllm_arguments)
    machines = command.hosts(settings.ray, settings.ray_hosts)
    found = command.installed(settings.vllm_python or sys.executable)
    files = files_of(settings.model)
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    try:
        command.lay_out(folder, files)
        gpus = tuple(path for path in devices() if Path(path).exists())
        yield Upstream(
            remote=Remote(
                address=f"unix:{folder}/socket",
                what=f"vllm {found.version}",
                name="model",
                ours=True,
            ),
            reach=Reach(
                read=(
                    *library(),
                    *found.folders,
                    *map(str, files.values()),
                    "/sys",
                    "/etc/passwd",
                ),
                write=(str(folder), existing(root() / LOG), "/dev/shm"),  # noqa: S108 - its processes share memory
                devices=gpus,
                ports=False,  # the watchman opens and connects every one of its sockets
            ),
            peers=((f"{folder}/socket",),),
            shown=f"vLLM {found.version}"
            + (f", reaching {', '.join(machines)}" if machines else ""),
            vllm=found,
            folder=folder,
            hosts=tuple(machines),
        )
    finally:
        # Locked, this process can remove nothing, and the warden only what is inside: the next
        # start sweeps up the rest.
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what earlier runs left: folders of this user's that no warden holds any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.stat(follow_symlinks=False)
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if not ours or time.time() - found.st_ctime < _FRESH_SECONDS:
                continue
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


def files_of(model: str) -> dict[str, Path]:
    """The files of a model in the vault, by name. Raises ``UsageError`` for a GGUF file."""
    from freehold.store import Store

    store = Store(root())
    manifest = store.manifest(model)
    if any(file.path.endswith(".gguf") for file in manifest.files):
        raise UsageError(
            f"{model} is a GGUF file, which vLLM does not read: `freehold convert {model}` writes "
            "it out as bfloat16 safetensors, a model of its own",
            param="model",
        )
    return {file.path: store.blob(file.sha256).resolve() for file in manifest.files}


class Warden:
    """The process that starts vLLM, as the counter sees it: told once to begin, then listened
    to."""

    def __init__(self, settings: Settings, upstream: Upstream, home: Home) -> None:
        from freehold.engine.vllm import command
        from freehold.spawning import spawn

        assert upstream.folder is not None, "only vLLM has a warden"
        self._settings, self._upstream, self._folder = settings, upstream, upstream.folder
        self._files = files_of(settings.model)
        self._before = command.stamps(self._files)
        order = home.order(
            "vllm",
            upstream.reach,
            peers=[(host, 0) for host in upstream.hosts],
            home=str(self._folder),
            isolate=not upstream.hosts,
        )
        self._watchman = order.watchman
        self.process, self._pair = spawn("freehold.engine.vllm", order)

    def begin(self, model: VerifiedModel) -> None:
        """Have vLLM started on files that were verified just now. Raises ``IntegrityError`` if they
        changed meanwhile."""
        from freehold.engine.vllm import command

        self.check()
        assert self._upstream.vllm is not None, "looked for at the start"
        wishes = _wishes(self._settings, model)
        folder = self._folder
        task = {
            "argv": command.arguments(
                self._upstream.vllm, folder / "model", folder / "socket", wishes
            ),
            "env": command.environment(
                self._upstream.vllm, folder, wishes, watchman=self._watchman, given=os.environ
            ),
            "folder": str(folder),
            "log": str(root() / LOG),
            "at": str(folder / "socket"),
        }
        with contextlib.suppress(OSError):  # it has ended: whoever listens is told
            self._pair.sendall(json.dumps(task).encode() + b"\n")

    def check(self) -> None:
        """Whether the files are those that were verified. Raises ``IntegrityError``."""
        from freehold.engine.vllm import command

        try:
            same = command.stamps(self._files) == self._before
        except OSError:
            same = False
        if not same:
            raise IntegrityError(
                f"{self._settings.model} changed on disk while it was being loaded: run "
                f"`freehold verify {self._settings.model}`"
            )

    async def listen(self) -> None:
        """Say what happens to vLLM, until it ends for good. Raises ``EngineError`` if it never
        begins to answer."""
        reader, writer = await asyncio.open_connection(sock=self._pair.dup())
        try:
            while line := await reader.readline():
                match json.loads(line):
                    case {"well": int(pid)}:
                        say(f"vLLM answers (process {pid})")
                    case {"ended": str(how), "again": float(pause) | int(pause)}:
                        say(f"vLLM ended ({how}): it is started again in {pause:.0f} s")
                    case {"failed": str(how), "words": str(words)}:
                        raise EngineError(
                            f"vLLM does not start ({how}): {_last(words)} ({root() / LOG} has more)"
                        )
            raise EngineError("the process that keeps vLLM has ended: start Freehold again")
        finally:
            writer.close()

    def close(self) -> None:
        """End vLLM, which takes seconds, and everything that belongs to it."""
        self._pair.close()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):
                self.process.kill()


@contextmanager
def hosting(settings: Settings, upstream: Upstream | None, home: Home) -> Iterator[Warden | None]:
    """Start vLLM's warden, if there is to be one, locked as ``home`` orders. Called before
    ``home.shut_files``: it reaches more than the counter."""
    if upstream is None or upstream.vllm is None:
        yield None
        return
    warden = Warden(settings, upstream, home)
    try:
        yield warden
    finally:
        warden.close()


def _wishes(settings: Settings, model: VerifiedModel) -> Wishes:
    from freehold.engine.vllm.command import Wishes
    from freehold.qwen.config import config_of

    config = config_of(model)
    per_token = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim  # keys, values; bf16
    return Wishes(
        context=min(config.context, settings.cache_tokens),
        max_running=settings.max_running,
        kv_bytes=per_token * settings.cache_tokens,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        ray=settings.ray,
        arguments=settings.vllm_arguments,
    )


def _last(words: str) -> str:
    """The last line of a program that says something."""
    spoken = [line.strip() for line in words.splitlines() if line.strip()]
    return spoken[-1][:500] if spoken else "it said nothing"
