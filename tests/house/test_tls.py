"""A locked server with TLS: its certificate is renewed at SIGHUP, clients' ones are asked for."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import httpx

from tests.certificates import Authority, Pair
from tests.house.running import start


def serial(authority: Authority, pair: Pair, address: str) -> int:
    """Of the certificate that the server shows."""
    from cryptography import x509

    trust = ssl.create_default_context(cafile=authority.file)
    trust.load_cert_chain(pair.cert, pair.key)
    with httpx.Client(verify=trust) as http, http.stream("GET", f"{address}/health") as reply:
        assert reply.status_code == 200
        shown = reply.extensions["network_stream"].get_extra_info("ssl_object")
        return x509.load_der_x509_certificate(shown.getpeercert(True)).serial_number


def test_a_certificate_is_renewed_under_the_lock(real_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    authority = Authority(tmp_path)
    pair, mine = authority.sign("server"), authority.sign("mine", client=True)
    served = Pair(str(folder / "server.crt"), str(folder / "server.key"))
    Path(pair.cert).replace(served.cert)
    Path(pair.key).replace(served.key)
    config = tmp_path / "freehold.toml"
    config.write_text(
        f'tls_cert = "{served.cert}"\ntls_key = "{served.key}"\n'
        f'tls_client_ca = "{authority.file}"\ntls_reload = true\n'
    )
    server = start(real_root, "--speculate", "off", FREEHOLD_CONFIG=str(config))
    try:
        assert server.address.startswith("https://")
        first = serial(authority, mine, server.address)
        newer = authority.sign("newer")
        Path(newer.cert).replace(served.cert)
        server.process.send_signal(signal.SIGHUP)
        server.hear("goes on with the certificate of before")
        assert serial(authority, mine, server.address) == first
        Path(newer.key).replace(served.key)
        server.process.send_signal(signal.SIGHUP)
        server.hear("the TLS certificate was read again")
        assert serial(authority, mine, server.address) != first
    finally:
        assert server.stop() == 0
