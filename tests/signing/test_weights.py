"""Signatures over weights, with the format's own command as the oracle."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, NotFoundError, SignatureError, UsageError
from freehold.signing import dsse, keys, weights

pytest.importorskip("model_signing")


def official(*words: object) -> subprocess.CompletedProcess[str]:
    """The command that ``model-signing`` brings."""
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keys.create(folder, "owner", "p256")
    keys.create(folder, "locked", "p256", passphrase="sesame")
    keys.create(folder, "other", "p256")
    keys.create(folder, "ledger", "ed25519")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "weights.gguf").write_bytes(bytes(range(256)) * 40)
    (folder / "parts" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def signature(model: Path, ring: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.sig"
    path.write_bytes(weights.sign(model, ring / "owner.key"))
    return path


def accepted(model: Path, signature: Path, key: Path) -> bool:
    """Whether both accept it; they must agree. What theirs says names what ours names."""
    theirs = official("verify", "key", model, "--signature", signature, "--public_key", key)
    try:
        weights.verify(model, signature, key)
    except SignatureError:
        assert theirs.returncode != 0
        return False
    assert theirs.returncode == 0, theirs.stderr
    return True


def test_the_official_command_accepts_ours(model: Path, signature: Path, ring: Path) -> None:
    assert accepted(model, signature, ring / "owner.pub")


def test_we_accept_what_the_official_command_signs(model: Path, ring: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.sig"
    done = official("sign", "key", model, "--signature", path, "--private_key", ring / "owner.key")
    assert done.returncode == 0, done.stderr
    assert accepted(model, path, ring / "owner.pub")


def test_a_key_with_a_passphrase_signs(model: Path, ring: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.sig"
    path.write_bytes(weights.sign(model, ring / "locked.key", passphrase="sesame"))
    assert accepted(model, path, ring / "locked.pub")
    for passphrase in (None, "wrong"):
        with pytest.raises(UsageError, match="cannot sign"):
            weights.sign(model, ring / "locked.key", passphrase=passphrase)


def flip(model: Path) -> None:
    data = bytearray((model / "weights.gguf").read_bytes())
    data[5000] ^= 1
    (model / "weights.gguf").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (flip, r"changed: weights\.gguf$"),
        (
            lambda m: (m / "weights.gguf").rename(m / "w.gguf"),
            r"missing: weights\.gguf; added: w\.gguf$",
        ),
        (lambda m: (m / "parts" / "added.json").write_text("{}"), r"added: parts/added\.json$"),
        (lambda m: (m / "parts" / "config.json").unlink(), r"missing: parts/config\.json$"),
    ],
    ids=["flipped", "renamed", "added", "removed"],
)
def test_every_difference_is_refused_and_named(
    model: Path, signature: Path, ring: Path, change: Any, named: str
) -> None:
    change(model)
    with pytest.raises(SignatureError, match=named):
        weights.verify(model, signature, ring / "owner.pub")
    assert not accepted(model, signature, ring / "owner.pub")


def test_another_key_is_refused(model: Path, signature: Path, ring: Path) -> None:
    assert not accepted(model, signature, ring / "other.pub")
    bundle = json.loads(signature.read_bytes())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(bundle))
    with pytest.raises(SignatureError, match="was not made with the key"):
        weights.verify(model, signature, ring / "other.pub")


def test_a_signature_that_leaves_a_file_out_is_refused(
    model: Path, ring: Path, tmp_path: Path
) -> None:
    path, key = tmp_path / "part.sig", ring / "owner.key"
    left_out = model / "parts" / "config.json"
    done = official(
        "sign", "key", model, "--signature", path, "--private_key", key,
        "--ignore-paths", left_out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(SignatureError, match=r"config\.json"):
        weights.verify(model, path, ring / "owner.pub")


def test_other_kinds_of_key_are_refused(model: Path, signature: Path, ring: Path) -> None:
    with pytest.raises(UsageError):
        weights.sign(model, ring / "ledger.key")
    with pytest.raises(MalformedError):
        weights.verify(model, signature, ring / "ledger.pub")


def test_its_envelope_is_one_of_ours_too(signature: Path, ring: Path) -> None:
    """The format wraps a DSSE envelope: our reader of envelopes verifies the same signature."""
    bundle = json.loads(signature.read_bytes())["dsseEnvelope"]
    payload = base64.b64decode(bundle["payload"])
    mark = base64.b64decode(bundle["signatures"][0]["sig"])
    keys.named(ring, "owner").verify(dsse.pae(bundle["payloadType"], payload), mark)


def test_what_is_no_signature_is_named(model: Path, ring: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        weights.verify(model, tmp_path / "gone.sig", ring / "owner.pub")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_signature_file_is_refused_in_our_words(
    model: Path, signature: Path, ring: Path, data: st.DataObject
) -> None:
    """Replace any member of a good bundle by any JSON, or the file by any bytes."""
    whole = json.loads(weights.sign(model, ring / "owner.key"))
    spot: Any = whole
    path = data.draw(
        st.sampled_from(
            [
                ("mediaType",),
                ("verificationMaterial",),
                ("verificationMaterial", "publicKey"),
                ("verificationMaterial", "tlogEntries"),
                ("dsseEnvelope",),
                ("dsseEnvelope", "payload"),
                ("dsseEnvelope", "payloadType"),
                ("dsseEnvelope", "signatures"),
                ("dsseEnvelope", "signatures", 0),
                ("dsseEnvelope", "signatures", 0, "sig"),
            ]
        )
    )
    for step in path[:-1]:
        spot = spot[step]
    before, spot[path[-1]] = spot[path[-1]], data.draw(JSON)
    if spot[path[-1]] == before:
        return
    file = signature.with_suffix(".fuzz")
    file.write_text(json.dumps(whole))
    try:
        weights.verify(model, file, ring / "owner.pub")
    except FreeholdError:
        return
    # Some members are not covered by the signature and change nothing.
    assert path[0] == "verificationMaterial"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_no_signature(model: Path, signature: Path, ring: Path, data: bytes) -> None:
    file = signature.with_suffix(".fuzz")
    file.write_bytes(data)
    with pytest.raises(FreeholdError):
        weights.verify(model, file, ring / "owner.pub")
