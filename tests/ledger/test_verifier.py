"""The verifier that goes out with an export: RFC 8032's vectors, and every way to change a log."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import IntegrityError, SignatureError, UsageError
from freehold.ledger import verifier
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.export import export
from freehold.ledger.leaves import Writer, commit
from freehold.ledger.log import Log, Reader
from freehold.ledger.witness import cosign
from freehold.signing import keys, notes
from tests.ledger.conftest import OUTCOME, RECORD, fill

VKEY = str(
    notes.Verifier(name="log", key=keys.PublicKey(Ed25519PrivateKey.generate().public_key()))
)
NAMES = (
    *("place", "kind", "entry", "commitment", "salt", "body", "content", "size", "note", "format"),
    *("leaf", "leaves", "path", "checkpoint", "policy", "sha256", "ciphertext_sha256"),
)

# RFC 8032 section 7.1, tests 1 to 3: public key, message, signature.
RFC = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), RFC)
def test_the_rfc_s_vectors(public: str, message: str, signature: str) -> None:
    parts = [bytes.fromhex(one) for one in (public, message, signature)]
    assert verifier.ed25519(*parts)
    assert not verifier.ed25519(parts[0], parts[1] + b"x", parts[2])


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=99), st.integers(0, 63), st.integers(0, 7), st.booleans())
def test_it_agrees_with_a_library_on_right_and_wrong(
    message: bytes, place_: int, bit: int, spoil: bool
) -> None:
    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key().public_bytes_raw(), bytearray(key.sign(message))
    if spoil:
        signature[place_] ^= 1 << bit
    assert verifier.ed25519(public, message, bytes(signature)) is not spoil


@given(st.binary(max_size=40), st.binary(max_size=80))
def test_any_bytes_are_no_signature(public: bytes, signature: bytes) -> None:
    assert not verifier.ed25519(public, b"m", signature)


def test_a_malleable_signature_is_refused() -> None:
    public, message, signature = (bytes.fromhex(one) for one in RFC[1])
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    assert not verifier.ed25519(public, message, signature[:32] + s.to_bytes(32, "little"))


# --- a ledger, its export, and whoever changes them -----------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of 40 entries (20 before the checkpoint ``early``) and its export."""
    folder = tmp_path_factory.mktemp("original")
    key = keys.create(folder / "keys", "ledger", "ed25519")
    log = Log(Database(place("ledger.sqlite", folder), writer=True), key)
    fill(log, 20)
    (folder / "early").write_text(log.checkpoint())
    fill(log, 20)
    log.erase(6, Writer("hash").erase(6, "asked"))
    (folder / "late").write_text(log.checkpoint())
    log.close()
    database = Database(place("ledger.sqlite", folder), writer=False)
    export(database, folder / "export")
    database.close()
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def database(folder: Path) -> Database:
    return Database(place("ledger.sqlite", folder), writer=False)


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the export's own verifier as somebody without Freehold would."""
    return subprocess.run(
        [sys.executable, "-I", "verify.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder / "export",
        env={},
    )


def findings(folder: Path, *kept: str) -> list[str]:
    """What both verifiers say; they must agree on whether there is anything."""
    against = [(str(folder / name), (folder / name).read_text()) for name in kept]
    with_us = check(database(folder), against=against).findings
    shutil.rmtree(folder / "export", ignore_errors=True)
    export(database(folder), folder / "export")
    done = alone(folder, *(f"--against={folder / name}" for name in kept))
    assert done.returncode == (3 if with_us else 0), done.stdout + done.stderr
    if not any("subtree" in one for one in with_us):
        assert all(one in done.stdout for one in with_us[:20])
    return with_us


def change(folder: Path, *statements: str) -> None:
    db = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def test_an_untouched_ledger_is_as_written(copy: Path) -> None:
    assert findings(copy, "early", "late") == []
    done = alone(copy)
    assert "121 leaves, 40 entries" in done.stdout
    assert "1 erasures" in done.stdout


def test_a_zip_holds_the_same(original: Path, tmp_path: Path) -> None:
    export(database(original), tmp_path / "ledger.zip")
    with zipfile.ZipFile(tmp_path / "ledger.zip") as archive:
        archive.extractall(tmp_path / "export")
    assert alone(tmp_path).returncode == 0
    with pytest.raises(UsageError, match="is there already"):
        export(database(original), tmp_path / "ledger.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.zip", "export"}


COLUMNS = ("kind", "entry", "commitment", "salt", "body", "content")
NEW: dict[str, str] = {
    "kind": "CASE kind WHEN 'seal' THEN 'note' ELSE 'seal' END",
    "entry": "entry + 1",
    "commitment": "zeroblob(32)",
    "salt": "zeroblob(32)",
    "body": "CAST(replace(CAST(body AS TEXT), 'v', 'w') AS BLOB)",
    "content": "x'00' || coalesce(content, x'00')",
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("leaf", [0, 1, 37, 60, 118, 120])
def test_a_changed_column_is_found(copy: Path, column: str, leaf: int) -> None:
    change(copy, f"UPDATE leaves SET {column} = {NEW[column]} WHERE place = {leaf}")
    assert findings(copy)


@pytest.mark.parametrize("column", ["salt", "body", "content"])
def test_a_record_that_was_taken_away_is_found(copy: Path, column: str) -> None:
    change(copy, f"UPDATE leaves SET {column} = NULL WHERE place = 37")
    assert any("leaf 37" in one for one in findings(copy))


def test_an_erasure_that_nobody_recorded_is_found(copy: Path) -> None:
    change(copy, "UPDATE leaves SET salt=NULL, body=NULL, content=NULL WHERE entry = 9")
    assert any("no leaf says it was erased" in one for one in findings(copy))


@pytest.mark.parametrize("leaf", [0, 1, 40, 119])
def test_a_dropped_row_is_named(copy: Path, leaf: int) -> None:
    change(copy, f"DELETE FROM leaves WHERE place = {leaf}")
    assert f"leaf {leaf} is missing" in findings(copy)


def test_a_dropped_row_with_the_others_moved_up_is_found(copy: Path) -> None:
    change(
        copy,
        "DELETE FROM leaves WHERE place = 40",
        "UPDATE leaves SET place = -place WHERE place > 40",
        "UPDATE leaves SET place = -place - 1 WHERE place < 0",
    )
    assert findings(copy)


def test_reordered_rows_are_found(copy: Path) -> None:
    change(
        copy,
        "UPDATE leaves SET place = 1000 WHERE place = 41",
        "UPDATE leaves SET place = 41 WHERE place = 44",
        "UPDATE leaves SET place = 44 WHERE place = 1000",
    )
    assert any("changed, moved or put in" in one for one in findings(copy))


def test_an_inserted_row_is_found(copy: Path) -> None:
    change(
        copy,
        "UPDATE leaves SET place = -place - 1 WHERE place > 40",
        "UPDATE leaves SET place = -place WHERE place < 0",
        "INSERT INTO leaves SELECT 41, 'note', 41, commitment, salt, body, content "
        "FROM leaves WHERE place = 2",
    )
    assert findings(copy)


def test_an_appended_row_is_found(copy: Path) -> None:
    change(
        copy,
        "INSERT INTO leaves SELECT 121, 'note', 121, commitment, salt, body, content "
        "FROM leaves WHERE place = 2",
    )
    assert "leaves 121 to 121 are under no checkpoint" in findings(copy)


def test_a_changed_checkpoint_is_found(copy: Path) -> None:
    change(copy, "UPDATE checkpoints SET note = replace(note, '121', '120'), size = 120")
    assert any("signature" in one for one in findings(copy))


def test_a_lost_checkpoint_is_found(copy: Path) -> None:
    change(copy, "DELETE FROM checkpoints")
    assert any("no checkpoint" in one for one in findings(copy))


def test_a_changed_subtree_is_found(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "keys", "ledger", "ed25519")
    log = Log(Database(place("ledger.sqlite", tmp_path), writer=True), key)
    fill(log, 100)
    log.close()
    change(tmp_path, "UPDATE subtrees SET root = zeroblob(32)")
    assert any("stored subtree" in one for one in check(database(tmp_path)).findings)


def sign_anew(folder: Path, key: keys.SigningKey, cut: int) -> None:
    """What a thief of ``key`` does: begin the log again, with ``cut`` fewer entries and another
    prompt, under the same name."""
    line = Reader(database(folder)).verifier
    for path in folder.glob("ledger.sqlite*"):
        path.unlink()
    log = Log(Database(place("ledger.sqlite", folder), writer=True), key)
    change(folder, f"UPDATE meta SET value = '{str(line).replace(chr(39), '')}'")
    log.close()
    log = Log(Database(place("ledger.sqlite", folder), writer=True), key)
    fill(log, 40 - cut)
    log.close()


def test_a_cut_tail_shows_only_against_a_checkpoint_kept_elsewhere(copy: Path) -> None:
    """The rows after an older checkpoint go, and that checkpoint is put in the last one's place."""
    early = (copy / "early").read_text()
    change(
        copy,
        "DELETE FROM leaves WHERE place >= 60",
        "UPDATE checkpoints SET size = 60, note = '" + early + "'",
    )
    # The erasure is cut as well, so its record has no excuse any more.
    change(copy, "DELETE FROM leaves WHERE place >= 60")
    assert [one for one in findings(copy) if "erased" not in one] == []
    assert [one for one in findings(copy, "early") if "erased" not in one] == []
    assert any("the log was cut" in one for one in findings(copy, "late"))


@pytest.mark.parametrize("cut", [0, 30])
def test_a_log_signed_anew_with_the_stolen_key_shows_only_against_one(copy: Path, cut: int) -> None:
    sign_anew(copy, keys.load(copy / "keys", "ledger"), cut)
    assert findings(copy) == []
    against = findings(copy, "late" if cut == 30 else "early")
    assert any("cut" in one or "rewritten" in one for one in against)


def test_a_log_signed_anew_with_another_key_is_another_log(copy: Path) -> None:
    known = (copy / "export" / "ledger.vkey").read_text()
    for path in copy.glob("ledger.sqlite*"):
        path.unlink()
    other = keys.create(copy / "keys", "other", "ed25519")
    log = Log(Database(place("ledger.sqlite", copy), writer=True), other)
    fill(log, 40)
    log.close()
    assert findings(copy) == []
    assert any("not signed by" in one for one in findings(copy, "late"))
    with pytest.raises(IntegrityError, match="not the one you know"):
        check(database(copy), key=known)
    assert alone(copy, f"--key={known}").returncode == 3


@pytest.mark.parametrize("name", ["leaves.jsonl", "checkpoints.json", "ledger.vkey"])
def test_random_damage_to_an_export_is_found(copy: Path, name: str) -> None:
    """300 changed bytes, one at a time. White space between JSON's parts means nothing: a change
    that leaves the same data is none."""
    path, rng = copy / "export" / name, random.Random(4)
    whole = path.read_bytes()
    for _ in range(300):
        data, at = bytearray(whole), rng.randrange(len(whole))
        data[at] = rng.choice([b for b in b'0az"9 {}\\\n' if b != whole[at]])
        path.write_bytes(data)
        if _same(bytes(data), whole):
            continue
        try:
            found = verifier.verify_export(copy / "export").findings
        except (verifier.Broken, ValueError):
            continue
        assert found, (at, data[max(0, at - 20) : at + 20])


def _same(one: bytes, other: bytes) -> bool:
    """Whether both hold the same data. Hex may have capitals, and Python reads blanks in it."""

    def lines(data: bytes) -> list[Any]:
        found = [json.loads(line) for line in data.splitlines() if line.strip()]
        for leaf in found:
            for name in ("salt", "content", "commitment"):
                if leaf[name]:
                    leaf[name] = leaf[name].replace(" ", "").lower()
        return found

    read = lines if other.startswith(b'{"place') else json.loads
    try:
        return bool(read(one) == read(other))
    except (ValueError, KeyError, TypeError, AttributeError):
        return one.strip() == other.strip()


@given(st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_any_bytes_as_leaves_are_refused_in_words(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "leaves.jsonl"
    path.write_bytes(data)
    try:
        assert list(verifier.read_leaves(path)) == []
    except (verifier.Broken, ValueError):
        return


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=9)
    ),
    max_leaves=20,
)
"""JSON of a shape that nobody expects, with the names that somebody does."""


@given(st.lists(ODD, max_size=3), ODD, ODD, ODD)
@settings(max_examples=150, deadline=None)
def test_an_export_of_any_shape_is_refused_in_words(
    tmp_path_factory: Any, leaves: list[Any], notes: Any, about: Any, proof: Any
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "leaves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in leaves))
    (folder / "checkpoints.json").write_text(json.dumps(notes))
    (folder / "export.json").write_text(json.dumps(about))
    (folder / "ledger.vkey").write_text(VKEY)
    with pytest.raises(verifier.Broken):
        verifier.verify_export(folder)
    with contextlib.suppress(verifier.Broken):
        list(verifier.read_leaves(folder / "leaves.jsonl"))
    with contextlib.suppress(verifier.Broken):
        verifier.read_notes(folder)
    with pytest.raises(verifier.Broken):
        verifier.check_proof(proof, verifier.parse_key(VKEY))


@given(ODD)
@settings(max_examples=150, deadline=None)
def test_a_record_of_any_shape_is_a_finding_or_none(body: Any) -> None:
    salt, data = bytes(32), json.dumps(body).encode()
    leaf = verifier.Leaf(0, "note", 0, commit(salt, data), salt, data, b"content")
    found = verifier.Check(verifier.parse_key(VKEY), [])
    found.leaf(leaf)
    assert any("is not the one that was recorded" in one for one in found.findings)


# --- proofs and witnesses -------------------------------------------------------------------------


def test_a_proof_checks_without_freehold(copy: Path, tmp_path: Path) -> None:
    reader = Reader(database(copy))
    for entry in (0, 6, 57):
        proof = reader.prove(entry)
        (tmp_path / "proof.json").write_text(json.dumps(proof))
        done = alone(copy, "--proof", str(tmp_path / "proof.json"))
        assert done.returncode == 0, done.stdout
        assert f"entry {entry}: open" in done.stdout
    proof["leaves"][0]["leaf"]["body"] = proof["leaves"][0]["leaf"]["body"].replace("k1", "k2")
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    assert alone(copy, "--proof", str(tmp_path / "proof.json")).returncode == 3


def test_a_witness_cosigns_what_goes_on_and_nothing_else(
    copy: Path, tmp_path: Path, original: Path
) -> None:
    witness = keys.create(tmp_path / "keys", "witness", "ed25519")
    state = tmp_path / "seen"
    reader = Reader(database(copy))
    note, line = cosign(reader, state, "w.example/1", witness)
    assert state.read_text() == note
    assert reader.keep_witnessed(note) == 121
    key = keys.load(copy / "keys", "ledger")
    log = Log(Database(place("ledger.sqlite", copy), writer=True), key)
    fill(log, 3)
    log.close()
    cosign(Reader(database(copy)), state, "w.example/1", witness)
    assert findings(copy, "early", "late") == []
    assert "cosigned by w.example/1" in alone(copy, "--witness", line).stdout
    sign_anew(copy, key, 0)
    with pytest.raises((IntegrityError, SignatureError)):
        cosign(Reader(database(copy)), state, "w.example/1", witness)


def test_a_note_of_another_log_is_not_kept(copy: Path, tmp_path: Path) -> None:
    key = keys.create(tmp_path / "keys", "ledger", "ed25519")
    other = Log(Database(place("other.sqlite", tmp_path), writer=True), key)
    other.commit([Writer("hash").open(RECORD)])
    other.commit([Writer("hash").seal(0, OUTCOME)])
    with pytest.raises(SignatureError):
        Reader(database(copy)).keep_witnessed(other.checkpoint())
    other.close()
