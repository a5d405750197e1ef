"""Signed notes: C2SP's own example, and whatever else is thrown at the parser."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, SignatureError, UsageError
from freehold.signing import notes
from freehold.signing.keys import SigningKey, create

# The example of c2sp.org/signed-note.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""  # noqa: E501
# The checkpoint of c2sp.org/tlog-cosignature: the keys are not given, the form and ids are.
COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return [create(folder, name, "ed25519") for name in ("log", "witness")]


def test_the_specification_s_example_verifies() -> None:
    verifier = notes.parse_verifier(VKEY)
    assert str(verifier) == VKEY
    note = notes.parse(EXAMPLE)
    assert str(note) == EXAMPLE
    assert notes.check(note, verifier) is None
    with pytest.raises(SignatureError):
        notes.check(notes.parse(EXAMPLE.replace("example message", "exbmple message")), verifier)


def test_the_specification_s_cosigned_checkpoint_is_read() -> None:
    note = notes.parse(COSIGNED)
    assert str(note) == COSIGNED
    found = notes.checkpoint(note)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.text() == note.text
    assert int.from_bytes(note.lines[1].signature[:8], "big") == 1679315147


def test_a_log_signs_and_a_witness_cosigns(keys: list[SigningKey]) -> None:
    log, witness = keys
    text = notes.Checkpoint(origin="log.example/1", size=7, root=bytes(32)).text()
    note = notes.Note(text=text, lines=(notes.sign(text, "log.example/1", log),))
    both = notes.join(note, [notes.cosign(text, "w.example", witness, time=1_700_000_000)])
    both = notes.parse(str(both))
    assert notes.check(both, notes.Verifier(name="log.example/1", key=log.public)) is None
    cosigner = notes.Verifier(name="w.example", key=witness.public, kind=notes.COSIGNATURE)
    assert notes.check(both, cosigner) == 1_700_000_000
    assert notes.parse_verifier(str(cosigner)) == cosigner
    assert notes.join(both, both.lines) == both
    with pytest.raises(SignatureError, match="not signed by"):
        notes.check(note, cosigner)
    with pytest.raises(SignatureError, match="not signed by"):
        notes.check(both, notes.Verifier(name="w.example", key=witness.public))


def test_a_cosignature_s_time_is_signed(keys: list[SigningKey]) -> None:
    witness = keys[1]
    text = notes.Checkpoint(origin="o", size=0, root=bytes(32)).text()
    line = notes.cosign(text, "w", witness, time=5)
    later = notes.Line(
        name="w", key_id=line.key_id, signature=(6).to_bytes(8, "big") + line.signature[8:]
    )
    verifier = notes.Verifier(name="w", key=witness.public, kind=notes.COSIGNATURE)
    with pytest.raises(SignatureError):
        notes.check(notes.Note(text=text, lines=(later,)), verifier)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "\u2003x"])
def test_names_that_break_the_form_are_refused(name: str, keys: list[SigningKey]) -> None:
    with pytest.raises(UsageError):
        notes.Verifier(name=name, key=keys[0].public)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "no signature\n",
        "text\n\n",
        "text\n\n— name\n",
        "text\n\n- name AAAAAAAA\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name AAAAAAB=\n",
        EXAMPLE[:-1],
        EXAMPLE.replace("example m", "example\tm"),
        EXAMPLE.encode() + b"\xff",
        "x" * (notes.MAX_NOTE + 1),
        "text\n\n" + EXAMPLE.splitlines()[2] * 200,
    ],
)
def test_what_is_no_note_is_refused(data: str | bytes) -> None:
    with pytest.raises(MalformedError):
        notes.parse(data)


@given(st.one_of(st.text(), st.binary()))
def test_any_bytes_are_a_note_or_an_error(data: str | bytes) -> None:
    try:
        note = notes.parse(data)
    except MalformedError:
        return
    assert str(note).encode() == (data if isinstance(data, bytes) else data.encode())


@given(place=st.integers(0, len(EXAMPLE) - 1), bit=st.integers(0, 6))
def test_any_changed_character_is_noticed(place: int, bit: int) -> None:
    changed = EXAMPLE[:place] + chr(ord(EXAMPLE[place]) ^ 1 << bit) + EXAMPLE[place + 1 :]
    with pytest.raises(FreeholdError):
        notes.check(notes.parse(changed), notes.parse_verifier(VKEY))


@given(st.text())
def test_any_text_is_a_verifier_key_or_an_error(text: str) -> None:
    try:
        notes.parse_verifier(text)
    except MalformedError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "o\n1\n",
        "o\n01\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n-1\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "\n1\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "o\n1\n" + base64.b64encode(bytes(31)).decode() + "\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        notes.checkpoint(notes.Note(text=text, lines=()))


def test_a_p256_key_signs_no_note(tmp_path: Path) -> None:
    key = create(tmp_path, "weights", "p256")
    with pytest.raises(UsageError, match="Ed25519"):
        notes.sign("text\n", "name", key)
