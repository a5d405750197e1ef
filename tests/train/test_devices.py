"""Training on a GPU: by PyTorch's fake one everywhere, and on a real one where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freehold.errors import MalformedError, UsageError
from freehold.train import devices, record, run
from freehold.train.reproduce import reproduce
from tests.train.conftest import RECIPE

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_what_is_a_device(device: str) -> None:
    assert devices.check(device) == device
    assert devices.kind_of(device) in (devices.CPU, devices.CUDA)


@pytest.mark.parametrize(
    "device", ["", "gpu", "cuda:", "cuda:x", "CUDA", "cpu:0", "mps", "cuda:0\n"]
)
def test_what_is_none(device: str) -> None:
    with pytest.raises(UsageError, match="take cpu, cuda or cuda:N"):
        devices.check(device)


def test_ranks_take_a_gpu_each() -> None:
    assert devices.check("cuda", 4) == "cuda"
    with pytest.raises(UsageError, match="each of 4 ranks takes a GPU of its own"):
        devices.check("cuda:1", 4)


@without_gpu
def test_a_gpu_that_is_not_there_is_said(corpus: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'cuda' cannot be used here") as caught:
        run.Training(RECIPE, corpus, device="cuda")
    assert caught.value.param == "device"
    with pytest.raises(UsageError, match="computed on cuda, and only there"):
        reproduce(trained, corpus, first=1, last=2, device="cuda")


def as_on_a_gpu(trained: Path, folder: Path) -> Path:
    """The run as if its record had been begun on a GPU."""
    folder.mkdir()
    lines = list(record.read(trained))
    lines[0]["environment"] |= {"device": "cuda", "gpu": "NVIDIA H200"}
    (folder / record.LINES).write_bytes(b"".join(record.encoded(line) + b"\n" for line in lines))
    (folder / run.CHECKPOINTS).symlink_to(trained / run.CHECKPOINTS, target_is_directory=True)
    return folder


def test_a_run_goes_on_where_it_was_begun(corpus: Path, trained: Path, tmp_path: Path) -> None:
    folder = as_on_a_gpu(trained, tmp_path / "run")
    before = (folder / record.LINES).read_bytes()
    with pytest.raises(UsageError, match="begun on cuda, and cpu gives other bits"):
        run.go(run.Training(RECIPE, corpus), folder)
    assert (folder / record.LINES).read_bytes() == before
    assert record.device_of(next(record.read(folder))) == "cuda"


@pytest.mark.parametrize("said", ["tpu", 3, None, ["cuda"]])
def test_a_record_that_names_no_device_is_refused(said: object) -> None:
    with pytest.raises(MalformedError, match="on what device"):
        record.device_of({"environment": {"device": said}})
    with pytest.raises(MalformedError, match="on what device"):
        record.device_of({"environment": said})


def test_steps_mix_no_devices(corpus: Path) -> None:
    """On a GPU that PyTorch pretends to have: of training from nothing and of adapting."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.fakegpu", str(corpus)],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "same device" in found.pop("mixed")
    assert len(found) == 10
    for name, error in found.items():
        assert not error, f"{name}: {error}"


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_learns_as_the_processor_does(corpus: Path, tmp_path: Path, dtype: Any) -> None:
    recipe = replace(RECIPE, dtype=dtype)
    here = run.Training(recipe, corpus)
    losses = [float.fromhex(here.step()["loss"]) for _ in range(recipe.steps)]
    folders = [tmp_path / "once", tmp_path / "stopped"]
    for stop, folder in zip((None, 7), folders, strict=True):
        if stop:
            first = run.Training(recipe, corpus, device="cuda")
            run.go(first, folder, stop=lambda: first.at >= 7)  # noqa: B023
        assert run.go(run.Training(recipe, corpus, device="cuda"), folder)
        record.write_note(folder)
    notes = [(folder / record.LINES).read_bytes() for folder in folders]
    assert notes[0] == notes[1]
    steps = [line for line in record.read(folders[0]) if line["kind"] == "step"]
    assert [float.fromhex(line["loss"]) for line in steps] == pytest.approx(losses, rel=0.02)
    assert reproduce(folders[0], corpus, first=6, last=9, device="cuda").identical


@needs_gpu
def test_a_gpu_is_reached_under_the_lock(tmp_path: Path) -> None:
    own = {"FREEHOLD_HOME": str(tmp_path / "home"), "FREEHOLD_KEYS": str(tmp_path / "keys")}
    words = ["train", "hearth", "--device", "cuda", "--steps", "20", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "freehold.cli", *words],
        check=False, env={**os.environ, **own}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["why"] == "done"
