"""Packs: what was written comes back, what was changed is refused, and nothing is half there."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import DigestError, MalformedError, StorageError
from freehold.store import Packs, Quality, Store, packfile, packs, pull, verify
from freehold.types import PackedLayer, PackedPart, PackedWeights, VerifiedModel

LAYOUT = "test-1"
QUALITY = Quality(kl="0.0012", tokens=500, text="sha256:" + "0" * 64, reference="torch-float32")


def weights(model: VerifiedModel, *, seed: int = 0, size: int = 1000) -> PackedWeights:
    """Packed weights of sizes that are no multiples of 64, as far as a store can tell."""
    rng = np.random.default_rng(seed)

    def part(name: str, rows: int) -> PackedPart:
        data = rng.integers(0, 256, size + rows, dtype=np.uint8)
        return PackedPart(format=name, rows=rows, cols=32, data=data)

    bias = rng.standard_normal(12, dtype=np.float32)
    return PackedWeights(
        weights="8bit",
        shapes=model.shapes,
        layers={
            "0.qkv": PackedLayer(parts=(part("Q8_0", 7), part("Q4_0", 5)), bias=bias),
            "0.out": PackedLayer(parts=(part("Q8_0", 3),), bias=None),
        },
        vectors={"norm": rng.standard_normal(9, dtype=np.float32)},
    )


@pytest.fixture
def packed(store: Store, gguf_file: Path, progress: Any, tmp_path: Path) -> SimpleNamespace:
    """A store with a model and its pack, and where everything of it lies."""
    pull(store, str(gguf_file), sources=[], progress=progress)
    model = verify(store, "tiny")
    ours = Packs(store, tmp_path / "state" / "secret")
    record = ours.write(model, weights(model), layout=LAYOUT, quality=QUALITY)
    folder = store.packs / model.digest.removeprefix("sha256:")
    return SimpleNamespace(
        store=store,
        packs=ours,
        model=model,
        record=record,
        secret=tmp_path / "state" / "secret",
        folder=folder,
        pack=folder / f"{record.blake3}.pack",
        note=next(folder.glob("*.json")),
    )


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_what_was_written_comes_back(packed: SimpleNamespace) -> None:
    found = packed.packs.open("tiny", layout=LAYOUT)
    assert found is not None
    assert found.packed is not None
    source = packed.model
    for name in ("name", "digest", "format", "licence", "attested", "metadata", "documents"):
        assert getattr(found, name) == getattr(source, name)
    assert found.shapes == source.shapes
    wanted = weights(source)
    assert found.packed.weights == "8bit"
    assert list(found.packed.layers) == list(wanted.layers)
    for name, layer in wanted.layers.items():
        got = found.packed.layers[name]
        for ours, theirs in zip(got.parts, layer.parts, strict=True):
            assert (ours.format, ours.rows, ours.cols) == (theirs.format, theirs.rows, theirs.cols)
            assert np.array_equal(ours.data, theirs.data)
            assert ours.data.ctypes.data % 64 == 0
            assert not ours.data.flags.writeable
        assert (got.bias is None) == (layer.bias is None)
        if layer.bias is not None:
            assert np.array_equal(got.bias, layer.bias)
    assert np.array_equal(found.packed.vectors["norm"], wanted.vectors["norm"])


def test_the_head_is_all_but_the_weights(packed: SimpleNamespace) -> None:
    data = packed.pack.read_bytes()
    spoilt = data[: packed.record.head_size] + bytes(len(data) - packed.record.head_size)
    rewrite(packed.pack, spoilt)
    head = packed.packs.open_head("tiny", layout=LAYOUT)
    assert head.metadata == packed.model.metadata
    assert head.shapes == packed.model.shapes
    assert head.packed.layers == {}
    with pytest.raises(DigestError, match=r"freehold pack tiny --again"):
        packed.packs.open("tiny", layout=LAYOUT)


def test_the_digest_is_standard_and_the_file_read_only(packed: SimpleNamespace) -> None:
    assert blake3(packed.pack.read_bytes()).hexdigest() == packed.record.blake3
    assert stat.S_IMODE(packed.pack.stat().st_mode) == 0o444
    assert stat.S_IMODE(packed.secret.stat().st_mode) == 0o600
    assert packed.packs.record("tiny") == packed.record
    assert packed.record.quality == QUALITY


def test_the_same_weights_make_the_same_pack(packed: SimpleNamespace) -> None:
    again = packed.packs.write(packed.model, weights(packed.model), layout=LAYOUT)
    assert again.blake3 == packed.record.blake3
    assert len(list(packed.folder.iterdir())) == 2


def test_another_pack_replaces_the_first(packed: SimpleNamespace) -> None:
    packed.packs.write(packed.model, weights(packed.model, seed=1), layout=LAYOUT)
    assert len(list(packed.folder.iterdir())) == 2
    assert not packed.pack.exists()


# --- what makes a pack anew -----------------------------------------------------------------------


def test_no_pack_another_layout_or_no_secret_are_no_errors(packed: SimpleNamespace) -> None:
    assert packed.packs.open("tiny", layout="test-2") is None
    assert packed.packs.record("tiny").weights == "8bit"
    stranger = Packs(packed.store, packed.secret.with_name("other"))
    assert stranger.open("tiny", layout=LAYOUT) is None
    packed.pack.unlink()
    assert packed.packs.open("tiny", layout=LAYOUT) is None
    assert packed.packs.open_head("tiny", layout=LAYOUT) is None


def test_installations_that_share_a_store_believe_their_own_records(
    packed: SimpleNamespace,
) -> None:
    other = Packs(packed.store, packed.secret.with_name("other"))
    other.write(packed.model, weights(packed.model, seed=2), layout=LAYOUT)
    assert len(list(packed.folder.glob("*.pack"))) == 2
    for one in (packed.packs, other):
        assert one.open("tiny", layout=LAYOUT) is not None
    other.remove("tiny")
    assert [path.name for path in packed.folder.glob("*.pack")] == [packed.pack.name]


# --- what is refused ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_refused(tmp_path_factory: Any, data: st.DataObject) -> None:
    ours = _standing(tmp_path_factory)
    path = data.draw(st.sampled_from([ours.pack, ours.note]))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    bit = data.draw(st.integers(0, 7))
    after = bytearray(before)
    after[at] ^= 1 << bit
    rewrite(path, bytes(after))
    try:
        with pytest.raises(DigestError, match="--again"):
            ours.packs.open("tiny", layout=LAYOUT)
    finally:
        rewrite(path, before)
    assert ours.packs.open("tiny", layout=LAYOUT) is not None


_kept: list[SimpleNamespace] = []


def _standing(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One packed store for all examples."""
    if not _kept:
        from tests.store.conftest import Recorder, write_gguf

        root = tmp_path_factory.mktemp("standing")
        store = Store(root / "store")
        pull(store, str(write_gguf(root / "tiny.gguf")), sources=[], progress=Recorder())
        model = verify(store, "tiny")
        ours = Packs(store, root / "secret")
        record = ours.write(model, weights(model), layout=LAYOUT)
        folder = store.packs / model.digest.removeprefix("sha256:")
        _kept.append(
            SimpleNamespace(
                packs=ours,
                pack=folder / f"{record.blake3}.pack",
                note=next(folder.glob("*.json")),
            )
        )
    return _kept[0]


def test_pack_and_record_changed_together_are_refused(packed: SimpleNamespace) -> None:
    """All digests are made right again; only the seal cannot be."""
    forged = bytearray(packed.pack.read_bytes())
    forged[-1] ^= 1
    digest = blake3(forged).hexdigest()
    (packed.folder / f"{digest}.pack").write_bytes(forged)
    envelope = json.loads(packed.note.read_bytes())
    envelope["record"]["blake3"] = digest
    for seal in (envelope["seal"], "00" * 32):
        envelope["seal"] = seal
        rewrite(packed.note, json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode())
        for open_it in (packed.packs.open, packed.packs.open_head):
            with pytest.raises(DigestError, match=r"does not fit its seal.*--again"):
                open_it("tiny", layout=LAYOUT)


def test_a_seal_made_with_another_secret_is_refused(packed: SimpleNamespace) -> None:
    rewrite(packed.note, packs._encode(packed.record, bytes(32)))
    with pytest.raises(DigestError, match="does not fit its seal"):
        packed.packs.open("tiny", layout=LAYOUT)


def test_another_models_record_is_refused(
    packed: SimpleNamespace, make_gguf: Callable[..., Path], progress: Any, tmp_path: Path
) -> None:
    """Both sealed by us, and both whole: but the pack of another source is not this one's."""
    pull(packed.store, str(make_gguf(tmp_path / "b.gguf", seed=1)), sources=[], progress=progress)
    model = verify(packed.store, "b")
    packed.packs.write(model, weights(model, seed=3), layout=LAYOUT)
    folder = packed.store.packs / model.digest.removeprefix("sha256:")
    shutil.rmtree(folder)
    shutil.copytree(packed.folder, folder)
    with pytest.raises(DigestError):
        packed.packs.open("b", layout=LAYOUT)


def test_a_manifest_that_leaves_the_catalog_is_refused(
    packed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["freehold.store.verify"]  # the package's name for it is the function
    pinned = SimpleNamespace(files=())
    monkeypatch.setattr(module, "catalog", lambda: {"tiny": pinned})
    for open_it in (packed.packs.open, packed.packs.open_head):
        with pytest.raises(DigestError, match="catalog"):
            open_it("tiny", layout=LAYOUT)


@pytest.mark.parametrize("change", ["shorter", "longer", "link"])
def test_a_pack_of_another_length_or_kind(packed: SimpleNamespace, change: str) -> None:
    data = packed.pack.read_bytes()
    if change == "link":
        packed.pack.rename(packed.folder / "elsewhere")
        packed.pack.symlink_to("elsewhere")
    else:
        rewrite(packed.pack, data[:-1] if change == "shorter" else data + b"\0")
    with pytest.raises((DigestError, StorageError)):
        packed.packs.open("tiny", layout=LAYOUT)


@pytest.mark.parametrize("damage", ["open to others", "short", "long", "empty"])
def test_a_secret_that_is_none_is_refused(packed: SimpleNamespace, damage: str) -> None:
    if damage == "open to others":
        packed.secret.chmod(0o644)
    else:
        packed.secret.write_bytes(bytes({"short": 31, "long": 33, "empty": 0}[damage]))
    with pytest.raises(DigestError, match=r"secret.*Delete it"):
        packed.packs.open("tiny", layout=LAYOUT)


# --- the reader, on whatever bytes ----------------------------------------------------------------


def parse(data: bytes) -> Any:
    return packfile.parse(memoryview(data), file="p")


def sound() -> bytes:
    """A small pack's bytes."""
    model = SimpleNamespace(
        digest="sha256:00",
        format="gguf",
        metadata={"a": [1, "b"], "c": 1.5},
        documents={"d": b"xyz", "empty": b""},
        shapes={"w": (2, 3)},
    )
    header, pieces = packfile.lay_out(model, weights(model), LAYOUT)  # type: ignore[arg-type]
    from io import BytesIO

    file = BytesIO()
    packfile.write(file, header, pieces, None)
    return file.getvalue()


SOUND = sound()


def with_header(change: Callable[[dict[str, Any]], None], *, raw: bool = False) -> bytes:
    """The sound pack with another header; ``raw`` leaves the pieces where they were."""
    length = int.from_bytes(SOUND[8:16], "little")
    header = json.loads(SOUND[16 : 16 + length])
    change(header)
    encoded = msgspec.json.encode(header)
    start = packfile._aligned(16 + length)
    body = SOUND[16 + length :] if raw else bytes(-(16 + len(encoded)) % 64) + SOUND[start:]
    return SOUND[:8] + len(encoded).to_bytes(8, "little") + encoded + body


def test_a_sound_pack_is_read() -> None:
    header, pieces = parse(SOUND)
    assert pieces.parts.keys() == {"0.qkv", "0.out"}
    assert header.shapes == {"w": [2, 3]}
    assert parse(with_header(lambda h: None))[0] == header


HUGE = [-1, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200, 1.5, True, None]


@pytest.mark.parametrize("value", HUGE, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda h, v: h.update(metadata=v),
        lambda h, v: h["documents"][0].__setitem__(1, v),
        lambda h, v: h["layers"][0][1][0].__setitem__(3, v),
        lambda h, v: h["layers"][0].__setitem__(2, v),
        lambda h, v: h["layers"][1].__setitem__(2, v),
        lambda h, v: h["vectors"][0].__setitem__(1, v),
        lambda h, v: h["shapes"].update(w=[v] * 9),
    ],
)
def test_sizes_that_cannot_be(change: Callable[[Any, Any], None], value: Any) -> None:
    try:
        data = with_header(lambda h: change(h, value))
    except OverflowError:  # not even our writer can put it
        return
    with pytest.raises(MalformedError):
        parse(data)


def parse_or_none(data: bytes) -> Any:
    try:
        return parse(data)
    except MalformedError:
        return None


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(more=1),
        lambda h: h.pop("source"),
        lambda h: h.update(format="pickle"),
        lambda h: h.update(layers=[]),
        lambda h: h["layers"].append(h["layers"][0]),
        lambda h: h["layers"][0].__setitem__(0, ""),
        lambda h: h["layers"][0].__setitem__(1, []),
        lambda h: h["layers"][0][1][0].__setitem__(1, 0),
        lambda h: h["layers"][0][1].pop(),
        lambda h: h["vectors"].append(["x", 4]),
        lambda h: h["vectors"][0].__setitem__(0, "v" * 600),
        lambda h: h["documents"].append(["d", 0]),
        lambda h: h["shapes"].update(w=[-1]),
        lambda h: h["vectors"][0].__setitem__(1, 35),
    ],
)
def test_headers_that_break_a_rule(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(MalformedError):
        parse(with_header(change))


def test_an_order_or_blanks_that_we_do_not_write() -> None:
    length = int.from_bytes(SOUND[8:16], "little")
    header = json.loads(SOUND[16 : 16 + length])
    for other in (
        json.dumps(header),
        json.dumps(dict(reversed(header.items())), separators=(",", ":")),
        '{"metadata":1,' + SOUND[17 : 16 + length].decode(),
    ):
        data = SOUND[:8] + len(other).to_bytes(8, "little") + other.encode() + SOUND[16 + length :]
        with pytest.raises(MalformedError):
            parse(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_and_cut_bytes_are_malformed_or_sound(data: st.DataObject) -> None:
    """No other error, and no piece outside the file or over another."""
    end = data.draw(st.integers(0, len(SOUND)))
    spoilt = bytearray(SOUND[:end] if data.draw(st.booleans()) else SOUND)
    for _ in range(data.draw(st.integers(0, 3))):
        if spoilt:
            spoilt[data.draw(st.integers(0, min(len(spoilt), 1200) - 1))] = data.draw(
                st.integers(0, 255)
            )
    found = parse_or_none(bytes(spoilt))
    if found is None:
        return
    _, pieces = found
    spans = [pieces.keys, *pieces.documents.values(), *pieces.vectors.values()]
    spans += [span for parts in pieces.parts.values() for span in parts]
    spans += pieces.biases.values()
    spans.sort()
    assert all(0 <= begin <= end for begin, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert spans[-1][1] == len(spoilt)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(packfile.MAGIC + data)


# --- the disk -------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing(
    packed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(packed.folder.iterdir())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packfile, "write", full)
    with pytest.raises(StorageError, match=r"full.*No pack was written"):
        packed.packs.write(packed.model, weights(packed.model, seed=5), layout=LAYOUT)
    assert sorted(packed.folder.iterdir()) == before


def test_too_little_room_is_seen_before_a_byte_is_written(
    packed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="full"):
        packed.packs.write(packed.model, weights(packed.model, seed=5), layout=LAYOUT)


def test_a_store_that_cannot_be_written(packed: SimpleNamespace, tmp_path: Path) -> None:
    shutil.rmtree(packed.store.packs)
    packed.store.packs.write_text("in the way")  # holds for root too, unlike a mode
    with pytest.raises(StorageError, match="No pack was written"):
        packed.packs.write(packed.model, weights(packed.model), layout=LAYOUT)
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    packed.store.packs.unlink()
    with pytest.raises(StorageError):
        Packs(packed.store, nowhere / "secret").write(
            packed.model, weights(packed.model), layout=LAYOUT
        )
    assert not list(packed.store.packs.glob("*/*.json"))


def test_removing_a_model_removes_its_packs(packed: SimpleNamespace) -> None:
    packed.store.remove("tiny")
    assert not list(packed.store.packs.iterdir())


def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(packed: SimpleNamespace) -> None:
    (packed.folder / ".fresh-dead").write_bytes(b"x")
    with packs._fresh(packed.folder) as (file, publish):
        packed.packs.write(packed.model, weights(packed.model, seed=6), layout=LAYOUT)
        assert not (packed.folder / ".fresh-dead").exists()
        file.write(b"alive")
        publish("alive.pack")
    assert (packed.folder / "alive.pack").read_bytes() == b"alive"


WRITE = """
import sys
from pathlib import Path
from tests.store.test_packs import LAYOUT, weights
from freehold.store import Packs, Store, verify
store = Store(Path(sys.argv[1]))
model = verify(store, "tiny")
packed = weights(model, seed=int(sys.argv[3]), size=20_000_000)
print(flush=True)
Packs(store, Path(sys.argv[2])).write(model, packed, layout=LAYOUT)
"""


def kill_a_writer(packed: SimpleNamespace, seed: int, after: float) -> None:
    command = [sys.executable, "-c", WRITE, str(packed.store.root), str(packed.secret), str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGKILL)


def check_after_kill(packed: SimpleNamespace) -> None:
    """There is a pack, whole; or none, which is no error."""
    found = packed.packs.open("tiny", layout=LAYOUT)
    assert found is not None, "the first pack stays until another is there"


@pytest.mark.parametrize("moments", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_while_writing(packed: SimpleNamespace, moments: int) -> None:
    rng = random.Random(9)
    for seed in range(moments):
        kill_a_writer(packed, seed, rng.random() * 0.3)
        check_after_kill(packed)
    packed.packs.write(packed.model, weights(packed.model), layout=LAYOUT)
    assert sorted(path.suffix for path in packed.folder.iterdir()) == [".json", ".pack"]
