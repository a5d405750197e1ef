"""The engines that are measured, each in a process of its own, behind one door: ``answer``.

Names: ``freehold`` (also with keys of its settings: ``freehold:backend=torch``,
``freehold:dtype=bfloat16:speculate=lookup``), ``llamacpp`` (pip install llama-cpp-python, built
natively with CMAKE_ARGS=-DGGML_NATIVE=ON), ``openvino`` (pip install openvino-genai, and a folder
from export_openvino.py), ``transformers``. Greedy, all of them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PACKAGES = {
    "freehold": "freehold",
    "llamacpp": "llama_cpp",
    "openvino": "openvino_genai",
    "transformers": "transformers",
}
BATCH = 2048  # tokens that llama.cpp and OpenVINO are handed at once


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The ids of one answer, without the stop id, and the second at which each was there, counted
    from the moment all prompts were handed over."""

    ids: list[int]
    times: list[float]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every engine of a run is told. ``context`` is the tokens its cache holds in all."""

    model: str
    weights: str
    threads: int
    context: int = 4096
    openvino: str = ""


class Subject(Protocol):
    """One engine under measurement."""

    def answer(
        self, prompts: list[list[int]], max_tokens: int, stop: list[int], keep: bool
    ) -> list[Answer]:
        """Answer all ``prompts`` at once. ``keep``: the same prompt comes again, and computing it
        anew may be spared; what follows it is computed each time."""
        ...


class Clock:
    """Collects what comes, and when."""

    def __init__(self, n: int) -> None:
        self._start = time.perf_counter()
        self._answers = [Answer(ids=[], times=[]) for _ in range(n)]

    def put(self, i: int, token: int) -> None:
        self._answers[i].ids.append(token)
        self._answers[i].times.append(time.perf_counter() - self._start)

    def length(self, i: int) -> int:
        return len(self._answers[i].ids)

    def answers(self) -> list[Answer]:
        return self._answers


# --- the engines ----------------------------------------------------------------------------------


def freehold(setup: Setup, options: dict[str, str]) -> Subject:
    """Ours, through its engine process: what a request meets."""
    import asyncio
    from contextlib import AsyncExitStack

    from freehold.cli.hosting import living
    from freehold.cli.output import Bar
    from freehold.cli.places import root
    from freehold.cli.settings import read_settings
    from freehold.types import Sampling, Token

    runner, stack = asyncio.Runner(), AsyncExitStack()
    keys = {
        "threads": setup.threads,
        "cache_tokens": setup.context,
        **keys_of(options),
    }
    settings = read_settings(root(), model=setup.model, **keys)
    engine = runner.run(stack.enter_async_context(living(settings, Bar(quiet=True)))).engine

    class Ours:
        _open = stack  # collected as garbage it would close the engine

        def answer(
            self, prompts: list[list[int]], max_tokens: int, stop: list[int], keep: bool
        ) -> list[Answer]:
            sampling = Sampling(temperature=0, max_tokens=max_tokens, stop_ids=tuple(stop))
            clock = Clock(len(prompts))

            async def one(i: int) -> None:
                async for event in engine.generate(prompts[i], sampling):
                    if isinstance(event, Token):
                        clock.put(i, event.id)

            async def all_of_them() -> None:
                async with asyncio.TaskGroup() as group:
                    for i in range(len(prompts)):
                        group.create_task(one(i))

            runner.run(all_of_them())
            return clock.answers()

    return Ours()


def keys_of(options: dict[str, str]) -> dict[str, Any]:
    """Keys of ``freehold.toml`` from text; guessing ahead is off unless asked for, as the others
    have none. Raises ``ValueError`` for an unknown key or a value that is no number."""
    from freehold.cli.settings import Settings

    kinds: dict[str, Callable[[str], Any]] = {
        field.name: type(field.default) for field in dataclasses.fields(Settings)
    }
    unknown = [key for key in options if key not in kinds]
    if unknown:
        raise ValueError(f"freehold has no setting {unknown[0]!r}; known: {', '.join(kinds)}")
    given = {"speculate": "off", **options}
    return {key: kinds[key](value) for key, value in given.items()}


def llamacpp(setup: Setup, _options: dict[str, str]) -> Subject:
    """llama.cpp through its own C interface, without its Python sampling."""
    import ctypes

    import llama_cpp as ll
    import numpy as np

    ll.llama_backend_init()
    quiet = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    model = ll.llama_model_load_from_file(setup.weights.encode(), ll.llama_model_default_params())
    if not model:
        raise RuntimeError("llama.cpp cannot load this file")
    params = ll.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = setup.context, BATCH, 512, 16
    params.kv_unified = True  # else each sequence gets a sixteenth of the context
    params.n_threads = params.n_threads_batch = setup.threads
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context of this size")
    batch = ll.llama_batch_init(BATCH, 0, 1)
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    memory = ll.llama_get_memory(context)
    kept: dict[tuple[int, ...], Any] = {}

    def run(rows: Sequence[tuple[int, int, int, bool]]) -> Iterator[tuple[int, int]]:
        """Decode rows of (token, position, sequence, whether to choose): (sequence, best id)."""
        for at in range(0, len(rows), BATCH):
            piece = rows[at : at + BATCH]
            batch.n_tokens = len(piece)
            for i, (token, position, sequence, want) in enumerate(piece):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                batch.seq_id[i][0], batch.logits[i] = sequence, want
            if ll.llama_decode(context, batch):
                raise RuntimeError("llama_decode failed: is the context large enough?")
            for i, (_, _, sequence, want) in enumerate(piece):
                if want:
                    logits = ll.llama_get_logits_ith(context, i)
                    yield sequence, int(np.ctypeslib.as_array(logits, shape=(vocab,)).argmax())

    def restore(prompt: list[int]) -> None:
        """Put all of ``prompt`` but its last token into sequence 0, as computed the first time."""
        name = tuple(prompt)
        if name not in kept:
            list(run([(token, i, 0, False) for i, token in enumerate(prompt[:-1])]))
            size = ll.llama_state_seq_get_size(context, 0)
            kept[name] = (ctypes.c_uint8 * size)()
            ll.llama_state_seq_get_data(context, kept[name], size, 0)
        elif not ll.llama_state_seq_set_data(context, kept[name], len(kept[name]), 0):
            raise RuntimeError("llama.cpp cannot restore its state")

    class Theirs:
        _keep = quiet

        def answer(
            self, prompts: list[list[int]], max_tokens: int, stop: list[int], keep: bool
        ) -> list[Answer]:
            ll.llama_memory_clear(memory, True)
            clock = Clock(len(prompts))
            done = 0
            if keep:
                restore(prompts[0])
                done = len(prompts[0]) - 1
            rows = [
                (token, i, s, i == len(prompt) - 1)
                for s, prompt in enumerate(prompts)
                for i, token in enumerate(prompt)
                if i >= done
            ]
            while rows:
                chosen = list(run(rows))
                rows = []
                for s, token in chosen:
                    if token in stop:
                        continue
                    clock.put(s, token)
                    if clock.length(s) < max_tokens:
                        rows.append((token, len(prompts[s]) + clock.length(s) - 1, s, True))
            return clock.answers()

    return Theirs()


def openvino(setup: Setup, options: dict[str, str]) -> Subject:
    """OpenVINO GenAI, its scheduler and paged attention, with what we found to be fastest.

    ``openvino:KEY=VALUE`` hands a property to the CPU plug-in; ``openvino:folder=PATH`` takes
    another export than ``--openvino`` names.
    """
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    folder = options.pop("folder", setup.openvino)
    if not folder:
        raise RuntimeError("no folder given: make one with export_openvino.py, name it --openvino")
    scheduling = genai.SchedulerConfig()
    scheduling.max_num_batched_tokens = BATCH
    scheduling.num_kv_blocks = -(-setup.context // 32) + 16  # blocks of 32 tokens on a CPU
    scheduling.enable_prefix_caching = True  # for ``keep``; no other prompt comes twice
    properties = {
        "INFERENCE_NUM_THREADS": setup.threads,
        # The weights' own group size instead of the default 32: faster in every task.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128,
        **options,
    }
    pipe = genai.ContinuousBatchingPipeline(folder, scheduling, "CPU", properties)
    numbers = iter(range(1 << 62))

    class Theirs:
        def answer(
            self, prompts: list[list[int]], max_tokens: int, stop: list[int], keep: bool
        ) -> list[Answer]:
            config = genai.GenerationConfig()
            config.max_new_tokens, config.do_sample = max_tokens, False
            config.ignore_eos, config.stop_token_ids = not stop, set(stop)
            clock = Clock(len(prompts))
            handles = [
                pipe.add_request(
                    next(numbers), ov.Tensor(np.array([prompt], dtype=np.int64)), config
                )
                for prompt in prompts
            ]
            while pipe.has_non_finished_requests():
                pipe.step()
                for i, handle in enumerate(handles):
                    while handle.can_read():
                        for output in handle.read().values():
                            for token in output.generated_ids:
                                if token not in stop:
                                    clock.put(i, token)
            return clock.answers()

    return Theirs()


def transformers(setup: Setup, _options: dict[str, str]) -> Subject:
    """transformers on the same weights, dequantised, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(setup.threads)
    folder, file = os.path.split(setup.weights)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)

    class Theirs:
        @torch.inference_mode()
        def answer(
            self, prompts: list[list[int]], max_tokens: int, stop: list[int], keep: bool
        ) -> list[Answer]:
            if len({len(prompt) for prompt in prompts}) > 1:
                raise ValueError("prompts of one length only")
            clock = Clock(len(prompts))
            cache, ids = DynamicCache(), torch.tensor(prompts)
            live = set(range(len(prompts)))
            for _ in range(max_tokens):
                out = model(ids, past_key_values=cache, logits_to_keep=1)
                best = out.logits[:, -1].argmax(-1)
                for i in sorted(live):
                    if int(best[i]) in stop:
                        live.remove(i)
                    else:
                        clock.put(i, int(best[i]))
                if not live:
                    break
                ids = best[:, None]
            return clock.answers()

    return Theirs()


MAKERS: dict[str, Callable[[Setup, dict[str, str]], Subject]] = {
    "freehold": freehold,
    "llamacpp": llamacpp,
    "openvino": openvino,
    "transformers": transformers,
}


def parse(engine: str) -> tuple[str, dict[str, str]]:
    """``name:key=value:...`` in parts. Raises ``ValueError`` naming what is wrong."""
    name, *pairs = engine.split(":")
    if name not in MAKERS:
        raise ValueError(f"unknown engine {name!r}; known: {', '.join(MAKERS)}")
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"{engine}: {pair!r} is not KEY=VALUE")
    options = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    if name == "freehold":
        keys_of(options)
    elif options and name != "openvino":
        raise ValueError(f"{name} takes no settings")
    return name, options


# --- a process for each ---------------------------------------------------------------------------


def peak_bytes(pid: int | str = "self") -> int:
    """The most bytes that a process ever held in memory (``VmHWM``), mapped files included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def serve_one(engine: str, setup: Setup) -> None:
    """A measured process: arguments of ``answer`` in, answers out, line by line."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    name, options = parse(engine)
    importlib.import_module(PACKAGES[name])
    import numpy  # noqa: F401  (all of them need it: part of the share below)

    bare = peak_bytes() if sys.platform == "linux" else 0
    subject = MAKERS[name](setup, options)
    print(json.dumps({"bare": bare}), file=out)
    for line in sys.stdin:
        answers = subject.answer(**json.loads(line))
        print(json.dumps([dataclasses.asdict(answer) for answer in answers]), file=out)


class Remote:
    """The other side of ``serve_one``. Raises ``RuntimeError`` with what the process died of."""

    def __init__(self, engine: str, setup: Setup) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        # A file, not a pipe: nobody reads it while the process works.
        self._trouble = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, __file__, engine, json.dumps(dataclasses.asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._trouble,
            text=True,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self.bare_bytes: int = self._read()["bare"]
        """Memory in use before the model was loaded: Python and the engine's packages."""

    def _read(self) -> Any:
        line = self._out.readline()
        if not line:
            self._process.wait()
            self._trouble.seek(0)
            raise RuntimeError(cause(self._trouble.read()))
        return json.loads(line)

    def answer(
        self,
        prompts: list[list[int]],
        max_tokens: int,
        *,
        stop: Sequence[int] = (),
        keep: bool = False,
    ) -> list[Answer]:
        """``Subject.answer``."""
        asked = {"prompts": prompts, "max_tokens": max_tokens, "stop": list(stop), "keep": keep}
        with suppress(BrokenPipeError):  # what it died of is read below
            self._in.write(json.dumps(asked) + "\n")
            self._in.flush()
        return [Answer(**answer) for answer in self._read()]

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._in.close()
        self._process.wait()
        self._out.close()
        self._trouble.close()


def cause(stderr: str) -> str:
    """What a failed process says it died of: the last line of its trouble that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), "it ended without a word")


@contextmanager
def started(names: Sequence[str], setup: Setup) -> Iterator[dict[str, Remote]]:
    """What of ``names`` is installed and takes the model, running; for each other one line on
    standard error says why it is left out. Raises ``SystemExit`` if none is left."""
    running: dict[str, Remote] = {}
    try:
        for name in names:
            if importlib.util.find_spec(PACKAGES[parse(name)[0]]) is None:
                print(f"{name}: not installed, left out", file=sys.stderr)
                continue
            try:
                running[name] = Remote(name, setup)
            except RuntimeError as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
        if not running:
            raise SystemExit("none of these engines can be measured here")
        yield running
    finally:
        for remote in running.values():
            remote.close()


@contextmanager
def weights_of(model: str) -> Iterator[str]:
    """The path of a model's GGUF file in the vault. There a file is named by its digest; other
    engines go by the end of its name, so this is a link. Raises ``FreeholdError``."""
    from freehold.cli.places import root
    from freehold.store import Store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model}.gguf"
        path.symlink_to(Store(root()).weights_path(model))
        yield str(path)


if __name__ == "__main__":
    serve_one(sys.argv[1], Setup(**json.loads(sys.argv[2])))
