"""Adapters in the vault: how they come in, and which are served beside which model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from freehold.errors import FreeholdError, GateError, MalformedError, NotFoundError
from freehold.signing.dsse import Envelope
from freehold.store import Store, adapters, pull, verify
from freehold.store.adapters import Placed
from freehold.store.passport import Entry
from freehold.store.statements import Lineage, Named, Statement, now
from tests.engine.conftest import _Quiet

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def write(folder: Path, **extra: bytes) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"x": np.zeros(3, np.float32)}, folder / "adapter_model.safetensors")
    for name, data in extra.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def test_an_adapter_comes_in_like_a_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "vault")
    folder = write(tmp_path / "law", README__md=b"x", optimizer__pt=b"\x80\x04")
    manifest = pull(store, str(folder), sources=[], progress=_Quiet())
    assert manifest.adapter
    assert {file.path for file in manifest.files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert set(verify(store, "law").tensors) == {"x"}


@pytest.mark.parametrize("spoilt", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_refused(tmp_path: Path, spoilt: str) -> None:
    folder = write(tmp_path / "law")
    (folder / spoilt).unlink()
    with pytest.raises(FreeholdError):
        pull(Store(tmp_path / "vault"), str(folder), sources=[], progress=_Quiet())


def test_what_is_served_beside_what(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert adapters.placed(store) == []
    placed = [Placed(name="law", adapter=A, base=C), Placed(name="x/y", adapter=B, base=C)]
    for one in placed:
        adapters.place(store, one)
    assert adapters.placed(store) == placed
    adapters.take_away(store, "law")
    assert adapters.placed(store) == placed[1:]
    with pytest.raises(NotFoundError):
        adapters.take_away(store, "law")
    (adapters.folder_of(store) / "law.json").write_text('{"adapter": 1, "base": 2}')
    with pytest.raises(MalformedError, match=r"law\.json"):
        adapters.placed(store)


def entry(relation: str, parent: str, *signers: str) -> Entry:
    said = Lineage(
        made=now(),
        relation=relation,  # type: ignore[arg-type]
        parents=(Named(name="parent", digest=parent),),
        deltas=(),
        tool="test",
    )
    statement = Statement(name="law", digest=C, predicate=said)
    envelope = Envelope(payload_type="", payload=b"", signatures=())
    return Entry(line=1, envelope=envelope, statement=statement, signers=signers, others=())


def test_what_a_trusted_key_says_of_the_parent_counts() -> None:
    adapters.check_base("law", [], A)
    adapters.check_base("law", [entry("adapter", A, "ann")], A)
    adapters.check_base("law", [entry("adapter", B)], A)  # nobody trusted has said it
    adapters.check_base("law", [entry("adapter", B, "bob"), entry("adapter", A, "ann")], A)
    with pytest.raises(GateError, match="made for"):
        adapters.check_base("law", [entry("adapter", B, "ann")], A)
