"""A model that answers by script: an Engine and a Codec that honour ``freehold.types``.

Tokens 0 to 255 are bytes, ``END`` ends an answer, and a few more stand for words, so that tokens
longer than a character exist. The engine answers with the text of the last message (or with
``reply``), and counts what it started and what was closed. Run as a program, it serves itself.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import re
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from freehold.errors import EngineError, UsageError
from freehold.ledger import KeeperSettings, LedgerProcess
from freehold.qwen.listening import TextListener
from freehold.serve.app import Hosted, Limits, build
from freehold.serve.keys import Keyring
from freehold.serve.run import Binding, run
from freehold.types import (
    CallForm,
    Cutoff,
    Delta,
    Done,
    EngineStats,
    Event,
    Floats,
    Guard,
    Ids,
    Logprobs,
    Message,
    ModelCard,
    Pooling,
    Prefilled,
    Reading,
    Sampling,
    Span,
    Tap,
    Token,
    Turn,
)

NAME = "scripted-1"
DIGEST = "blake3:0123456789abcdef" + "0" * 48
END = 256
WORDS = (b" hello", b" world", b"  ", " čeština".encode())
VOCAB = END + 1 + len(WORDS)
CONTEXT = 512
CARD = ModelCard(
    name=NAME,
    digest=DIGEST,
    context=CONTEXT,
    vocab=VOCAB,
    numerics="scripted",
    bytes_per_token=1,
    caps=frozenset({"ids", "score", "embed"}),
)


class ScriptedCodec:
    """Bytes are tokens. A conversation reads ``<role>content`` one after the other."""

    stop_ids = (END,)
    pooling: Pooling = "mean"
    suffix: tuple[int, ...] = ()

    def __init__(
        self,
        calls: Literal["json", "xml"] | None = None,
        thinking: Literal["open", "free", "no"] = "no",
    ) -> None:
        self.options: list[Mapping[str, Any]] = []
        self.messages: list[Sequence[Message]] = []
        self.tools: list[Sequence[Mapping[str, Any]]] = []
        self.forms: list[tuple[Sequence[CallForm], int, bool]] = []
        self._calls: Literal["json", "xml"] | None = calls
        self._thinking: Literal["open", "free", "no"] = thinking

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        self.messages.append(messages)
        self.tools.append(tools)
        self.options.append(options or {})
        if options and options.get("explode"):
            raise UsageError("the template refused", param="messages")
        if options and options.get("defect"):
            raise RuntimeError("secret inside of the server")
        return self.text("".join(f"<{m['role']}>{m['content']}" for m in messages))

    def turns(self, prompt: Ids) -> tuple[Turn, ...]:
        text = bytes(prompt).decode("latin-1")
        heads = list(re.finditer("<(system|user|assistant|tool)>", text))
        ends = [*(head.start() for head in heads[1:]), len(text)]
        pairs = zip(heads, ends, strict=True)
        return tuple(Turn(role=head[1], start=head.end(), stop=end) for head, end in pairs)

    def text(self, prompt: str) -> list[int]:
        return list(prompt.encode())

    def token_bytes(self, token: int) -> bytes:
        if token < END:
            return bytes([token])
        return b"<|end|>" if token == END else WORDS[token - END - 1]

    def decoder(self, stop: Sequence[str] = ()) -> ScriptedDecoder:
        return ScriptedDecoder(self, tuple(stop))

    @property
    def calls_tools(self) -> bool:
        return self._calls is not None

    def listener(self, prompt: Ids, tools: Sequence[Mapping[str, Any]] = ()) -> TextListener:
        return TextListener(thinking=self._thinking, calls=self._calls, tools=tools)

    def call_grammar(self, forms: Sequence[CallForm], *, least: Literal[0, 1], many: bool) -> str:
        self.forms.append((forms, least, many))
        return 'start: "calls"'

    def after_thinking(self, prompt: Ids, grammar: str) -> str:
        return grammar if self._thinking == "no" else f"// thought first\n{grammar}"

    def cutoff(self, prompt: Ids, after: int) -> Cutoff | None:
        return None if self._thinking == "no" else Cutoff(after=after, unless=1, ids=(1, 10))


class ScriptedDecoder:
    """Holds back half characters, and any ending that could still become a stop string."""

    def __init__(self, codec: ScriptedCodec, stop: tuple[str, ...]) -> None:
        self._codec = codec
        self._stop = stop
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""

    def push(self, token: int) -> Delta:
        return self._take(self._utf8.decode(self._codec.token_bytes(token)), final=False)

    def finish(self) -> Delta:
        return self._take(self._utf8.decode(b"", final=True), final=True)

    def _take(self, text: str, *, final: bool) -> Delta:
        self._text += text
        places = [self._text.find(stop) for stop in self._stop if stop in self._text]
        if places:
            at = min(places)
            stop = next(stop for stop in self._stop if self._text.startswith(stop, at))
            return Delta(text=self._text[:at], stopped=True, stop=stop)
        keep = 0 if final else max(map(self._could_begin, self._stop), default=0)
        cut = len(self._text) - keep
        out, self._text = self._text[:cut], self._text[cut:]
        return Delta(text=out)

    def _could_begin(self, stop: str) -> int:
        return max(n for n in range(len(stop)) if self._text.endswith(stop[:n]) or n == 0)


@dataclass
class ScriptedEngine:
    """``reply`` makes the answer's tokens from the prompt's; the default echoes the last message.

    ``delay`` is slept before each token. ``waits`` says of a prompt's tokens before which token the
    engine waits until it is closed. ``fail_at`` raises ``failure`` before that token.
    """

    reply: Callable[[list[int]], Sequence[int]] | None = None
    delay: float = 0.0
    first_delay: float = 0.0
    waits: Callable[[list[int]], int | None] = lambda ids: None
    fail_at: int | None = None
    failure: Exception = field(default_factory=lambda: EngineError("the engine process is gone"))
    down: bool = False
    card: ModelCard = CARD
    started: int = 0
    closed: int = 0
    finished: int = 0
    prompts_read: int = 0
    most: int = 0
    """How many answers were under way at once."""

    seen: list[Sampling] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    readout: Callable[[list[int]], Any] | None = None
    """What is read off a prompt's ids: (ids, channels)."""

    pooled: list[Pooling] = field(default_factory=list)

    async def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event]:
        assert adapter is None
        assert not taps
        self.started += 1
        self.most = max(self.most, self.started - self.closed)
        self.seen.append(sampling)
        self.prompts.append(list(ids))
        try:
            async for event in self._events(list(ids), sampling):
                yield event
        finally:
            self.closed += 1

    async def _events(self, ids: list[int], sampling: Sampling) -> AsyncGenerator[Event]:
        if self.fail_at == 0:
            raise self.failure
        if self.first_delay:
            await asyncio.sleep(self.first_delay)
        self.prompts_read += 1
        read = self.readout and self.readout(ids)
        yield Prefilled(prompt_tokens=len(ids), cached_tokens=len(ids) // 2, readout=read)
        count, waits = 0, self.waits(ids)
        for token in self.reply(ids) if self.reply else _last_message(ids):
            if count == self.fail_at:
                raise self.failure
            if count == waits:
                await asyncio.Event().wait()
            await asyncio.sleep(self.delay)
            if token in sampling.stop_ids:
                break
            yield _token(token, sampling.logprobs)
            count += 1
            if count == sampling.max_tokens:
                self.finished += 1
                yield Done(reason="length", output_tokens=count)
                return
        self.finished += 1
        yield Done(reason="stop", output_tokens=count)

    async def score(
        self, ids: Ids, *, top: int = 0, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> Logprobs:
        values = np.full(len(ids), -0.25, dtype=np.float32)
        values[0] = np.nan
        return Logprobs(values=values, top=tuple(_top(token, top) for token in ids))

    async def embed(self, ids: Ids, *, pooling: Pooling) -> Floats:
        self.prompts.append(list(ids))
        self.pooled.append(pooling)
        if self.fail_at is not None:
            raise self.failure
        return np.array([3.0, 4.0, len(ids)], np.float32)

    async def stats(self) -> EngineStats:
        if self.down:
            raise EngineError("the engine process is gone")
        return EngineStats(
            running=self.started - self.closed,
            waiting=3,
            pages_total=100,
            pages_free=60,
            pages_cached=30,
        )


def _last_message(ids: list[int]) -> list[int]:
    return list(bytes(i for i in ids if i < END).rpartition(b">")[2])


def _token(token: int, top: int | None) -> Token:
    if top is None:
        return Token(id=token)
    return Token(id=token, logprob=-0.5, top=_top(token, top))


def _top(token: int, count: int) -> tuple[tuple[int, float], ...]:
    return tuple(((token + i) % VOCAB, -0.5 - i) for i in range(count))


class WordGuard:
    """A detector of words: ``poison`` is harmful, ``hmm`` a little, a dozen digits are personal."""

    name = "words 1"

    def __init__(self) -> None:
        self.read_texts: list[str] = []

    def read(self, text: str) -> Reading:
        self.read_texts.append(text)
        spans = tuple(
            Span(start=m.start(), end=m.end(), category="personal", label="number")
            for m in re.finditer(r"\d{12}", text)
        )
        score = 0.99 if "poison" in text else 0.45 if "hmm" in text else 0.01
        return Reading(detector=self.name, scores={"harmful": score}, spans=spans)


def passport(name: str) -> bytes:
    """A passport that says whose it is."""
    return json.dumps({"passport": name}).encode()


@dataclass(frozen=True, kw_only=True)
class Running:
    """A counter that is open on a loopback port."""

    url: str
    key: str
    engine: Any
    codec: Any
    keys: Keyring
    app: Any
    loop: asyncio.AbstractEventLoop
    ledger: LedgerProcess | None = None

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


class Opened:
    """Runs a counter in a thread of its own until ``close``."""

    def __init__(
        self,
        folder: Path,
        engine: Any,
        codec: Any,
        limits: Limits,
        *,
        binding: Binding | None = None,
        card: ModelCard | None = None,
        keeper: KeeperSettings | None = None,
        traces: Any = None,
        guard: Guard | None = None,
    ) -> None:
        self._keeper, self._traces, self._guard = keeper, traces, guard
        self._engine, self._codec, self._limits = engine, codec, limits
        self._card = card or engine.card
        self._binding = binding or Binding(port=0)
        self._keys = Keyring(f"sqlite:///{folder / 'keys.db'}")
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def open(self) -> Running:
        self._thread.start()
        assert self._ready.wait(20), "the server did not start"
        return self.running

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server did not end"

    async def _main(self) -> None:
        if self._keeper is None:
            await self._serve(None)
        else:
            async with await LedgerProcess.start(self._keeper) as ledger:
                await self._serve(ledger)

    async def _serve(self, ledger: LedgerProcess | None) -> None:
        hosted = Hosted(
            name=NAME,
            card=self._card,
            engine=self._engine,
            codec=self._codec,
            created=1_700_000_000,
            aliases=("scripted/alias",),
        )
        app = build(
            [hosted],
            self._keys,
            self._limits,
            ledger,
            guard=self._guard,
            passports=passport,
            traces=self._traces,
        )
        self._loop = asyncio.get_running_loop()

        def ready(url: str) -> None:
            self.running = Running(
                url=url,
                key=self._keys.add_temporary(),
                engine=self._engine,
                codec=self._codec,
                keys=self._keys,
                app=app,
                loop=self._loop,
                ledger=ledger,
            )
            self._ready.set()

        self._task = asyncio.create_task(run(app, self._binding, drain_seconds=5, on_ready=ready))
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()


def _program(
    folder: str, drain_seconds: str, delay: str, ledger: str = "", keyring: str = ""
) -> None:
    """Serve from the main thread, where signals arrive; print the address, a key, and the process
    id of the keeper where there is a ``ledger``."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    limits = replace(Limits(), drain_seconds=float(drain_seconds))
    keys = Keyring(keyring or f"sqlite:///{folder}/keys.db")
    hosted = Hosted(
        name=NAME,
        card=CARD,
        engine=ScriptedEngine(delay=float(delay)),
        codec=ScriptedCodec(),
        created=1_700_000_000,
    )
    key = keys.add_temporary()

    async def serve(keeper: LedgerProcess | None) -> None:
        pid = keeper.pid if keeper else ""
        await run(
            build([hosted], keys, limits, keeper, passports=passport),
            Binding(port=0),
            drain_seconds=limits.drain_seconds,
            on_ready=lambda url: print(url, key, pid, flush=True),
        )

    async def main() -> None:
        if not ledger:
            await serve(None)
            return
        settings = KeeperSettings(
            root=folder, keys=f"{folder}/keys", ledger=ledger, content="clear"
        )
        async with await LedgerProcess.start(settings) as keeper:
            await serve(keeper)

    asyncio.run(main())
    print("ended well", flush=True)


if __name__ == "__main__":
    _program(*sys.argv[1:])
