"""The default model, adapted: what peft, transformers and vLLM make of it, and what kills do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
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
from freehold.train.encoding import Sample
from freehold.train.records import record_of
from freehold.types import VerifiedModel
from tests.conftest import DEFAULT, VLLM
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


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What 20 steps made of the default model's values, rounded to bfloat16 as others can load
    them: folders of the ``base``, the ``adapter`` and both ``merged``, and how surprised the
    adapted model is by each of its ``samples`` (nats)."""

    base: Path
    adapter: Path
    merged: Path
    samples: Sequence[Sample]
    surprise: Sequence[float]
    losses: Sequence[float]


def adapted(kind: str, real_root: Path, folder: Path) -> Adapted:
    torch.set_num_threads(1)
    base, merged, store = folder / "base", folder / "merged", Store(folder / "store")
    for made in (base, merged):
        made.mkdir()
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
    run = Run(student, recipe, Lessons(data=samples), folder, model_digest=source.digest)
    run.go()
    lora = recipe.lora
    assert isinstance(lora, Lora)
    parameters = {name: values.detach().clone() for name, values in student.parameters.items()}
    with torch.no_grad():
        surprise = [student.surprise([sample]).item() for sample in samples]
    export.write_adapter(folder / "adapter", lora, parameters, base=DEFAULT)
    export.write_merged(source, merged, lora, parameters)
    log = (folder / "log.jsonl").read_text().splitlines()
    return Adapted(
        base=base,
        adapter=folder / "adapter",
        merged=merged,
        samples=samples,
        surprise=surprise,
        losses=[json.loads(line)["loss"] for line in log],
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_and_transformers_say_what_we_say(kind: str, real_root: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = adapted(kind, real_root, tmp_path)
    ids = made.samples[0].ids.tolist()
    ours = logits_of(brought(Store(tmp_path / "store"), made.merged), ids)
    theirs = AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    del theirs
    apart = np.abs(ours - wanted).max()
    beside = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32), str(made.adapter)
    )
    theirs_surprise = []
    for sample in made.samples:
        with torch.no_grad():
            logits = beside(torch.from_numpy(sample.ids).long()[None]).logits[0]
        logs = torch.log_softmax(logits[:-1].double(), dim=-1)
        picked = logs.gather(1, torch.from_numpy(sample.ids[1:]).long()[:, None])[:, 0]
        theirs_surprise.append(float(-picked[torch.from_numpy(sample.taught[1:])].sum()))
    print(
        f"{kind}: loss {made.losses[0]:.3f} -> {made.losses[-1]:.3f}; merged logits apart by "
        f"{apart:.1e}; surprise {made.surprise} here, {theirs_surprise} in peft"
    )
    assert made.losses[-1] < made.losses[0] / 2
    assert apart <= MAX_ERROR
    assert made.surprise == pytest.approx(theirs_surprise, abs=MAX_ERROR, rel=1e-4)


@contextlib.contextmanager
def vllm(made: Adapted, folder: Path) -> Iterator[httpx.Client]:
    """A client of vLLM's own server, with the adapter beside the base. Skips without a vLLM."""
    if not Path(VLLM).exists():
        pytest.skip("vLLM is not installed: run `make cluster`, or name its Python in "
                    "FREEHOLD_TEST_VLLM")  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", str(made.base)),
        *("--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "2"),
        *("--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"adapted={made.adapter}"),
        "--enforce-eager",
    ]
    env = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PATH": f"{Path(VLLM).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    log = folder / "vllm.log"
    with log.open("wb") as file:
        running = subprocess.Popen(command, env=env, stdout=file, stderr=file, cwd=folder)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    if http.get("/health").status_code == 200:
                        break
                assert running.poll() is None, log.read_text()[-4000:]
                time.sleep(1)
            yield http
    finally:
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(60)
        running.kill()


def test_vllm_serves_the_adapter_as_it_is(real_root: Path, tmp_path: Path) -> None:
    made = adapted("lora", real_root, tmp_path)

    def surprise_of(model: str, sample: Sample, http: httpx.Client) -> float:
        ids = sample.ids.tolist()
        wish = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
        reply = http.post("/v1/completions", json=wish)
        assert reply.status_code == 200, reply.text
        found = reply.json()["choices"][0]["prompt_logprobs"]
        taught = zip(ids, found, sample.taught.tolist(), strict=True)
        return -sum(at[str(token)]["logprob"] for token, at, counts in taught if counts)

    with vllm(made, tmp_path) as http:
        theirs = [surprise_of("adapted", sample, http) for sample in made.samples]
        before = [surprise_of("base", sample, http) for sample in made.samples]
    print(f"surprise {made.surprise} here, {theirs} in vLLM, {before} without the adapter")
    assert made.surprise == pytest.approx(theirs, abs=MAX_ERROR, rel=1e-4)
    assert sum(theirs) < sum(before) / 2


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
        # In the precision that the command picks here: where bfloat16 goes by detours, 15
        # minutes were not enough.
        small += ["--threads", "1", "--save-every", "2"]
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
