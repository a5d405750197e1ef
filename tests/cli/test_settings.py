from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.cli.settings import Settings, Telemetry, read_settings
from freehold.errors import UsageError
from freehold.store.policy import Policy


@pytest.fixture(autouse=True)
def _no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FREEHOLD_CONFIG", raising=False)


def write(root: Path, text: str) -> None:
    (root / "freehold.toml").write_text(text)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()


def test_the_file_goes_before_defaults_and_options_before_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'port = 9000\nhost = "127.0.0.2"\nsources = ["folder:/mnt", "index"]')
    settings = read_settings(tmp_path, port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "127.0.0.2")
    assert settings.sources == ("folder:/mnt", "index")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("prot = 1", "prot"),
        ('port = "8080"', "port"),
        ("port = true", "port"),
        ("port = 70000", "port"),
        ("threads = -1", "threads"),
        ('dtype = "int3"', "dtype"),
        ('backend = "abacus"', "backend"),
        ("max_running = 0", "max_running"),
        ("max_waiting = -1", "max_waiting"),
        ('sources = "index"', "sources"),
        ("sources = [1]", "sources"),
        ("[serve]\nport = 1", "serve"),
        ("gate = 1", "gate"),
        ("[gate]\nlicense = []", "license"),
        ("[gate]\npinned = 1", "pinned"),
        ("[gate]\napprovals = -1", "approvals"),
        ('[gate]\napprovals = 2\napprovers = ["ada", "ada"]', "approvers"),
        ('[gate]\ndigests = ["abc"]', "digests"),
        ('[publish]\nlicences = "MIT"', "licences"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, text: str, param: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UsageError, match=param) as caught:
        read_settings(tmp_path)
    assert caught.value.param == param


def test_the_gate_is_a_table(tmp_path: Path) -> None:
    write(tmp_path, 'port = 1\n[gate]\nlicences = ["MIT"]\npinned = true\n[publish]\napprovals = 2')
    settings = read_settings(tmp_path)
    assert settings.gate == Policy(licences=("MIT",), pinned=True)
    assert settings.publish.approvals == 2
    assert not Settings().gate.asks


def test_a_wrong_key_in_a_table_is_named_with_it(tmp_path: Path) -> None:
    write(tmp_path, "[gate]\napprovals = -1")
    with pytest.raises(UsageError, match=r"freehold\.toml: \[gate\] approvals must"):
        read_settings(tmp_path)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "freehold.toml").write_bytes(b"port = \xff")
    with pytest.raises(UsageError, match=r"freehold\.toml is not TOML"):
        read_settings(tmp_path)


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(UsageError, match=r"gone\.toml cannot be read"):
        read_settings(tmp_path)


@settings(suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.text(max_size=40), st.from_regex(r"http://[^/]{0,20}:[0-9]{0,7}/?", fullmatch=True)
    )
)
def test_a_collector_is_an_address_or_refused(traces: str) -> None:
    try:
        found = Telemetry(traces=traces).address() if traces else ("none", 1)
    except UsageError as error:
        found = (str(error.param), 1)
    assert found[0]
    assert 0 < found[1] < 1 << 16


def test_traces_without_what_sends_them_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from freehold.cli.telemetry import collector_of

    telemetry = Telemetry(traces="http://127.0.0.1:4318")
    assert collector_of(Settings()) == ()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'freehold\[telemetry\]'"):
        collector_of(Settings(telemetry=telemetry))
