"""The passport's file: only ever added to, and read without tolerance."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, SignatureError, StorageError
from freehold.signing import dsse
from freehold.signing.dsse import Envelope
from freehold.signing.keys import PublicKey, SigningKey
from freehold.store import Store, passport, pull, statements
from tests.store.test_statements import predicate

D = "sha256:" + "a" * 64
People = dict[str, SigningKey]
Trust = dict[str, PublicKey]


def said(people: People, by: str = "ada", *, digest: str = D, reason: str = "") -> Envelope:
    return statements.about("m", digest, predicate("approval", reason=reason), people[by])


def test_there_is_none_until_somebody_says_something(store: Store, trust: Trust) -> None:
    assert passport.read(store, D, trust) == []
    assert not store.root.exists()


def test_it_is_only_added_to(store: Store, people: People, trust: Trust) -> None:
    first, second = said(people, reason="one"), said(people, "bob", reason="two")
    assert [e.line for e in passport.append(store, D, [first], trust)] == [1]
    before = passport.path_of(store, D).read_bytes()
    assert [e.line for e in passport.append(store, D, [first, second, second], trust)] == [2]
    assert passport.path_of(store, D).read_bytes().startswith(before)
    entries = passport.read(store, D, trust)
    assert [entry.envelope for entry in entries] == [first, second]
    assert [entry.signers for entry in entries] == [("ada",), ("bob",)]
    assert passport.append(store, D, [first], trust) == []


def test_a_stranger_is_read_and_not_counted(store: Store, people: People, trust: Trust) -> None:
    (entry,) = passport.append(store, D, [said(people, "eve")], trust)
    assert (entry.signers, entry.others) == ((), (people["eve"].key_id,))


def test_two_signatures_in_one_envelope(store: Store, people: People, trust: Trust) -> None:
    both = dsse.cosign(said(people), people["bob"])
    (entry,) = passport.append(store, D, [both], trust)
    assert entry.signers == ("ada", "bob")


def test_another_models_statement_is_refused(store: Store, people: People, trust: Trust) -> None:
    passport.append(store, D, [said(people)], trust)
    with pytest.raises(MalformedError, match=r"line 2 speaks of another model"):
        passport.append(store, D, [said(people, digest="sha256:" + "b" * 64)], trust)
    assert len(passport.read(store, D, trust)) == 1


def spoiled(store: Store, people: People, trust: Trust, change: Any) -> None:
    passport.append(store, D, [said(people, reason="1"), said(people, reason="2")], trust)
    path = passport.path_of(store, D)
    path.write_bytes(change(path.read_bytes()))


DAMAGES = [
    (lambda data: data[:-1], "line 2 is cut off"),
    (lambda data: data[:-40], "line 2 is cut off"),
    (lambda data: data + b"\n", "line 3"),
    (lambda data: data + b"{}\n", "line 3"),
    (lambda data: b"\n" + data, "line 1"),
    (lambda data: b"\xff" + data, "line 1"),
]


@pytest.mark.parametrize(("change", "told"), DAMAGES)
def test_a_damaged_line_is_named(
    store: Store, people: People, trust: Trust, change: Any, told: str
) -> None:
    spoiled(store, people, trust, change)
    with pytest.raises(MalformedError, match=told):
        passport.read(store, D, trust)
    with pytest.raises(MalformedError, match=told):  # and nothing is added to it
        passport.append(store, D, [said(people, reason="3")], trust)


def test_a_forged_signature_is_named(store: Store, people: People, trust: Trust) -> None:
    """Eve writes that Ada signed."""
    envelope = said(people, "eve")
    forged = Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=(
            dsse.Signature(key_id=people["ada"].key_id, value=envelope.signatures[0].value),
        ),
    )
    path = passport.path_of(store, D)
    path.parent.mkdir(parents=True)
    path.write_bytes(dsse.encode(forged) + b"\n")
    with pytest.raises(SignatureError, match="line 1"):
        passport.read(store, D, trust)


@settings(max_examples=150)
@given(place=st.integers(0, 1 << 20), flip=st.integers(1, 255))
def test_any_changed_byte_is_an_error_or_no_evidence(
    tmp_path_factory: pytest.TempPathFactory, people: People, trust: Trust, place: int, flip: int
) -> None:
    """Flip any byte: the file is refused, or a statement is nobody's any more. Never is another
    statement Ada's."""
    store = Store(tmp_path_factory.mktemp("flip"))
    envelope = said(people)
    passport.append(store, D, [envelope], trust)
    path = passport.path_of(store, D)
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] ^= flip
    path.write_bytes(whole)
    try:
        entries = passport.read(store, D, trust)
    except FreeholdError:
        return
    assert all(not entry.signers for entry in entries)


def test_a_full_disk_leaves_the_old_passport(
    store: Store, people: People, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    passport.append(store, D, [said(people, reason="1")], trust)
    before = passport.path_of(store, D).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="Nothing was added"):
        passport.append(store, D, [said(people, reason="2")], trust)
    assert passport.path_of(store, D).read_bytes() == before
    monkeypatch.undo()
    assert len(passport.append(store, D, [said(people, reason="2")], trust)) == 1


WRITER = """
import sys
from pathlib import Path
from freehold.signing import keys
from freehold.store import Store, passport, statements
store, who = Store(Path(sys.argv[1])), sys.argv[2]
key = keys.load(Path(sys.argv[3]), who)
for n in range(10):
    said = statements.predicate_of(statements.Approval, dict(
        made="2026-01-02T03:04:05Z", decision="approve", purpose="serve", expires="",
        reason=f"{who} {n}"), file="f")
    digest = "sha256:" + "a" * 64
    passport.append(store, digest, [statements.about("m", digest, said, key)], {})
"""


def test_writers_at_once_lose_nothing(store: Store, tmp_path: Path, trust: Trust) -> None:
    from freehold.signing import keys

    for who in ("x", "y", "z"):
        keys.create(tmp_path / "k", who, "p256")
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(store.root), who, str(tmp_path / "k")])
        for who in ("x", "y", "z")
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(passport.read(store, D, trust)) == 30


def test_it_outlives_the_model(
    store: Store, gguf_file: Path, progress: Any, people: People, trust: Trust
) -> None:
    manifest = pull(store, str(gguf_file), sources=[], progress=progress)
    for first in passport.first_statements(manifest):
        envelope = statements.about(manifest.name, manifest.digest, first, people["ada"])
        passport.append(store, manifest.digest, [envelope], trust)
    store.remove(manifest.name)
    source, licence = passport.read(store, manifest.digest, trust)
    assert isinstance(source.predicate, statements.Source)
    assert source.predicate.files[0].sha256 == manifest.files[0].sha256
    assert isinstance(licence.predicate, statements.LicenceSaid)
    assert licence.predicate.licence == "NOASSERTION"


@given(data=st.binary(max_size=80))
def test_a_file_of_envelopes_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        passport.envelopes_in(data, file="f")


def test_an_envelope_may_be_spread_over_lines(people: People) -> None:
    envelope = said(people)
    line = dsse.encode(envelope)
    spread = json.dumps(json.loads(line), indent=2).encode()
    assert passport.envelopes_in(spread, file="f") == [envelope]
    assert passport.envelopes_in(line + b"\n" + line + b"\n", file="f") == [envelope] * 2
