"""Small models, a recorder of progress, and a hub on the loopback that misbehaves as it is told."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file

from freehold.signing import keys
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Manifest, Store, pull


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other rooms keep their libraries from the network; here the real client must ask."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # Read once, at the library's import, which may have been in another room's test.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.started: list[tuple[int, str]] = []
        self.advanced = 0
        self.notes: list[str] = []

    def start(self, total: int, what: str) -> None:
        self.started.append((total, what))
        self.advanced = 0

    def advance(self, n: int) -> None:
        self.advanced += n

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def progress() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def silent() -> Recorder:
    """A Progress that nobody looks at."""
    return Recorder()


def write_gguf(path: Path, *, rows: int = 4, seed: int = 0) -> Path:
    """A small GGUF model by ggml's own writer: ``rows`` x 256 in F32, and a Q8_0 tensor."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_token_list(["a", "b", "ü"])
    writer.add_tensor("big.weight", rng.standard_normal((rows, 256), dtype=np.float32))
    codes = rng.integers(0, 256, (2, 34), dtype=np.uint8)
    writer.add_tensor("codes.weight", codes, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "brought" / "tiny.gguf")


@pytest.fixture(scope="session")
def make_gguf() -> Callable[..., Path]:
    return write_gguf


def write_folder(folder: Path, *, seed: int = 0) -> Path:
    """A small safetensors model by the format's own library, with documents beside it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: rng.standard_normal((3, 5), dtype=np.float32) for name in ("a", "b")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (folder / "merges.txt").write_text("a b\n")
    return folder


@pytest.fixture
def folder_model(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "brought" / "tiny")


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    return write_folder


# --- a hub ----------------------------------------------------------------------------------------


@dataclass
class Hub:
    """What the loopback hub serves, and how it misbehaves. ``files`` is by repository and path;
    ``in_lfs`` says which paths it publishes a SHA-256 for."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    url: str = ""
    in_lfs: Callable[[str], bool] = lambda path: not path.endswith((".json", ".txt"))
    licence: str = "apache-2.0"
    licence_name: str | None = None
    listing_status: int = 200
    listing_body: bytes | None = None
    file_status: int = 200
    failures: int = 0  # file requests to answer with status 503 first
    cut_after: int | None = None  # bytes per connection
    cuts: int = 1 << 30  # how many connections to cut
    ranges: bool = True
    redirect: bool = False
    pause: float = 0.0  # seconds between blocks of 1 KiB
    alter: Callable[[bytes], bytes] = lambda data: data  # bytes served, after listing
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def add(self, repository: str, folder: Path) -> None:
        self.files[repository] = {
            path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
        }

    def file_requests(self) -> list[dict[str, str]]:
        return [
            headers for path, headers in self.requests if "/resolve/" in path or "FilePath" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, url = self.hub, urlparse(self.path)
        hub.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        parts, query = unquote(url.path).strip("/").split("/"), parse_qs(url.query)
        if parts[:2] == ["api", "models"]:
            self._listing("/".join(parts[2:4]), self._hf_listing)
        elif parts[-2:] == ["repo", "files"]:
            self._listing("/".join(parts[3:5]), self._modelscope_listing)
        elif parts[-1] == "repo":
            self._file("/".join(parts[3:5]), query["FilePath"][0])
        elif hub.redirect and parts[0] != "elsewhere":
            self._reply(302, b"", {"Location": f"{hub.url}/elsewhere{self.path}"})
        else:
            parts = parts[1:] if parts[0] == "elsewhere" else parts
            self._file("/".join(parts[:2]), "/".join(parts[4:]))

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _listing(self, repository: str, make: Callable[[str, dict[str, bytes]], Any]) -> None:
        files = self.hub.files.get(repository)
        status = self.hub.listing_status if files is not None else 404
        body = json.dumps(make(repository, files or {})).encode() if status == 200 else b"{}"
        self._reply(status, self.hub.listing_body or body, {"Content-Type": "application/json"})

    def _hf_listing(self, repository: str, files: dict[str, bytes]) -> Any:
        siblings = []
        for path, data in files.items():
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": oid}
            if self.hub.in_lfs(path):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        card = {"license": self.hub.licence}
        if self.hub.licence_name:
            card["license_name"] = self.hub.licence_name
        return {"id": repository, "sha": "c0ffee", "siblings": siblings, "cardData": card,
                "tags": [], "private": False, "downloads": 0, "likes": 0}  # fmt: skip

    def _modelscope_listing(self, repository: str, files: dict[str, bytes]) -> Any:
        entries = [
            {"Path": path, "Name": path, "Size": len(data), "Type": "blob",
             "Sha256": hashlib.sha256(data).hexdigest(), "Revision": "c0ffee"}
            for path, data in files.items()
        ]  # fmt: skip
        return {"Code": 200, "Success": True, "Data": {"Files": entries}}

    def _file(self, repository: str, path: str) -> None:
        hub = self.hub
        data = hub.files.get(repository, {}).get(path)
        if hub.failures:
            hub.failures -= 1
            return self._reply(503, b"")
        if data is None or hub.file_status != 200:
            return self._reply(hub.file_status if data is not None else 404, b"")
        data = hub.alter(data)
        start = 0
        asked = self.headers.get("Range")
        if asked and hub.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self._reply(416, b"")
        return self._body(data, start, ranged=start > 0)

    def _body(self, data: bytes, start: int, *, ranged: bool) -> None:
        hub = self.hub
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data)
        if hub.cut_after is not None and hub.cuts and start + hub.cut_after < stop:
            hub.cuts -= 1
            stop = start + hub.cut_after
            self.close_connection = True
        for at in range(start, stop, 1024):
            self.wfile.write(data[at : min(at + 1024, stop)])
            time.sleep(hub.pause)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("NO_PROXY", "no_proxy"):  # or a proxy of this machine would be asked for it
        monkeypatch.setenv(name, "127.0.0.1")
    served = Hub()
    handler = type("Handler", (_Handler,), {"hub": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield served
    server.shutdown()
    server.server_close()


# --- people who sign ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    """Signing keys, by whose they are."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: keys.create(folder, name, "p256") for name in ("ada", "bob", "eve")}


@pytest.fixture(scope="session")
def trust(people: dict[str, SigningKey]) -> dict[str, PublicKey]:
    """Ada and Bob are trusted; Eve is not."""
    return {name: people[name].public for name in ("ada", "bob")}


@pytest.fixture
def admit(
    store: Store, make_gguf: Callable[..., Path], tmp_path: Path, progress: Any
) -> Callable[[str], Manifest]:
    """Admits a small model of that name."""

    def admit(name: str) -> Manifest:
        path = make_gguf(tmp_path / f"{name}.gguf", seed=sum(name.encode()))
        return pull(store, str(path), sources=[], progress=progress)

    return admit
