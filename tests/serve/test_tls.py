"""TLS: what is wrong with files, and what clients' certificates open."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.serve.run import Binding, check
from freehold.serve.tls import Files, Renewable, read_pin
from tests.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Pair:
    return authority.sign("server")


def bound(pair: Pair, ca: str | None = None) -> Binding:
    return Binding(port=0, tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=ca)


def client(authority: Authority, url: str, pair: Pair | None = None, secret: str = "") -> Any:
    """An HTTP client that shows ``pair`` and sends ``secret``, where there are any."""
    trust = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        trust.load_cert_chain(pair.cert, pair.key)
    head = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.Client(base_url=url, verify=trust, headers=head)


# --- files ----------------------------------------------------------------------------------------


def refused(binding: Binding, match: str, param: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        check(binding)
    assert caught.value.param == param


def test_certificates_out_of_time(authority: Authority) -> None:
    refused(bound(authority.sign("old", first=-9, last=-1)), "old.crt ended on", "tls_cert")
    refused(bound(authority.sign("new", first=1, last=9)), "new.crt begins on", "tls_cert")


def test_keys_that_cannot_be_used(authority: Authority, server: Pair, tmp_path: Path) -> None:
    other, locked = authority.sign("other"), authority.sign("locked", passphrase=b"secret")
    refused(bound(Pair(server.cert, other.key)), "is not that of the first", "tls_key")
    refused(bound(locked), "has a passphrase", "tls_key")
    refused(bound(Pair(server.cert, server.cert)), "open to every user", "tls_key")
    refused(bound(Pair(server.cert, str(tmp_path))), "cannot be read: Is a directory", "tls_key")
    Path(server.key).chmod(0o640)  # as a group's secret in a container is
    check(bound(server))
    Path(server.key).chmod(0o604)
    refused(bound(server), "run `chmod o= ", "tls_key")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read(server: Pair) -> None:
    Path(server.key).chmod(0o000)
    refused(bound(server), "cannot be read: Permission denied", "tls_key")


def test_files_that_are_missing_or_rubbish(server: Pair, tmp_path: Path) -> None:
    rubbish, gone = tmp_path / "rubbish.pem", str(tmp_path / "gone.pem")
    rubbish.write_text("no certificate")
    rubbish.chmod(0o600)
    refused(bound(Pair(str(rubbish), server.key)), "holds no PEM certificate", "tls_cert")
    refused(bound(Pair(server.cert, str(rubbish))), "holds no PEM private key", "tls_key")
    refused(bound(Pair(gone, server.key)), "gone.pem cannot be read", "tls_cert")
    refused(bound(server, gone), "gone.pem cannot be read", "tls_client_ca")
    refused(bound(server, str(rubbish)), "holds no PEM certificate", "tls_client_ca")
    refused(Binding(port=0, tls_cert=server.cert), "needs both", "tls_cert")
    refused(Binding(port=0, tls_key=server.key), "needs both", "tls_cert")
    refused(Binding(port=0, tls_client_ca=server.cert), "need TLS", "tls_client_ca")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_file_breaks_more_than_a_usage_error(
    server: Pair, authority: Authority, tmp_path: Path, data: st.DataObject
) -> None:
    """Whole files with a piece of one changed, or replaced by anything."""
    which = data.draw(st.sampled_from(["cert", "key", "client_ca"]))
    paths = {"cert": server.cert, "key": server.key, "client_ca": authority.file}
    whole = Path(paths[which]).read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    new = data.draw(st.one_of(st.binary(max_size=40), st.just(whole)))
    broken = tmp_path / "broken"
    broken.write_bytes(data.draw(st.sampled_from([whole[:at] + new + whole[at + len(new) :], new])))
    broken.chmod(0o600)
    try:
        Renewable(Files(**{**paths, which: str(broken)}))
    except UsageError as error:
        refused = error.param
    else:
        refused = f"tls_{which}"
    assert refused in ("tls_cert", "tls_key", "tls_client_ca")


# --- clients' certificates ------------------------------------------------------------------------


def test_a_gate_lets_in_who_shows_a_certificate(
    counter: Callable[..., Any], authority: Authority, server: Pair, tmp_path: Path
) -> None:
    running = counter(binding=bound(server, authority.file))
    ends = running.app.state.desk.metrics.registry.get_sample_value(
        "freehold_tls_certificate_end_timestamp_seconds"
    )
    assert ends == pytest.approx(time.time() + 86_400, abs=60)
    mine = authority.sign("mine", client=True)
    with client(authority, running.url, mine, running.key) as http:
        assert http.get("/v1/models").status_code == 200
    with client(authority, running.url, mine) as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/health").status_code == 200
    stranger = Authority(tmp_path, "stranger").sign("alien", client=True)
    old = authority.sign("expired", client=True, first=-9, last=-1)
    wrong = authority.sign("wrong")  # a server's
    for pair in (None, stranger, old, wrong):
        with (
            client(authority, running.url, pair, running.key) as http,
            pytest.raises((httpx.TransportError, ssl.SSLError)),
        ):
            http.get("/health")


def test_a_certificate_stands_for_its_key_and_nothing_else_does(
    counter: Callable[..., Any], authority: Authority, server: Pair
) -> None:
    running = counter(binding=bound(server, authority.file))
    mine, other = authority.sign("mine", client=True), authority.sign("other", client=True)
    secret = running.keys.add("bound", certificate=read_pin(Path(mine.cert))).secret
    renewed = authority.sign("mine-again", client=True, again=mine)

    def status(pair: Pair, secret: str = "") -> tuple[int, str | None]:
        with client(authority, running.url, pair, secret) as http:
            reply = http.get("/v1/models")
        return reply.status_code, reply.json().get("error", {}).get("code")

    assert status(mine) == status(mine, secret) == status(renewed) == (200, None)
    assert status(other, secret) == (401, "certificate_required")
    assert status(other) == (401, None)
    assert status(mine, running.key) == (200, None)  # another key's secret, and its own rights
    assert status(mine, "fh-wrong-wrong") == (401, "invalid_api_key")
    with pytest.raises(UsageError, match="stands for the key 'bound'"):
        running.keys.add("second", certificate=read_pin(Path(renewed.cert)))
    running.keys.revoke("bound")
    assert status(mine) == (401, None)


def test_a_bound_key_opens_nothing_in_the_clear(counter: Callable[..., Any]) -> None:
    running = counter()
    secret = running.keys.add("bound", certificate="00" * 32).secret
    head = {"authorization": f"Bearer {secret}"}
    reply = httpx.get(running.url + "/v1/models", headers=head)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "certificate_required")


# --- renewal --------------------------------------------------------------------------------------


def handshake(context: ssl.SSLContext, trust: ssl.SSLContext) -> bytes:
    """The certificate that a client sees."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    seen = trust.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for side in (seen, server, seen, server, seen):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = seen.getpeercert(binary_form=True)
    assert shown
    return shown


def test_files_are_read_again_or_all_stays(authority: Authority, server: Pair) -> None:
    trust = ssl.create_default_context(cafile=authority.file)
    context = Renewable(Files(cert=server.cert, key=server.key))
    first = handshake(context, trust)
    newer = authority.sign("newer")
    Path(newer.cert).replace(server.cert)
    with pytest.raises(UsageError, match="is not that of"):
        context.renew()
    assert handshake(context, trust) == first
    Path(newer.key).replace(server.key)
    context.renew()
    assert handshake(context, trust) != first
