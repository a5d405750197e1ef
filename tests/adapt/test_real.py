"""The default model, adapted: what peft and transformers make of it, and what kills do to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freehold.adapt import export
from freehold.adapt.recipe import Lora, recipe_named
from freehold.adapt.student import student_of
from freehold.adapt.training import BEST, STATE, Lessons, Run
from freehold.qwen import codec as codecs
from freehold.qwen import plain
from freehold.qwen.adapter import WEIGHTS
from freehold.qwen.model import Span, load
from freehold.store import FolderSource, Store, pull, verify
from freehold.train import encoding, state
from freehold.train.records import record_of
from freehold.types import VerifiedModel
from tests.conftest import DEFAULT
from tests.engine.conftest import _Quiet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MAX_ERROR = 1e-3
SAID = [
    ("Apa ibu kota Indonesia?", "Ibu kota Indonesia adalah Jakarta."),
    ("Sebutkan tiga buah.", "Mangga, pisang dan rambutan."),
    ("Berapa dua tambah tiga?", "Dua tambah tiga sama dengan lima."),
    ("Apa warna langit?", "Langit berwarna biru pada siang hari."),
]


def logits_of(model: VerifiedModel, ids: Sequence[int]) -> Any:
    ours = load(model, cache_tokens=256, threads=1)
    state_of = ours.cache.new()
    (logits,) = ours.forward([Span(state=state_of, ids=ids, want="all")])
    return logits


def brought(store: Store, folder: Path) -> VerifiedModel:
    made = FolderSource(folder, name="test", licence="Apache-2.0")
    return verify(store, pull(store, str(folder), sources=[made], progress=_Quiet()).name)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_and_transformers_say_what_we_say(kind: str, real_root: Path, tmp_path: Path) -> None:
    """20 steps on the default model's values, rounded to bfloat16 as transformers can load them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    base, store = tmp_path / "base", Store(tmp_path / "store")
    base.mkdir()
    plain.write(verify(Store(real_root), DEFAULT), base)
    source = brought(store, base)
    codec = codecs.load(source)
    samples = [
        sample
        for n, (asked, said) in enumerate(SAID)
        for sample in encoding.samples(
            record_of({"prompt": asked, "completion": said}, file="x", line=n),
            codec, max_length=128, end=None,
        )
    ]  # fmt: skip
    recipe = recipe_named(kind, steps=20, batch=64, micro_batch=64, max_length=64, held_out=0.0)
    student = student_of(load(source, threads=1, cache_tokens=1), recipe)
    run = Run(student, recipe, Lessons(data=samples), tmp_path, model_digest=source.digest)
    run.go()
    lora = recipe.lora
    assert isinstance(lora, Lora)
    parameters = {name: values.detach().clone() for name, values in student.parameters.items()}
    with torch.no_grad():
        surprise = [student.surprise([sample]).item() for sample in samples]
    del student, run  # three float32 models at once would be 7.5 GB
    export.write_adapter(tmp_path / "adapter", lora, parameters, base=DEFAULT)
    merged = tmp_path / "merged"
    merged.mkdir()
    export.write_merged(source, merged, lora, parameters)
    ids = samples[0].ids.tolist()
    ours = logits_of(brought(store, merged), ids)

    theirs = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    del theirs
    apart = np.abs(ours - wanted).max()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(tmp_path / "adapter")
    )
    theirs_surprise = []
    for sample in samples:
        with torch.no_grad():
            logits = adapted(torch.from_numpy(sample.ids).long()[None]).logits[0]
        logs = torch.log_softmax(logits[:-1].double(), dim=-1)
        picked = logs.gather(1, torch.from_numpy(sample.ids[1:]).long()[:, None])[:, 0]
        theirs_surprise.append(float(-picked[torch.from_numpy(sample.taught[1:])].sum()))
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    print(
        f"{kind}: loss {losses[0]:.3f} -> {losses[-1]:.3f}; merged logits apart by {apart:.1e}; "
        f"surprise {surprise} here, {theirs_surprise} in peft"
    )
    assert losses[-1] < losses[0] / 2
    assert apart <= MAX_ERROR
    assert surprise == pytest.approx(theirs_surprise, abs=MAX_ERROR, rel=1e-4)


def test_kills_change_no_bit_of_the_real_adapter(real_root: Path, tmp_path: Path) -> None:
    data = tmp_path / "talk.jsonl"
    data.write_text(
        "\n".join(json.dumps({"prompt": a, "completion": b}) for a, b in SAID), encoding="utf-8"
    )
    # A vault of its own: what is trained must not come into this user's.
    home, folder = tmp_path / "home", tmp_path / "brought"
    folder.mkdir()
    file = Store(real_root).manifest(DEFAULT).files[0].path
    (folder / file).symlink_to(Store(real_root).weights_path(DEFAULT).resolve())
    pull(Store(home), DEFAULT, sources=[FolderSource(folder)], progress=_Quiet())
    env = {**os.environ, "FREEHOLD_HOME": str(home)}

    def command(name: str) -> list[str]:
        small = ["--steps", "8", "--max-length", "64", "--micro-batch", "64", "--batch", "64"]
        small += ["--threads", "1", "--dtype", "bfloat16", "--save-every", "2"]
        program = [sys.executable, "-m", "freehold.cli", "adapt", DEFAULT, "--data", str(data)]
        return [*program, *small, "--name", name]

    whole, cut = home / "adapt" / "whole", home / "adapt" / "cut"
    for step in (1, 4, 7):
        running = subprocess.Popen(command("cut"), env=env, stderr=subprocess.DEVNULL)
        log = cut / "log.jsonl"
        while running.poll() is None and not (log.exists() and log.read_text().count("\n") >= step):
            time.sleep(0.05)
        assert running.poll() is None, "it came to its end before it was killed"
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        time.sleep(1)  # the kernel ends the workshop with it
    for name in ("whole", "cut"):
        subprocess.run(command(name), env=env, check=True, stdout=subprocess.DEVNULL)
    for file in (STATE, BEST):
        assert (whole / file).exists() == (cut / file).exists()
    found, wanted = state.read(cut / STATE)[0], state.read(whole / STATE)[0]
    assert all(torch.equal(values, wanted[name]) for name, values in found.items())
    adapter = Path("adapter") / WEIGHTS
    assert (cut / adapter).read_bytes() == (whole / adapter).read_bytes()
