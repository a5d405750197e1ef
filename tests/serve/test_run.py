"""Opening and closing the counter: addresses, TLS, and real signals."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from freehold.errors import UsageError
from freehold.serve.app import Hosted, Limits, build
from freehold.serve.keys import Keyring
from freehold.serve.run import Binding, run

NAME = "scripted-1"
PROGRAM = Path(__file__).with_name("scripted.py")


# --- signals --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A counter in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    key: str

    def stream(self, text: str) -> Iterator[str]:
        """The data of each event, as it comes."""
        body = {"model": NAME, "messages": [{"role": "user", "content": text}], "stream": True}
        with httpx.stream(
            "POST",
            f"{self.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {self.key}"},
            json=body,
            timeout=60,
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield line[6:]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    processes = []

    def start(drain_seconds: float, delay: float) -> Program:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), str(drain_seconds), str(delay)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        )
        processes.append(process)
        assert process.stdout is not None
        url, key = process.stdout.readline().split()
        return Program(process, url, key)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _ended(program: Program, seconds: float) -> bool:
    program.process.wait(seconds)
    assert program.process.stdout is not None
    return "ended well" in program.process.stdout.read() and program.process.returncode == 0


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish(
    program: Callable[..., Program], name: signal.Signals
) -> None:
    running = program(drain_seconds=30, delay=0.02)
    text = "to be read to its end " * 3
    events = running.stream(text)
    first = [next(events), next(events)]
    running.process.send_signal(name)
    time.sleep(0.4)
    address = httpx.URL(running.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port or 0), timeout=5)
    rest = list(events)
    assert rest[-1] == "[DONE]"
    got = [json.loads(one)["choices"][0]["delta"] for one in [*first, *rest[:-1]]]
    assert "".join(delta.get("content") or "" for delta in got) == text
    assert _ended(running, 10)


def test_an_answer_too_long_for_the_drain_is_told_so(program: Callable[..., Program]) -> None:
    running = program(drain_seconds=0.5, delay=0.1)
    events = running.stream("x" * 300)
    next(events)
    running.process.send_signal(signal.SIGTERM)
    rest = list(events)
    assert json.loads(rest[-1])["error"]["code"] == "shutting_down"
    assert "[DONE]" not in rest
    assert _ended(running, 10)


def test_a_second_signal_ends_at_once(program: Callable[..., Program]) -> None:
    running = program(drain_seconds=120, delay=0.2)
    events = running.stream("x" * 400)
    next(events)
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    with pytest.raises(httpx.TransportError):
        list(events)
    running.process.wait(10)


def test_an_idle_counter_ends_at_once(program: Callable[..., Program]) -> None:
    running = program(drain_seconds=120, delay=0)
    with httpx.Client(base_url=running.url) as client:
        assert client.get("/health").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert _ended(running, 10)


# --- addresses ------------------------------------------------------------------------------------


def _open(scripted: Any, folder: Path, binding: Binding) -> None:
    """Run a counter that may not even start; fails the test if it becomes ready."""
    hosted = Hosted(
        name=NAME,
        card=scripted.CARD,
        engine=scripted.ScriptedEngine(),
        codec=scripted.ScriptedCodec(),
        created=0,
    )
    app = build([hosted], Keyring(f"sqlite:///{folder / 'keys.db'}"), Limits())

    def ready(url: str) -> None:
        raise AssertionError(f"it opened on {url}")

    asyncio.run(run(app, binding, drain_seconds=1, on_ready=ready))


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_other_machines_are_not_served_in_the_clear(
    scripted: Any, tmp_path: Path, host: str
) -> None:
    with pytest.raises(UsageError, match="--insecure-bind") as caught:
        _open(scripted, tmp_path, Binding(host=host, port=0))
    assert caught.value.param == "host"


def test_insecure_bind_allows_it(counter: Callable[..., Any]) -> None:
    running = counter(binding=Binding(host="0.0.0.0", port=0, insecure_bind=True))
    port = httpx.URL(running.url).port
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "x" * 300])
def test_hosts_that_are_none(scripted: Any, tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError) as caught:
        _open(scripted, tmp_path, Binding(host=host, port=0, insecure_bind=True))
    assert caught.value.param in {"host", "port"}


def test_a_taken_port_is_named(scripted: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}.*--port"):
            _open(scripted, tmp_path, Binding(port=port))


def test_a_cancelled_counter_leaves_nothing_behind(scripted: Any, tmp_path: Path) -> None:
    """Open, cancel and open again in one event loop: the second counter must work."""
    hosted = Hosted(
        name=NAME,
        card=scripted.CARD,
        engine=scripted.ScriptedEngine(),
        codec=scripted.ScriptedCodec(),
        created=0,
    )
    keys = Keyring(f"sqlite:///{tmp_path / 'keys.db'}")

    async def once() -> None:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        app = build([hosted], keys, Limits())
        serving = asyncio.create_task(
            run(app, Binding(port=0), drain_seconds=1, on_ready=ready.set_result)
        )
        async with httpx.AsyncClient(base_url=await ready, timeout=5) as client:
            assert (await client.get("/health")).status_code == 200
            serving.cancel()
            await asyncio.wait({serving})
            assert serving.cancelled()
            with pytest.raises(httpx.TransportError):
                await client.get("/health")

    async def repeatedly() -> None:
        for _ in range(5):
            await once()

    asyncio.run(repeatedly())


def test_localhost_and_ipv6_loopback_are_loopback(counter: Callable[..., Any]) -> None:
    assert httpx.get(counter(binding=Binding(host="localhost", port=0)).url + "/health").is_success
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    url = counter(binding=Binding(host="::1", port=0)).url
    assert url.startswith("http://[::1]:")
    assert httpx.get(url + "/health").is_success


# --- TLS ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    cert: str
    key: str


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A self-made certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "freehold test")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(built.public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key_file.chmod(0o600)
    return Certificate(str(cert_file), str(key_file))


def test_tls(counter: Callable[..., Any], certificate: Certificate) -> None:
    running = counter(binding=Binding(port=0, tls_cert=certificate.cert, tls_key=certificate.key))
    assert running.url.startswith("https://")
    trust = ssl.create_default_context(cafile=certificate.cert)
    client = openai.OpenAI(
        base_url=f"{running.url}/v1",
        api_key=running.key,
        http_client=openai.DefaultHttpxClient(verify=trust),
    )
    chunks = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "private"}], stream=True
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "private"
    with pytest.raises(httpx.TransportError):
        httpx.get(running.url.replace("https", "http") + "/health")
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url + "/health")


def test_tls_opens_other_addresses(counter: Callable[..., Any], certificate: Certificate) -> None:
    running = counter(
        binding=Binding(
            host="0.0.0.0",
            port=0,
            tls_cert=certificate.cert,
            tls_key=certificate.key,
        )
    )
    assert running.url.startswith("https://")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(counter: Callable[..., Any], certificate: Certificate) -> None:
    running = counter(binding=Binding(port=0, tls_cert=certificate.cert, tls_key=certificate.key))
    url = httpx.URL(running.url)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((url.host, url.port or 0), timeout=10) as line,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(line)


def test_threads_do_not_pile_up(counter: Callable[..., Any]) -> None:
    running = counter()
    before = threading.active_count()
    with httpx.Client(base_url=running.url, headers=running.auth) as client:
        body = {"model": NAME, "messages": [{"role": "user", "content": "x" * 450}]}
        for _ in range(50):
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert threading.active_count() <= before + 2
