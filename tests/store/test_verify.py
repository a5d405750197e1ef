from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import DigestError, IntegrityError, MalformedError, NotFoundError
from freehold.store import FolderSource, Store, pull, verify
from freehold.store import manifest as manifests
from freehold.store.digest import CHUNK
from freehold.store.manifest import Manifest


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of a read-only blob."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def bring(store: Store, path: Path, progress: Any) -> Manifest:
    return pull(store, str(path), sources=[], progress=progress)


def test_hands_out_what_was_brought(store: Store, gguf_file: Path, progress: Any) -> None:
    admitted = bring(store, gguf_file, progress)
    model = verify(store, "tiny")
    assert (model.format, model.attested, model.licence) == ("gguf", "owner", "NOASSERTION")
    assert model.digest == admitted.digest
    assert model.metadata["tokenizer.ggml.tokens"] == ["a", "b", "ü"]
    oracle = {tensor.name: tensor for tensor in GGUFReader(gguf_file).tensors}
    assert model.tensors.keys() == oracle.keys()
    for name, tensor in model.tensors.items():
        assert tensor.data.dtype == np.uint8
        assert not tensor.data.flags.writeable
        assert tensor.data.tobytes() == oracle[name].data.tobytes()


def test_hands_out_documents(store: Store, folder_model: Path, progress: Any) -> None:
    bring(store, folder_model, progress)
    model = verify(store, "tiny")
    assert model.format == "safetensors"
    assert set(model.documents) == {"config.json", "tokenizer.json", "merges.txt"}
    assert json.loads(model.documents["config.json"]) == {"model_type": "qwen2"}
    assert model.tensors["a"].shape == (3, 5)


def test_the_manifest_holds_standard_digests(store: Store, gguf_file: Path, progress: Any) -> None:
    (file,) = bring(store, gguf_file, progress).files
    data = gguf_file.read_bytes()
    assert file.blake3 == blake3(data).hexdigest()
    assert file.chunks == (blake3(data).hexdigest(),)  # one chunk, so the same


def test_unknown_models_are_named_with_what_there_is(
    store: Store, gguf_file: Path, progress: Any
) -> None:
    bring(store, gguf_file, progress)
    with pytest.raises(NotFoundError, match=r"'absent'.*tiny.*qwen2\.5-coder-0\.5b-instruct"):
        verify(store, "absent")


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def admitted(
    tmp_path_factory: pytest.TempPathFactory,
    make_gguf: Callable[..., Path],
    make_folder: Callable[..., Path],
    silent: Any,
) -> Store:
    root = tmp_path_factory.mktemp("damage")
    store = Store(root / "store")
    # 2 x 4 MiB chunks and a bit: damage must be found in the right one.
    large = make_gguf(root / "large.gguf", rows=9000)
    for path in (make_gguf(root / "small.gguf"), large, make_folder(root / "folder")):
        pull(store, str(path), sources=[], progress=silent)
    return store


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_named(admitted: Store, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["small", "large", "folder"]))
    file = data.draw(st.sampled_from(admitted.manifest(name).files))
    at = data.draw(st.integers(0, file.size - 1))
    bit = data.draw(st.integers(0, 7))
    blob = admitted.blob(file.sha256)
    flip(blob, at, bit)
    try:
        with pytest.raises(DigestError) as caught:
            verify(admitted, name)
    finally:
        flip(blob, at, bit)
    chunk = at // CHUNK
    assert (caught.value.file, caught.value.chunk) == (file.path, chunk)
    start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, file.size)
    assert f"chunk {chunk} (bytes {start:,} to {stop - 1:,})" in str(caught.value)
    verify(admitted, name)


@pytest.mark.parametrize("change", ["shorter", "longer", "gone", "link"])
def test_a_blob_of_another_length_is_refused(
    store: Store, gguf_file: Path, progress: Any, change: str
) -> None:
    (file,) = bring(store, gguf_file, progress).files
    blob = store.blob(file.sha256)
    blob.chmod(0o644)
    if change == "gone":
        blob.unlink()
    elif change == "link":
        blob.rename(blob.with_name("elsewhere"))
        blob.symlink_to("elsewhere")
    else:
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] if change == "shorter" else data + b"\0")
    with pytest.raises(Exception, match=r"tiny|symbolic link") as caught:
        verify(store, "tiny")
    assert type(caught.value).__name__ == ("StorageError" if change == "link" else "DigestError")


def test_any_changed_manifest_byte_is_refused(
    store: Store, folder_model: Path, progress: Any
) -> None:
    bring(store, folder_model, progress)
    path = store.root / "manifests" / "tiny.json"
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(IntegrityError):
            verify(store, "tiny")
    for at in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at])
        with pytest.raises(IntegrityError):
            verify(store, "tiny")


def forge(store: Store, name: str, manifest: Manifest) -> None:
    (store.root / "manifests" / f"{name}.json").write_bytes(manifests.encode(manifest))


def test_forged_chunk_digests_do_not_help(store: Store, gguf_file: Path, progress: Any) -> None:
    admitted = bring(store, gguf_file, progress)
    (file,) = admitted.files
    flip(store.blob(file.sha256), 100)
    chunks = (blake3(store.blob(file.sha256).read_bytes()).hexdigest(),)
    forge(store, "tiny", replace(admitted, files=(replace(file, chunks=chunks),)))
    with pytest.raises(DigestError, match="manifest was changed too"):
        verify(store, "tiny")


def test_other_bytes_do_not_pass_under_the_same_digest(
    store: Store, gguf_file: Path, progress: Any
) -> None:
    """Blob, BLAKE3 and chunks changed together, the SHA-256 left: the model's digest, to which
    approvals and signatures hold, is the same."""
    admitted = bring(store, gguf_file, progress)
    (file,) = admitted.files
    flip(store.blob(file.sha256), file.size - 1)
    root = blake3(store.blob(file.sha256).read_bytes()).hexdigest()
    forged = replace(admitted, files=(replace(file, blake3=root, chunks=(root,)),))
    assert forged.digest == admitted.digest
    forge(store, "tiny", forged)
    for keep in (True, False):
        with pytest.raises(DigestError, match="does not have its SHA-256"):
            verify(store, "tiny", keep=keep)


@pytest.mark.parametrize("path", ["../out.gguf", "/out.gguf", "a/../b.gguf", "", "a\x1b.gguf"])
def test_a_manifest_names_plain_files_only(
    store: Store, gguf_file: Path, progress: Any, path: str
) -> None:
    admitted = bring(store, gguf_file, progress)
    forge(store, "tiny", replace(admitted, files=(replace(admitted.files[0], path=path),)))
    with pytest.raises(MalformedError, match="no plain relative file name"):
        verify(store, "tiny")


def test_a_manifest_says_what_one_can_say(store: Store, gguf_file: Path, progress: Any) -> None:
    admitted = bring(store, gguf_file, progress)
    for forged in (
        replace(admitted, attested="the pope"),
        replace(admitted, files=admitted.files * 2),
    ):
        forge(store, "tiny", forged)
        with pytest.raises(MalformedError, match="makes no sense"):
            verify(store, "tiny")


def test_a_forged_catalog_model_is_refused(store: Store, gguf_file: Path, progress: Any) -> None:
    admitted = bring(store, gguf_file, progress)
    name = "qwen2.5-coder-0.5b-instruct"
    for attested in ("catalog", "owner"):
        forge(store, name, replace(admitted, name=name, attested=attested))
        with pytest.raises(DigestError, match="does not agree with the catalog"):
            verify(store, name)
    forge(store, "tiny", replace(admitted, attested="catalog"))
    with pytest.raises(DigestError, match="does not agree with the catalog"):
        verify(store, "tiny")


def test_the_digest_is_of_the_bytes_alone(store: Store, gguf_file: Path, progress: Any) -> None:
    first = bring(store, gguf_file, progress)
    other = gguf_file.rename(gguf_file.with_name("tiny.gguf.x"))
    again = other.rename(gguf_file)
    second = bring(Store(store.root.parent / "second"), again, progress)
    assert first.digest == second.digest
    assert first.digest != replace(first, files=(replace(first.files[0], size=1),)).digest


@pytest.mark.slow
def test_flipped_bits_in_the_real_model(tmp_path: Path, real_gguf: Path, progress: Any) -> None:
    store, name = Store(tmp_path / "store"), "qwen2.5-coder-0.5b-instruct"
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / f"{name}-q4_k_m.gguf").symlink_to(real_gguf)
    pull(store, name, sources=[FolderSource(tmp_path / "usb")], progress=progress)
    (file,) = store.manifest(name).files
    blob, rng = store.blob(file.sha256), random.Random(1)
    for at in [0, file.size - 1, *(rng.randrange(file.size) for _ in range(100))]:
        flip(blob, at, at % 8)
        with pytest.raises(DigestError) as caught:
            verify(store, name)
        assert caught.value.chunk == at // CHUNK
        flip(blob, at, at % 8)
    assert len(verify(store, name).tensors) == 291
