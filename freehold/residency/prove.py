"""The proof: a real server in a network namespace, attacked from inside each of its processes.

Attacks are ordered over a socket that the server's watchman inherits, and what they send is looked
for on the only wire there is. What comes out is plain data; the caller signs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from freehold import __version__
from freehold.errors import FreeholdError
from freehold.residency import landlock, stage
from freehold.residency.attacks import Kind, Target, kinds
from freehold.residency.attacks.system import call_32_bit
from freehold.residency.attempts import now
from freehold.residency.capture import Capture
from freehold.residency.watching import read_state

FORMAT = "freehold-residency-proof/1"
_READY_SECONDS = 180.0
_ORDER_SECONDS = 30.0
_SETTLE = 0.02
_START_SECONDS = 1800.0
"""Another engine takes its time."""
_ASK_SECONDS = 120.0
_SAME_LOCK = "vLLM is many processes and starts programs; all of them are in this very lock"
_PERMITTED = {
    ("watchman", "read-memory"): "its task is to read what a refused call was for",
    **{
        ("vllm", kind): _SAME_LOCK
        for kind in ("shell", "fork", "posix-spawn", "execve", "memory-program")
    },
    ("vllm", "write-shm"): "its processes share memory there",
    ("vllm", "netlink"): "its libraries list the network interfaces of their own namespace",
}
_RESOLVERS = (
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/dbus/system_bus_socket",
    "/run/nscd/socket",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/avahi-daemon/socket",
    "/run/containerd/containerd.sock",
    "/dev/log",
)


def prove(
    model: str,
    root: Path,
    *,
    capture: Path,
    renderer: str,
    noted: Callable[[Path], int],
    locked: bool = True,
    engine: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Attack a server of ``model`` (in the vault at ``root``); ``capture`` gets the wire.

    ``renderer`` is what the server renders chat templates with (``attacks.Target``). ``noted`` says
    of how many refused calls the ledger in a file knows; none may be missing.

    ``engine`` is what the server is to answer with (as ``freehold serve --engine``).
    ``locked`` false starts the server with ``--no-lock``: then attacks get out, which shows that
    the proof can fail. This process ends up in another network namespace; call it last. Raises
    ``FreeholdError`` where the machine cannot hold the proof, or the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="freehold-prove-") as name:
        folder = Path(name)
        say("setting the stage: two network namespaces, one wire")
        scene = stage.Stage(folder)
        command = [sys.executable, "-P", "-m", "freehold.cli", "serve", model]
        # Attacks are no requests to keep, nor is the owner's ledger free.
        command += ["--ledger", str(folder / "ledger.sqlite")]
        command += [] if locked else ["--no-lock"]
        command += ["--engine", engine] if engine else []
        seconds = _START_SECONDS if engine else _READY_SECONDS
        aim = _target(folder, root, renderer)
        with scene.leak() as leak, Capture(stage.OUTSIDE, capture) as wire:
            with _server(scene, command, leak, seconds) as server:
                say(f"{model} answers, attacks begin")
                before = server.asks(scene)
                processes = server.processes()
                with server.visitor(scene):  # whose connection an attack may try to turn around
                    attempts = _attack_all(server, processes, aim, wire, say)
                after = server.asks(scene)
            time.sleep(1.0)
            arrived = wire.arrived
        in_ledger = noted(folder / "ledger.sqlite")
    made = [one for one in attempts if one["outcome"] not in ("absent", "permitted")]
    blocked = [one for one in made if one["outcome"] == "blocked"]
    # What other engines were refused by themselves, at any time, is in the ledger too.
    recorded = server.recorded(root) or sum(one["recorded"] for one in attempts)
    shut = arrived == 0 and len(made) == len(blocked) and recorded == in_ledger
    return {
        "format": FORMAT,
        "freehold": __version__,
        "made": now(),
        "model": model,
        "engine": engine or "freehold",
        "kernel": platform.release(),
        "machine": platform.machine(),
        "landlock_abi": landlock.abi(),
        "locked": locked,
        "processes": processes,
        "answered_before": before,
        "answered_after": after,
        "kinds": len({one["kind"] for one in made}),
        "attempts_made": len(made),
        "attempts_blocked": len(blocked),
        "attempts_recorded": recorded,
        "attempts_in_ledger": in_ledger,
        "packets_out": arrived,
        "heard_outside": scene.heard,
        "capture": {
            "file": capture.name,
            "sha256": hashlib.sha256(capture.read_bytes()).hexdigest(),
            "wire": f"veth from the server's namespace to the prover's, read at {stage.OUTSIDE}",
        },
        "held": bool(locked and before and after and shut),
        "attempts": attempts,
    }


def _target(folder: Path, root: Path, renderer: str) -> Target:
    secret = folder / ".ssh" / "id_ed25519"
    autostart = folder / ".config" / "autostart"
    secret.parent.mkdir()
    autostart.mkdir(parents=True)
    secret.write_bytes(b"not a key: freehold residency prove looks whether it can be read\n")
    blob = next((root / "blobs" / "sha256").iterdir(), root)
    return Target(
        v4=stage.V4,
        v6=stage.V6,
        port=stage.PORT,
        dns=stage.DNS,
        interface=stage.INSIDE,
        unix=str(folder / "docker.sock"),
        abstract="freehold-prove",
        resolvers=_RESOLVERS,
        secret=str(secret),
        autostart=str(autostart),
        store=str(root / "blobs" / "sha256"),
        blob=str(blob),
        parent=0,
        outsider=os.getpid(),
        int80=False,
        renderer=renderer,
    )


def _attack_all(
    server: _Server,
    processes: list[dict[str, Any]],
    aim: Target,
    wire: Capture,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    int80 = _int80_works(aim)
    found: list[dict[str, Any]] = []
    for process in processes:
        target = asdict(aim) | {"parent": _parent_of(process["pid"]), "int80": int80}
        before = len(found)
        for kind in kinds():
            found.append(_attack(server, process["role"], kind, target, wire))
        mine = found[before:]
        out = sum(one["outcome"] == "out" for one in mine)
        say(f"{process['role']}: {len(mine)} kinds tried, {out} got through")
    return found


def _attack(
    server: _Server, role: str, kind: Kind, target: dict[str, Any], wire: Capture
) -> dict[str, Any]:
    packets = wire.arrived
    reason = _PERMITTED.get((role, kind.name))
    if reason is None:
        result, recorded = server.order(role, kind.name, target)
    else:
        result, recorded = {"outcome": "permitted", "how": reason}, 0
    time.sleep(_SETTLE)
    packets = wire.arrived - packets
    outcome = {"refused": "blocked", "done": "out", "failed": "blocked"}.get(
        result["outcome"], result["outcome"]
    )
    return {
        "process": role,
        "kind": kind.name,
        "what": kind.what,
        "outcome": "out" if packets else outcome,
        "how": result["how"],
        "recorded": recorded,
        "packets": packets,
    }


class _Server:
    """A running ``freehold serve`` and the socket on which its attacks are ordered."""

    def __init__(self, process: subprocess.Popen[str], drill: socket.socket) -> None:
        self._process = process
        self._drill = drill
        self._said: list[str] = []
        self._ready = threading.Event()
        self._numbers = 0
        self._recorded = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def recorded(self, root: Path) -> int:
        """How many refusals the watchman counted in all, once the server has ended."""
        state = read_state(root / "residency" / f"{self._process.pid}.json")
        return 0 if state is None else int(state["attempts"])

    def wait(self, seconds: float) -> None:
        if not self._ready.wait(seconds) or self._process.poll() is not None:
            raise FreeholdError("the server did not start: " + "".join(self._said[-5:]).strip())

    def processes(self) -> list[dict[str, Any]]:
        """The server's processes, and what is shut in each."""
        self._drill.send(b'{"ask": "state"}')
        state = json.loads(self._drill.recv(1 << 16))
        return [*state["processes"], {"role": "watchman", "pid": state["watchman"]}]

    def order(self, role: str, name: str, target: dict[str, Any]) -> tuple[dict[str, str], int]:
        """Have one attack tried; its result, and how many refusals were recorded for it."""
        self._numbers += 1
        order = {"number": self._numbers, "role": role, "name": name, "target": target}
        self._drill.send(json.dumps(order).encode())
        try:
            while True:
                answer = json.loads(self._drill.recv(1 << 16) or b"null")
                if answer is None:
                    raise FreeholdError(f"the {role} ended while {name} was tried in it")
                if answer.get("drilled") == self._numbers:
                    break
        except TimeoutError:
            return {"outcome": "failed", "how": "it did not return"}, 0
        recorded = answer["attempts"] - self._recorded
        self._recorded = answer["attempts"]
        return answer["result"] or {"outcome": "absent", "how": "no such process"}, recorded

    def visitor(self, scene: stage.Stage) -> socket.socket:
        """An idle connection to the server, from its own side of the wire."""
        host, port = self._find(r"answers at http://([\d.]+):(\d+)", "".join(self._said))
        with scene.visiting():
            return socket.create_connection((host, int(port)), timeout=10)

    def asks(self, scene: stage.Stage) -> bool:
        """Whether the server answers a question, asked from its own side of the wire."""
        text = "".join(self._said)
        host, port = self._find(r"answers at http://([\d.]+):(\d+)", text)
        (key,) = self._find(r"key, valid until this server stops: (\S+)", text)
        body = {"model": self._find(r"(\S+) answers at", text)[0], "prompt": "1, 2, 3,"}
        connection = http.client.HTTPConnection(host, int(port), timeout=_ASK_SECONDS)
        try:
            with scene.visiting():
                connection.connect()
            connection.request(
                "POST",
                "/v1/completions",
                json.dumps({**body, "max_tokens": 4, "temperature": 0}),
                {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            )
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _find(self, pattern: str, text: str) -> tuple[str, ...]:
        found = re.search(pattern, text)
        if found is None:
            raise FreeholdError("the server did not start: " + text.strip()[-500:])
        return found.groups()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if line.startswith("curl "):
                self._ready.set()
        self._ready.set()


@contextmanager
def _server(
    scene: stage.Stage, command: list[str], leak: socket.socket, seconds: float
) -> Iterator[_Server]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_ORDER_SECONDS)
    command = [*command, "--port", "0", "--temporary-key", "--drill", str(theirs.fileno())]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        text=True,
        pass_fds=(theirs.fileno(), leak.fileno()),
        preexec_fn=scene.enter(),  # noqa: PLW1509 - only system calls
    )
    theirs.close()
    try:
        server = _Server(process, ours)
        server.wait(seconds)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        ours.close()


def _parent_of(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(status.rpartition(")")[2].split()[1])
    return os.getppid()


def _int80_works(aim: Target) -> bool:
    """Whether this kernel makes 32-bit calls; tried in a child, which it may cost its life."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(Exception):
            call_32_bit(Target(**asdict(aim) | {"int80": True}))
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0
