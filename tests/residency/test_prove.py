"""The proof, whole: it holds for a locked server, and it fails for an unlocked one."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freehold.cli.residency import RENDERER
from freehold.qwen.template import ChatTemplate
from freehold.residency import landlock, seccomp
from freehold.residency.attacks import kinds
from freehold.signing import keys
from freehold.signing.dsse import pae

FREEHOLD = [sys.executable, "-m", "freehold.cli"]
MUST_GET_OUT = {
    "tcp4", "udp4", "resolve", "dns", "packet", "sendmsg", "fast-open", "direct-calls", "io-uring",
    "unix", "unix-abstract", "netlink", "fork", "posix-spawn", "execve", "ptrace", "proc-mem",
    "read-memory", "write-memory", "secret", "write-store", "write-autostart", "memory-program",
    "template-unboxed", "plugin-httpx", "urllib", "proxy",
}  # fmt: skip
"""With --no-lock, on a machine that has them all."""


def proven(root: Path, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    private = folder / "keys"
    keys.create(private, "owner", "p256")
    done = subprocess.run(
        [*FREEHOLD, "residency", "prove", "--json", "--output", str(folder / "proof"), *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "FREEHOLD_HOME": str(root), "FREEHOLD_KEYS": str(private)},
    )
    if "no network namespace can be made here" in done.stdout + done.stderr:
        pytest.skip("needs root or user namespaces")
    if "needs the tool `ip`" in done.stdout + done.stderr:
        pytest.skip("needs iproute2")
    return done.returncode, json.loads(done.stdout)


def frames(path: Path) -> int:
    data, count = path.read_bytes()[24:], 0
    while data:
        data = data[16 + struct.unpack_from("=I", data, 8)[0] :]
        count += 1
    return count


def test_there_are_kinds_enough_and_each_has_a_name() -> None:
    names = [kind.name for kind in kinds()]
    assert len(names) == len(set(names)) >= 25
    assert set(names) >= MUST_GET_OUT


def test_the_renderer_that_is_attacked_is_the_real_one() -> None:
    module, _, name = RENDERER.partition(":")
    assert getattr(importlib.import_module(module), name) is ChatTemplate


@pytest.mark.slow
def test_nothing_gets_out_of_a_locked_server(real_root: Path, tmp_path: Path) -> None:
    if landlock.abi() < 6 or not seccomp.available():
        pytest.skip("this kernel has no Landlock of ABI 6, or no seccomp")
    status, report = proven(real_root, tmp_path)
    got_out = [one for one in report["attempts"] if one["outcome"] == "out"]
    assert not got_out
    assert status == 0
    assert report["held"]
    assert report["packets_out"] == report["heard_outside"] == 0
    assert report["kinds"] >= 25
    assert report["attempts_made"] == report["attempts_blocked"] >= 75
    assert report["attempts_in_ledger"] == report["attempts_recorded"] >= 100
    assert report["answered_before"]
    assert report["answered_after"]
    assert {one["process"] for one in report["attempts"]} == {
        *("counter", "engine", "keeper", "watchman")
    }
    capture = tmp_path / "proof" / "capture.pcap"
    assert frames(capture) == 0
    assert hashlib.sha256(capture.read_bytes()).hexdigest() == report["capture"]["sha256"]
    envelope = json.loads((tmp_path / "proof" / "report.dsse.json").read_bytes())
    payload = base64.b64decode(envelope["payload"])
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public = keys.load_public(tmp_path / "keys" / "owner.pub")
    public.verify(pae(envelope["payloadType"], payload), signature)
    assert json.loads(payload) == report


@pytest.mark.slow
def test_the_same_attempts_get_out_of_an_unlocked_server(real_root: Path, tmp_path: Path) -> None:
    status, report = proven(real_root, tmp_path, "--no-lock")
    assert status == 1
    assert not report["held"]
    assert report["packets_out"] > 50
    assert frames(tmp_path / "proof" / "capture.pcap") > 50
    out = {one["kind"] for one in report["attempts"] if one["outcome"] == "out"}
    if os.geteuid() == 0:
        assert out >= MUST_GET_OUT
    assert len(out) >= 25
