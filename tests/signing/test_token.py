"""Keys in a token: SoftHSM, which is a real PKCS#11 token in software, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import (
    FreeholdError,
    MalformedError,
    NotFoundError,
    StorageError,
    UsageError,
)
from freehold.signing import dsse, keys, sealing, token
from freehold.signing.token import Place
from tests.store.conftest import write_gguf

PIN = "123456"
MODULES = (
    os.environ.get("FREEHOLD_TEST_PKCS11", ""),
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An empty token of SoftHSM's, and a key's place in it."""
    pytest.importorskip("pkcs11", reason="needs python-pkcs11")
    module = next((path for path in MODULES if path and Path(path).exists()), None)
    tool = os.environ.get("FREEHOLD_TEST_SOFTHSM_UTIL") or shutil.which("softhsm2-util")
    if module is None or tool is None:
        pytest.skip("needs SoftHSM (softhsm2), or FREEHOLD_TEST_PKCS11 with the path of its module")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        words = ["--init-token", "--free", "--label", "house", "--pin", PIN, "--so-pin", "87654321"]
        subprocess.run([tool, "--module", module, *words], check=True, capture_output=True)
        yield Place(module=module, token="house", label="ada")


@pytest.fixture
def make(place: Place, tmp_path: Path) -> Callable[[str], keys.SigningKey]:
    """Makes a key of that name in the token."""

    def make(name: str) -> keys.SigningKey:
        here = replace(place, label=f"{name}-{tmp_path.name}")
        return token.create(tmp_path, name, here, pin=PIN, existing=False)

    return make


def test_what_a_token_signs_verifies_as_any_other(
    make: Callable[[str], keys.SigningKey], tmp_path: Path
) -> None:
    made = make("ada")
    assert keys.names(tmp_path) == ["ada"]
    assert not (tmp_path / "ada.key").exists()
    again = keys.load(tmp_path, "ada", passphrase=PIN)
    public = keys.named(tmp_path, "ada")
    assert made.public == again.public == public
    envelope = dsse.sign("text/plain", b"said", again)
    assert dsse.signers(envelope, {"ada": public}) == ("ada",)
    data, mark = tmp_path / "data", tmp_path / "mark"
    data.write_bytes(b"weights")
    mark.write_bytes(again.sign(b"weights"))
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", tmp_path / "ada.pub", "-signature", mark, data],
        check=True,
        capture_output=True,
    )


def test_the_private_half_stays_inside(
    make: Callable[[str], keys.SigningKey], tmp_path: Path
) -> None:
    key = make("ada")
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"PRIVATE" not in written
    assert PIN.encode() not in written
    with pytest.raises(UsageError, match="is in a token"):
        sealing.unseal(key, sealing.seal(key.public, b"x", info=b""), info=b"")


def test_a_key_that_is_there_is_taken_and_none_is_overwritten(
    make: Callable[[str], keys.SigningKey], place: Place, tmp_path: Path
) -> None:
    made = make("ada")
    here = replace(place, label=f"ada-{tmp_path.name}")
    other = tmp_path / "other"
    taken = token.create(other, "ada", here, pin=PIN, existing=True)
    assert taken.public == made.public
    with pytest.raises(UsageError, match="holds a key"):
        token.create(other, "eve", here, pin=PIN, existing=False)
    for existing in (True, False):
        with pytest.raises(UsageError, match="there is a key 'ada' already"):
            token.create(other, "ada", replace(here, label="new"), pin=PIN, existing=existing)
    with pytest.raises(UsageError, match="there is a key 'ada' already"):
        keys.create(other, "ada", "p256")
    with pytest.raises(NotFoundError, match="0 objects"):
        token.create(other, "bob", replace(here, label="nobody"), pin=PIN, existing=True)
    assert keys.names(other) == ["ada"]


def test_what_goes_wrong_is_said(
    make: Callable[[str], keys.SigningKey], place: Place, tmp_path: Path
) -> None:
    make("ada")
    with pytest.raises(UsageError, match="needs the PIN") as caught:
        keys.load(tmp_path, "ada")
    assert caught.value.param == "passphrase"
    with pytest.raises(UsageError, match="not the PIN"):
        keys.load(tmp_path, "ada", passphrase="000000").sign(b"x")
    for wrong, kind, words in (
        (replace(place, token="gone"), NotFoundError, "no token 'gone'"),
        (replace(place, module="/etc/passwd"), StorageError, "/etc/passwd fails"),
        (replace(place, module="softhsm.so"), UsageError, "no absolute path"),
    ):
        with pytest.raises(kind, match=words):
            token.create(tmp_path, "new", wrong, pin=PIN, existing=False)
    # Another key under the same label is found out by the public half that is here.
    other = make("bob")
    (tmp_path / "ada.pub").write_text(other.public.pem())
    with pytest.raises(FreeholdError, match="not that of key"):
        keys.load(tmp_path, "ada", passphrase=PIN).sign(b"x")


def test_a_shell_makes_one_and_approves_with_it(place: Place, tmp_path: Path) -> None:
    def freehold(*words: str, pin: str = PIN) -> subprocess.CompletedProcess[str]:
        reading, writing = os.pipe()
        os.write(writing, pin.encode() + b"\n")
        os.close(writing)
        try:
            return subprocess.run(
                [sys.executable, "-m", "freehold.cli", *words, "--passphrase-fd", str(reading)],
                check=False,
                capture_output=True,
                text=True,
                timeout=100,
                pass_fds=(reading,),
                env={
                    **os.environ,
                    "FREEHOLD_HOME": str(tmp_path / "home"),
                    "FREEHOLD_KEYS": str(tmp_path / "keys"),
                },
            )
        finally:
            os.close(reading)

    create = ("signer", "create", "hw", "--module", place.module, "--token", place.token)
    made = freehold(*create)
    assert made.returncode == 0, made.stderr
    assert "token 'house'" in made.stdout
    assert freehold("signer", "create", "x", "--token", "house").returncode == 2
    assert freehold(*create[:2], "ed", *create[3:], "--kind", "ed25519").returncode == 2
    refused = freehold("sign", "model", "--key", "hw")
    assert refused.returncode == 2
    assert "is in a token" in refused.stderr
    pulled = freehold("pull", str(write_gguf(tmp_path / "small.gguf")))
    assert pulled.returncode == 0, pulled.stderr
    (tmp_path / "home" / "freehold.toml").write_text('trust = ["hw"]')
    assert freehold("passport", "approve", "small", "--key", "hw", pin="000000").returncode == 2
    approved = freehold("passport", "approve", "small", "--key", "hw")
    assert approved.returncode == 0, approved.stderr
    assert "approval    hw" in approved.stdout


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)


@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=80)))
def test_any_file_says_where_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.token"
    path.write_bytes(data)
    with pytest.raises(MalformedError):
        token.read(path)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.token"
    path.write_text('{"label":"l","module":"/m.so","token":"t"}')
    assert token.read(path) == Place(module="/m.so", token="t", label="l")
    path.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by others"):
        token.read(path)
