"""A locked server sends its traces to the collector that its owner named, and to nobody else."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.collector import collecting
from tests.house.running import DEFAULT, start


def test_traces_leave_the_lock_to_one_address(real_root: Path, tmp_path: Path) -> None:
    config = tmp_path / "freehold.toml"
    with collecting() as (address, collector):
        config.write_text(f'[telemetry]\ntraces = "{address}"\n')
        proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
        server = start(
            real_root, "--speculate", "off", FREEHOLD_CONFIG=str(config), NO_PROXY="", **proxies
        )
        try:
            head = {"authorization": f"Bearer {server.key}"}
            body = {"model": DEFAULT, "prompt": "The", "max_tokens": 4}
            with httpx.Client(base_url=server.address, headers=head, timeout=120) as http:
                http.post("/v1/completions", json=body).raise_for_status()
                shut = http.get("/residency").json()
                page = http.get("/metrics").text
            collector.wait("ledger.seal")
        finally:
            assert server.stop() == 0
    assert shut["residency"] == "enforced by the kernel"
    assert "counter-remote" in {one["role"] for one in shut["processes"]}
    assert shut["attempts"] == 0
    names = {one.name for one in collector.spans}
    assert {"request", "tokenise", "engine.prefill", "engine.decode"} <= names
    assert {"ledger.open", "ledger.seal"} <= names
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["freehold_residency_enforced"] == found["freehold_residency_recording"] == 1
    assert found["freehold_ledger_write_seconds_count"] == 1  # of seals, the last of the two
    assert found["process_resident_memory_bytes"] > 1 << 20
