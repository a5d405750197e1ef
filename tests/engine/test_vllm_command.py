"""What vLLM is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.engine.vllm import command
from freehold.engine.vllm.command import Installed, Wishes
from freehold.errors import NotFoundError, UsageError

FOUND = Installed(python="/opt/v/bin/python", version="1", folders=())
WISHES = Wishes(context=4096, max_running=8, kv_bytes=(3 << 30) - 5)


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "--host=0.0.0.0",
            "--trust-remote-code",
            "--trust_remote_code",
            "--trust",
            "--uds",
            "-tp=2",
        ),
        *(
            "--no-trust-remote-code",
            "--middleware=x",
            "--hf-overrides.x=1",
            "--api-key",
            "--port=1",
        ),
        *("-O3", "--m", "--otlp-traces-endpoint=http://x"),
    ],
)
def test_what_is_freeholds_to_set_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="Freehold's to set"):
        command.check_arguments(["--enforce-eager", argument])


def test_other_arguments_are_passed_on() -> None:
    given = ("--enforce-eager", "--block-size", "32", "--max-num-batched-tokens=2048")
    made = command.arguments(
        FOUND, Path("/m"), Path("/s"), Wishes(context=9, max_running=2, kv_bytes=1, arguments=given)
    )
    assert made[-4:] == list(given)
    assert made[made.index("--uds") + 1] == "/s"
    assert "ray" not in made
    spread = Wishes(context=9, max_running=2, kv_bytes=1, ray="10.0.0.5:6379")
    assert "ray" in command.arguments(FOUND, Path("/m"), Path("/s"), spread)


def test_of_the_owners_environment_only_devices_are_told() -> None:
    given = {
        "CUDA_VISIBLE_DEVICES": "1",
        "HTTPS_PROXY": "http://x",
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LD_PRELOAD": "/x",
        "PYTHONPATH": "/y",
    }
    made = command.environment(FOUND, Path("/f"), WISHES, watchman=7, given=given)
    assert made["CUDA_VISIBLE_DEVICES"] == "1"
    assert not {"HTTPS_PROXY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD"} & made.keys()
    assert made["PYTHONPATH"] != "/y"
    assert made["VLLM_NO_USAGE_STATS"] == made["DO_NOT_TRACK"] == made["HF_HUB_OFFLINE"] == "1"
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_a_python_without_vllm_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="make cluster"):
        command.installed("/usr/bin/python3" if Path("/usr/bin/python3").exists() else "python3")
    with pytest.raises(NotFoundError, match="no Python that runs"):
        command.installed(str(tmp_path / "nothing"))


def test_ray_takes_addresses_in_figures() -> None:
    assert command.hosts("10.0.0.5:6379", ["10.0.0.6", "10.0.0.5"]) == ["10.0.0.5", "10.0.0.6"]
    assert command.hosts("", []) == []
    for ray, further in (("head:6379", []), ("10.0.0.5", []), ("10.0.0.5:6379", ["node"])):
        with pytest.raises(UsageError):
            command.hosts(ray, further)


def test_a_file_that_is_changed_or_swapped_has_another_stamp(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    before = command.stamps({"x": file})
    assert command.stamps({"x": file}) == before
    other = tmp_path / "y"
    other.write_bytes(b"two")
    other.replace(file)
    assert command.stamps({"x": file}) != before
