"""The real hub clients against a hub on the loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import DigestError, SourceError, UsageError
from freehold.store import Source, Store, hubs, pull, verify
from freehold.store.hubs import HuggingFace, ModelScope


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account, no waiting, and a home in which nothing may be left."""
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hubs, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def data(hub: Any, make_gguf: Callable[..., Path], tmp_path: Path) -> bytes:
    """The one GGUF file of Qwen/Tiny on the hub."""
    path = make_gguf(tmp_path / "up" / "tiny.gguf", rows=200)
    hub.add("Qwen/Tiny", path.parent)
    return path.read_bytes()


@pytest.fixture(params=[HuggingFace, ModelScope], ids=["huggingface", "modelscope"])
def source(request: pytest.FixtureRequest, hub: Any, data: bytes) -> Source:
    """One hub's client, pointed at the loopback hub, which has Qwen/Tiny."""
    made: Source = request.param(hub.url)
    return made


def test_brings_a_gguf_repository(
    store: Store, hub: Any, data: bytes, source: Source, progress: Any
) -> None:
    manifest = pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert manifest.attested == "hub"
    assert manifest.repository == "Qwen/Tiny"
    assert progress.advanced == len(data)
    assert verify(store, "Qwen/Tiny").attested == "hub"
    asked = len(hub.requests)
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert len(hub.requests) == asked


def test_brings_safetensors_and_leaves_code(
    store: Store, hub: Any, source: Source, folder_model: Path, progress: Any
) -> None:
    for name in ("modeling.py", "pytorch_model.bin", "README.md"):
        (folder_model / name).write_text("not to be fetched")
    hub.add("Qwen/Tiny", folder_model)
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert set(verify(store, "Qwen/Tiny").documents) == {
        "config.json", "tokenizer.json", "merges.txt",
    }  # fmt: skip
    assert not [path for path, _ in hub.requests if "modeling" in path or "pytorch" in path]


def test_huggingface_says_revision_and_licence(
    store: Store, hub: Any, data: bytes, progress: Any
) -> None:
    manifest = pull(store, "Qwen/Tiny", sources=[HuggingFace(hub.url)], progress=progress)
    assert (manifest.revision, manifest.licence) == ("c0ffee", "Apache-2.0")


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        (("mit", None), "MIT"),
        (("other", "qwen"), "LicenseRef-Qwen"),
        (("other", "qwen-research"), "LicenseRef-Qwen-Research"),
        (("other", "my-own"), "NOASSERTION"),
        (("other", None), "NOASSERTION"),
    ],
)
@pytest.mark.usefixtures("data")
def test_huggingface_names_licences_that_spdx_does_not_list(
    store: Store, hub: Any, progress: Any, licence: tuple[str, str | None], found: str
) -> None:
    hub.licence, hub.licence_name = licence
    manifest = pull(store, "Qwen/Tiny", sources=[HuggingFace(hub.url)], progress=progress)
    assert manifest.licence == found


def test_small_files_are_checked_against_their_git_id(
    store: Store, hub: Any, folder_model: Path, progress: Any
) -> None:
    hub.add("Qwen/Tiny", folder_model)
    hub.alter = lambda data: data.replace(b"qwen2", b"qwenX")
    with pytest.raises(DigestError, match=r"config\.json from huggingface"):
        pull(store, "Qwen/Tiny", sources=[HuggingFace(hub.url)], progress=progress)


# --- what goes out --------------------------------------------------------------------------------


def test_no_token_no_telemetry_nothing_left_at_home(
    store: Store, hub: Any, source: Source, progress: Any, tmp_path: Path
) -> None:
    tokens = tmp_path / "home" / ".cache" / "huggingface"
    tokens.mkdir(parents=True)
    (tokens / "token").write_text("hf_secret")
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert len(hub.requests) == 2
    for _, headers in hub.requests:
        assert "authorization" not in headers
        assert "cookie" not in headers
    assert {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()} == {"token"}


def test_a_token_is_sent_if_the_user_set_one(
    store: Store, hub: Any, source: Source, progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "hf_mine")
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert {headers.get("authorization") for _, headers in hub.requests} == {"Bearer hf_mine"}


def test_redirects_are_followed(store: Store, hub: Any, data: bytes, progress: Any) -> None:
    hub.redirect = True
    pull(store, "Qwen/Tiny", sources=[HuggingFace(hub.url)], progress=progress)
    assert hub.requests[-1][0].startswith("/elsewhere/")
    verify(store, "Qwen/Tiny")


# --- trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_resumed(
    store: Store, hub: Any, source: Source, progress: Any, ranges: bool
) -> None:
    hub.cut_after, hub.cuts, hub.ranges = 30_000, 3, ranges
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    asked = [headers.get("range") for headers in hub.file_requests()]
    assert len(asked) == 4
    assert asked[0] is None
    assert all(header and header != "bytes=0-" for header in asked[1:])
    assert progress.advanced == len(hub.files["Qwen/Tiny"]["tiny.gguf"])
    verify(store, "Qwen/Tiny")


def test_a_hub_that_gives_up_is_resumed_by_the_next_pull(
    store: Store, hub: Any, source: Source, progress: Any
) -> None:
    hub.cut_after, hub.ranges = 30_000, False
    with pytest.raises(SourceError, match=r"broke off at byte [1-9].*Pull again"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert store.list() == []
    hub.cut_after, hub.ranges, before = None, True, len(hub.file_requests())
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    (asked,) = hub.file_requests()[before:]
    assert asked["range"].startswith("bytes=")
    verify(store, "Qwen/Tiny")


def test_another_hub_goes_on_where_the_first_broke_off(
    store: Store, hub: Any, data: bytes, progress: Any
) -> None:
    hub.cut_after, hub.ranges = 30_000, False
    with pytest.raises(SourceError):
        pull(store, "Qwen/Tiny", sources=[HuggingFace(hub.url)], progress=progress)
    hub.cut_after, hub.ranges = None, True
    pull(store, "Qwen/Tiny", sources=[ModelScope(hub.url)], progress=progress)
    assert "range" in hub.file_requests()[-1]
    verify(store, "Qwen/Tiny")


def test_passing_failures_are_tried_again(
    store: Store, hub: Any, source: Source, progress: Any
) -> None:
    hub.failures = hubs.MAX_STALLS - 1
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    verify(store, "Qwen/Tiny")


WRONG = {
    "other bytes": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another file": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("alter", WRONG.values(), ids=WRONG)
def test_wrong_bytes_are_deleted(
    store: Store, hub: Any, source: Source, progress: Any, alter: Callable[[bytes], bytes]
) -> None:
    hub.alter = alter
    with pytest.raises(DigestError, match="not the file that was promised"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert not list(store.root.rglob("*.part"))
    assert store.list() == []


def test_a_short_file_is_not_admitted(
    store: Store, hub: Any, source: Source, progress: Any
) -> None:
    hub.alter = lambda data: data[:-100]
    with pytest.raises(SourceError, match=r"does not give the file \(status 416\)"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert store.list() == []


def test_a_long_file_is_not_admitted(
    store: Store, hub: Any, data: bytes, source: Source, progress: Any
) -> None:
    hub.alter = lambda data: data + bytes(100_000)
    with pytest.raises(SourceError, match="longer"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert store.list() == []
    assert max(path.stat().st_size for path in store.root.rglob("*.part")) <= len(data)


def test_a_file_that_changes_while_it_is_resumed(
    store: Store, hub: Any, data: bytes, source: Source, progress: Any
) -> None:
    hub.cut_after, hub.ranges = 30_000, False
    with pytest.raises(SourceError):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    # Something wrote over what lay in quarantine: the whole is fetched anew, and said so.
    (part,) = store.root.rglob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    hub.cut_after, hub.ranges = None, True
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert "starting it anew" in progress.notes[-1]
    assert progress.advanced == len(data)
    verify(store, "Qwen/Tiny")


def test_a_repository_that_changed_since_the_first_try(
    store: Store, hub: Any, source: Source, gguf_file: Path, progress: Any
) -> None:
    hub.cut_after, hub.ranges = 30_000, False
    with pytest.raises(SourceError):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    hub.add("Qwen/Tiny", gguf_file.parent)
    hub.cut_after, hub.ranges = None, True
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert "range" not in hub.file_requests()[-1]
    verify(store, "Qwen/Tiny")
    assert not list(store.root.rglob("*.part"))


@pytest.mark.parametrize("refusal", [(401, "account"), (403, "account"), (404, "has no"),
                                              (500, "status 500")])  # fmt: skip
def test_a_listing_that_is_refused(
    store: Store, hub: Any, source: Source, progress: Any, refusal: tuple[int, str]
) -> None:
    hub.listing_status, said = refusal
    with pytest.raises(SourceError, match=said):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    assert len(progress.notes) == 1
    assert "\n" not in progress.notes[0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_refused(
    store: Store, hub: Any, source: Source, progress: Any, status: int
) -> None:
    hub.file_status = status
    with pytest.raises(SourceError, match=f"status {status}"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)


NONSENSE = (
    b" ",
    b"<html>",
    b"[]",
    b"{}",
    b"null",
    b'{"siblings": 3}',
    b'{"id": "a", "siblings": [{}]}',
    b'{"Data": {"Files": [{}]}}',
    b'{"Data": {"Files": [{"Path": "a.gguf", "Sha256": "x"}]}}',
)


@pytest.mark.parametrize("body", NONSENSE)
def test_a_listing_that_makes_no_sense(
    store: Store, hub: Any, source: Source, progress: Any, body: bytes
) -> None:
    hub.listing_body = body
    with pytest.raises(SourceError):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)


def test_a_trickle_is_given_up(
    store: Store, hub: Any, source: Source, progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.pause = 0.1
    monkeypatch.setattr(hubs, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(hubs, "SLOWEST", 1 << 20)
    with pytest.raises(SourceError, match="less than 1,048,576 bytes per second"):
        pull(store, "Qwen/Tiny", sources=[source], progress=progress)


def test_a_slow_hub_is_borne(store: Store, hub: Any, source: Source, progress: Any) -> None:
    hub.pause = 0.002
    pull(store, "Qwen/Tiny", sources=[source], progress=progress)
    verify(store, "Qwen/Tiny")


def test_an_unreachable_hub_costs_one_line(
    store: Store, hub: Any, source: Source, progress: Any
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = type(source)(f"http://127.0.0.1:{unused.getsockname()[1]}")
        pull(store, "Qwen/Tiny", sources=[nobody, source], progress=progress)
    assert len(progress.notes) == 1
    assert "cannot be reached" in progress.notes[0]
    verify(store, "Qwen/Tiny")


def test_a_pinned_model_is_not_taken_from_a_hub_that_lists_another(
    store: Store, hub: Any, source: Source, progress: Any
) -> None:
    name = "qwen2.5-coder-0.5b-instruct"
    repository = import_module("freehold.store.catalog").catalog()[name].repository
    hub.files[repository] = {f"{name}-q4_k_m.gguf": b"GGUF of another kind"}
    with pytest.raises(SourceError, match="is not the one in the catalog"):
        pull(store, name, sources=[source], progress=progress)
    assert hub.file_requests() == []


MISTYPED = ("huggingface.co", "ftp://a.b", "https://", "http://[a", "http://a:b")


@pytest.mark.parametrize("endpoint", MISTYPED)
def test_a_mistyped_endpoint_is_named(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for variable, kind in (("HF_ENDPOINT", HuggingFace), ("MODELSCOPE_ENDPOINT", ModelScope)):
        monkeypatch.setenv(variable, endpoint)
        with pytest.raises(UsageError, match="HF_ENDPOINT"):
            kind()


@pytest.mark.parametrize("kind", [HuggingFace, ModelScope])
def test_a_hub_that_says_nothing_is_given_up(
    store: Store, kind: Any, progress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "LISTING_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = kind(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SourceError, match="cannot be reached"):
            pull(store, "Qwen/Tiny", sources=[source], progress=progress)
