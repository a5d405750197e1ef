"""Plain data and protocols that cross between rooms. Imports nothing but the ground.

Text, chat templates and tools stay on the counter's side of ``Codec``; the engine speaks token ids.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError

Ids: TypeAlias = Sequence[int]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Message: TypeAlias = Mapping[str, Any]


# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """One tensor as it lies in its file: still packed, not yet interpreted.

    ``dtype`` is the file format's own name (``F32``, ``BF16``, ``Q4_K``, ...); ``shape`` is
    row-major, outermost dimension first, in elements (GGUF's reversed order already undone);
    ``data`` is a read-only one-dimensional view of the verified, memory-mapped bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Bytes


@dataclass(frozen=True, kw_only=True)
class PackedPart:
    """A matrix as the native kernels hold it: ``data`` is read-only and aligned to 64 bytes;
    ``format`` is the name of the GGUF blocks it was made from; ``cols`` may be padded."""

    format: str
    rows: int
    cols: int
    data: Bytes


@dataclass(frozen=True, kw_only=True)
class PackedLayer:
    """A linear layer: its parts' outputs follow each other. ``bias`` has one value for each."""

    parts: tuple[PackedPart, ...]
    bias: Floats | None


@dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """All weights of a model, packed. ``weights`` is how they were chosen: ``file`` keeps the
    file's own codes, ``8bit`` and ``4bit`` are rounded. ``shapes`` are those of the source's
    tensors. ``layers`` and ``vectors`` go by the names that ``qwen.model`` gives them."""

    weights: str
    shapes: Mapping[str, tuple[int, ...]]
    layers: Mapping[str, PackedLayer]
    vectors: Mapping[str, Floats]


Attestation: TypeAlias = Literal["catalog", "hub", "owner"]
"""Who vouches for the digests: the shipped catalog, the hub that published them, or the owner who
brought the files in from a folder."""


@dataclass(frozen=True, kw_only=True)
class VerifiedModel:
    """A model whose every byte matched its digest. Made only by ``store``: ``verify``, ``packs``.

    ``metadata`` holds a GGUF file's key-values (empty for safetensors); ``documents`` the small
    files beside the weights by name (``config.json``, ``tokenizer.json``, ...). A model that comes
    out of a pack has ``packed`` in place of ``tensors``.
    """

    name: str
    digest: str
    format: Literal["gguf", "safetensors"]
    licence: str
    attested: Attestation
    metadata: Mapping[str, Any]
    documents: Mapping[str, bytes]
    tensors: Mapping[str, RawTensor]
    packed: PackedWeights | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor of the source, by name."""
        if self.packed is not None:
            return self.packed.shapes
        return {name: tensor.shape for name, tensor in self.tensors.items()}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What an engine says of the model it runs.

    ``context`` is in tokens. ``numerics`` names the arithmetic (for example ``torch-float32``).
    ``bytes_per_token`` is how many bytes of weights one decoded token reads, as they are held.
    ``isa`` is what it runs on (an instruction set, a device).
    ``caps`` may hold ``ids``, ``score``, ``taps``, ``adapters``, ``replay``, ``grammar``,
    ``embed`` and ``readout``.
    """

    name: str
    digest: str
    context: int
    vocab: int
    bytes_per_token: int
    numerics: str
    caps: frozenset[str]
    isa: str = ""


# --- sampling -------------------------------------------------------------------------------------

MAX_TOP_LOGPROBS = 20
MAX_GRAMMAR = 65_536
"""Characters of a grammar."""
MAX_CUTOFF_IDS = 64


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """Once ``after`` tokens of an answer have come and ``unless`` was not among them, ``ids`` come
    next, whatever the model would choose: how reasoning is ended when it has had its budget."""

    after: int
    unless: int
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose each next token. Data only: it crosses processes.

    The order is: penalties and bias on the logits, the grammar, temperature, then top_k, top_p,
    min_p on the probabilities, then one draw. ``temperature`` 0 takes the highest logit, the lowest
    id on a tie. A draw depends on ``seed``, ``choice`` (which of ``n`` answers) and position alone,
    never on who shares the batch. ``logprobs`` is ``None`` for none, else how many alternatives to
    report. ``grammar`` is what the answer's tokens must spell, in a form that ``llguidance`` reads
    (Lark text, or several that name each other as JSON): the answer ends where that ends, and a
    stop id can come only where it may end. What a ``cutoff`` puts in must be allowed by it.

    Raises ``UsageError`` with ``param`` set to the field's name.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    choice: int = 0
    max_tokens: int = 256
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    grammar: str | None = None
    cutoff: Cutoff | None = None

    def __post_init__(self) -> None:
        within = (
            ("temperature", self.temperature, 0.0, 2.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("top_k", self.top_k, 0, 1 << 31),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("seed", self.seed, -(1 << 63), (1 << 63) - 1),
            ("max_tokens", self.max_tokens, 1, 1 << 31),
            ("logprobs", 0 if self.logprobs is None else self.logprobs, 0, MAX_TOP_LOGPROBS),
            ("cutoff", 0 if self.cutoff is None else self.cutoff.after, 0, 1 << 31),
            ("cutoff", 0 if self.cutoff is None else len(self.cutoff.ids), 0, MAX_CUTOFF_IDS),
        )
        for name, value, low, high in within:
            # Written so that NaN, for which every comparison is false, is refused as well.
            if not low <= value <= high:
                raise UsageError(
                    f"{name} is {value}: it must lie between {low} and {high}", param=name
                )
        for token, bias in self.logit_bias.items():
            if not math.isfinite(bias) or not -100 <= bias <= 100:
                raise UsageError(
                    f"logit_bias for token {token} is {bias}: it must lie between -100 and 100",
                    param="logit_bias",
                )
        if self.grammar is not None and len(self.grammar) > MAX_GRAMMAR:
            raise UsageError(
                f"grammar has {len(self.grammar)} characters: at most {MAX_GRAMMAR} are allowed",
                param="grammar",
            )


@dataclass(frozen=True, kw_only=True)
class Tap:
    """See or change the residual stream: ``point`` at ``layer``, counted from 0.

    ``read`` reports the value; ``add`` adds ``vector`` (width of the model) to every row of the
    request; ``replace`` puts ``vector`` in its place.
    """

    point: Literal["block_in", "attn_out", "block_out"]
    layer: int
    mode: Literal["read", "add", "replace"] = "read"
    vector: tuple[float, ...] | None = None


# --- engine ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """The prompt is in the cache; ``cached_tokens`` of it were there already. ``readout`` is what
    an engine that was given a readout reads off the prompt's rows: (prompt_tokens, channels)."""

    prompt_tokens: int
    cached_tokens: int
    readout: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """One new token. ``logprob`` and ``top`` (id, logprob), best first, come from the model's own
    distribution, before penalties and temperature. ``taps``: what the read taps saw at the row that
    produced this token, keyed by ``(point, layer)``. ``readout`` (channels,) is of the same row."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    taps: Mapping[tuple[str, int], Floats] = field(default_factory=dict)
    readout: Floats | None = None


FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """The answer is complete: a stop id was chosen (and not sent), its grammar has ended, or
    ``max_tokens`` is reached."""

    reason: FinishReason
    output_tokens: int


Event: TypeAlias = Prefilled | Token | Done


@dataclass(frozen=True, kw_only=True)
class Logprobs:
    """``values[i]`` is log p(ids[i] | ids[:i]) of the given ids; ``values[0]`` is NaN.

    ``top[i]`` are the best (id, logprob) pairs for position ``i + 1``, so the last entry speaks of
    the token that would come next. ``taps`` arrays are (len(ids), width).
    """

    values: Floats
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    taps: Mapping[tuple[str, int], Floats] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A moment in the boiler room: requests, and KV pages."""

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_cached: int
    """Pages that only the prefix cache holds: given up as soon as a request needs them."""
    guessed: int = 0
    """Tokens guessed ahead (speculative decoding) since the start."""
    kept: int = 0
    """Those of them that were what the model chose."""


Pooling: TypeAlias = Literal["mean", "last"]
"""How one vector is made of many: their mean, or the last of them."""


class Engine(Protocol):
    """Token ids in, token ids out: ours, vLLM, or an address on this machine."""

    @property
    def card(self) -> ModelCard: ...

    def generate(
        self, ids: Ids, sampling: Sampling, *, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> AsyncGenerator[Event]:
        """Yield ``Prefilled``, then ``Token`` by ``Token``, then ``Done``.

        Closing the generator cancels the request and frees what it holds. Raises
        ``ContextOverflowError``, ``BusyError``, ``UsageError`` or ``EngineError``.
        """
        ...

    async def score(
        self, ids: Ids, *, top: int = 0, adapter: str | None = None, taps: Sequence[Tap] = ()
    ) -> Logprobs: ...

    async def embed(self, ids: Ids, *, pooling: Pooling, adapter: str | None = None) -> Floats:
        """(width,): the last hidden states after the final norm, pooled over the ids; not scaled to
        any length. Raises what ``score`` raises."""
        ...

    async def stats(self) -> EngineStats: ...


# --- codec ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Text released by one token. ``stopped`` is true once a stop string was met, which ``stop``
    then is: what follows it, and the stop string itself, is never released."""

    text: str = ""
    stopped: bool = False
    stop: str | None = None


@dataclass(frozen=True, kw_only=True)
class CallPart:
    """A piece of an answer's call number ``index``. The first piece has the ``name`` of the tool;
    ``arguments`` of all pieces, one after the other, are JSON."""

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a piece of an answer's text turned out to be. Within one piece, thoughts come before
    words, and words before calls."""

    thoughts: str = ""
    words: str = ""
    calls: tuple[CallPart, ...] = ()


class Listener(Protocol):
    """One answer's text, told apart: what the model thinks, what it says, which tools it calls."""

    def feed(self, text: str) -> Heard: ...

    def finish(self) -> Heard:
        """Release what was held back, at the end of the answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a tool. ``rule`` is a Lark expression for its value as JSON; ``None`` for
    any text."""

    name: str
    required: bool
    rule: str | None


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """What calls of the tool ``name`` must look like: ``arguments`` is a Lark expression for all of
    them as one JSON object. ``parameters`` is ``None`` where any object will do."""

    name: str
    arguments: str
    parameters: tuple[Parameter, ...] | None


class Decoder(Protocol):
    """One answer's way from ids to text; holds back half a character and half a stop string."""

    def push(self, token: int) -> Delta: ...

    def finish(self) -> Delta:
        """Release what was held back, at the end of the answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One part of a prompt as its ids have it: who speaks, and the ids ``start`` to ``stop`` (not
    among them) of what is said."""

    role: str
    start: int
    stop: int


class Codec(Protocol):
    """Messages and text to ids and back. Made by ``qwen``, handed to ``serve`` by ``cli``."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer (end of turn, end of text)."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Render with the model's own template and tokenise. Control tokens come from the template
        alone: one that is written in a message or a tool is text. ``options`` reach the template
        (``enable_thinking``, ...). Raises ``UsageError`` naming ``messages`` or ``tools``."""
        ...

    def turns(self, prompt: Ids) -> tuple[Turn, ...]:
        """What ``chat`` put into these ids, part by part; ids without any turn are one of the
        user's."""
        ...

    def text(self, prompt: str) -> list[int]:
        """Tokenise plain text; special tokens written in it keep their meaning."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How this model's embeddings are pooled, if its files say so: else the mean."""
        ...

    @property
    def suffix(self) -> tuple[int, ...]:
        """Ids that this model wants behind each text it is to embed."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for (special tokens: their name)."""
        ...

    def decoder(self, stop: Sequence[str] = ()) -> Decoder: ...

    @property
    def calls_tools(self) -> bool:
        """Whether the model was trained to call tools in a form that is known here."""
        ...

    def listener(self, prompt: Ids, tools: Sequence[Mapping[str, Any]] = ()) -> Listener:
        """For the text of an answer to ``prompt``, which ``chat`` made with the same ``tools``."""
        ...

    def call_grammar(self, forms: Sequence[CallForm], *, least: Literal[0, 1], many: bool) -> str:
        """The grammar of an answer that calls tools of these forms: at least ``least`` of them
        (with 0, text may come first), and more than one if ``many``. Raises ``UsageError``."""
        ...

    def after_thinking(self, prompt: Ids, grammar: str) -> str:
        """``grammar``, with room for the reasoning that an answer to ``prompt`` begins with."""
        ...

    def cutoff(self, prompt: Ids, after: int) -> Cutoff | None:
        """What ends the reasoning of an answer to ``prompt`` after so many tokens; ``None`` where
        the model does not reason."""
        ...


# --- guard ----------------------------------------------------------------------------------------

Category: TypeAlias = Literal[
    "jailbreak",
    "injection",
    "harmful",
    "toxicity",
    "personal",
    "secret",
    "violence",
    "crime",
    "sexual",
    "self-harm",
    "unethical",
    "political",
    "copyright",
]
"""What a detector can find. ``jailbreak`` turns a model against its rules, ``injection`` against
whoever gave it its task; ``harmful`` asks for what does harm, ``toxicity`` abuses somebody;
``personal`` and ``secret`` are data that must not travel. The rest are a guard model's finer words
for what is harmful; ``political`` counts only where the owner says so."""

Action: TypeAlias = Literal["allow", "warn", "mask", "review", "block"]
"""What a policy does about a text, from the mildest to the strongest."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a text: the characters ``start`` to ``end`` (Python's indices, ``end`` not among
    them) of the text as it was handed in. ``label`` says what it is in its detector's words
    (``iban``, ``aws-key``, ...); ``score`` is between 0 and 1."""

    start: int
    end: int
    category: Category
    label: str
    score: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one detector saw in a text. It decides nothing.

    ``scores`` are between 0 and 1, one for each category that the detector knows, higher for worse;
    of two detectors' scores only those that ``freehold guard calibrate`` set side by side compare.
    ``view`` is the form of the text that scored highest (``plain``, ``base64``, ...). ``detector``
    names the detector and the digest of its weights, so that a verdict can be traced to both.
    """

    detector: str
    scores: Mapping[Category, float]
    spans: tuple[Span, ...] = ()
    view: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A guard's answer: what the policy makes of the readings. Whoever asked enforces it.

    ``flagged`` are the categories whose score passed the policy's threshold; ``reasons`` are one
    sentence each, fit to show to the owner: they never hold any of the text. ``tier`` is the one
    that decided (``fast``, ``probe``, ``model``, ``tools``, or ``failure`` where one that was
    asked did not answer). ``text`` is what may be passed on in place of the original where
    ``action`` is ``mask``, and the call of a tool that a person is to approve where it is
    ``review``.
    """

    action: Action
    flagged: tuple[Category, ...] = ()
    readings: tuple[Reading, ...] = ()
    reasons: tuple[str, ...] = ()
    tier: str = "fast"
    text: str | None = None

    @property
    def stops(self) -> bool:
        """Whether nothing of the text may go on."""
        return self.action in ("review", "block")

    @property
    def scores(self) -> Mapping[Category, float]:
        """The highest score that any reading gives each category."""
        highest: dict[Category, float] = {}
        for reading in self.readings:
            for category, score in reading.scores.items():
                highest[category] = max(score, highest.get(category, 0.0))
        return highest


class Detector(Protocol):
    """One tier of the guard that needs no engine: text in, a reading out."""

    @property
    def name(self) -> str:
        """The detector and the digest of its weights or rules, as readings give it."""
        ...

    def read(self, text: str) -> Reading:
        """What is in ``text``. Never raises, whatever the text; time grows with its length."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a conversation: who said it, and what. ``name`` is the tool's that returned it,
    where that is known."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    name: str = ""


class Judge(Protocol):
    """The tier that is asked where the detectors are not certain: a guard model."""

    @property
    def name(self) -> str:
        """The model and its digest, as readings give it."""
        ...

    async def judge(self, said: Sequence[Part], *, loose: bool) -> Reading:
        """What is in the last of ``said``, with the others before it; ``loose`` lets pass what may
        be argued about. Raises ``FreeholdError``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a guard makes of a prompt: ``texts`` are its parts' texts as they may be passed on."""

    verdict: Verdict
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What may go out of an answer: the oldest pieces that were fed and had not gone out, in their
    order. ``verdict`` is what was decided meanwhile, if anything was: where that stops the answer,
    nothing more of it may go out."""

    heard: tuple[Heard, ...] = ()
    verdict: Verdict | None = None


class StreamGuard(Protocol):
    """Holds one answer back until it has been judged. One feed at a time."""

    async def feed(self, heard: Heard, *, last: bool = False) -> Release:
        """Take the next piece, and say what may go out. With the ``last`` piece of the answer, all
        that was held back is judged, and may go out or not at all."""
        ...


class Watch(Protocol):
    """One request under one policy."""

    @property
    def policy(self) -> str:
        """The policy's name and digest, for the record."""
        ...

    @property
    def refusal(self) -> str:
        """What is said in place of a text of which nothing was shown."""
        ...

    @property
    def cut(self) -> str:
        """What is said in place of the rest of a text that was shown in part."""
        ...

    @property
    def passes(self) -> bool:
        """Whether prompts go on as they came, whatever is seen in them: then nothing that is made
        of one need wait for its verdict, only what is told of it."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether texts may be kept for those who review them."""
        ...

    async def prompt(self, said: Sequence[Part]) -> Checked:
        """Judge what a client wrote."""
        ...

    async def read(self, turns: Sequence[tuple[str, Floats]]) -> Verdict | None:
        """Judge the prompt by what a readout of the served model says of each turn (who speaks, and
        its rows); ``None`` where nothing here can read that, or the policy does not ask for it."""
        ...

    def answer(self, approved: Callable[[str], Awaitable[bool]]) -> StreamGuard:
        """For one of the answers to the prompt that was judged. ``approved`` says whether a person
        has approved a call, and takes the approval back: it is for once."""
        ...


class Guard(Protocol):
    """What judges prompts and answers. Made by ``cli``, handed to ``serve``, which enforces."""

    @property
    def name(self) -> str:
        """Every detector and the digest of its weights, for the record."""
        ...

    def watch(self, policy: str | None) -> Watch:
        """A request under the policy of that name, or the owner's default. Raises
        ``NotFoundError``."""
        ...


# --- ledger ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a request when it opens: enough to ask the engine the same again.

    ``request`` is the id the client was told, ``key`` the API key's. ``prompts`` are the token ids
    the engine is asked with, ``input`` what the client wrote (plain JSON data). Answer number
    ``i`` continues ``prompts[i // choices]`` with ``sampling``, but ``seeds[i // choices]`` as its
    seed and ``i % choices`` as its choice. ``digest`` is the model's, of its manifest;
    ``adapter`` the digest of the adapter beside it that ``model`` names, if it names one.
    """

    request: str
    endpoint: str
    key: str
    model: str
    digest: str
    numerics: str
    isa: str
    engine: str
    prompts: tuple[tuple[int, ...], ...]
    input: Any
    sampling: Sampling
    seeds: tuple[int, ...]
    choices: int
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    guard: str | None = None
    policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer as the engine gave it, whole or broken off."""

    ids: tuple[int, ...]
    text: str
    finish: str | None


Ending: TypeAlias = Literal["answered", "cancelled", "failed"]
"""How a request ended: with an answer, because the client hung up, or with an error."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request. ``error`` is the code the client was told."""

    ending: Ending
    answers: tuple[Answered, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    error: str | None = None
    verdicts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof of sealing: entry number ``entry`` ends with leaf ``leaf``, which the signed
    ``checkpoint`` (a C2SP note) covers. Kept elsewhere, it shows a log that was cut later."""

    entry: int
    leaf: int
    checkpoint: str


class Entry(Protocol):
    """An opened request, numbered by its first leaf."""

    @property
    def number(self) -> int: ...

    async def seal(self, outcome: Outcome) -> Receipt:
        """Write the second leaf; returns when it is durable. Raises ``LedgerError``."""
        ...


class Ledger(Protocol):
    """The record of what the server did. Every method raises ``LedgerError`` when it cannot be
    reached; what is read comes as plain JSON data."""

    async def open(self, record: Record) -> Entry:
        """Write the first leaf; returns when it is durable."""
        ...

    async def checkpoint(self) -> str:
        """The latest signed checkpoint, a C2SP note."""
        ...

    async def leaves(self, first: int, count: int) -> list[dict[str, Any]]:
        """Leaves from number ``first`` on, at most ``count``."""
        ...

    async def entry(self, number: int) -> list[dict[str, Any]]:
        """The leaves of one entry. Raises ``NotFoundError``."""
        ...

    async def inclusion(self, leaf: int, size: int | None = None) -> dict[str, Any]:
        """The proof that a leaf is in the tree of ``size`` leaves (default: all)."""
        ...

    async def consistency(self, first: int, second: int | None = None) -> dict[str, Any]:
        """The proof that the tree of ``second`` leaves begins with that of ``first``."""
        ...
