"""Load a verified model's weights into a back end, and run steps of packed batches over it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError
from freehold.qwen import forward as qwen
from freehold.qwen import names, quants
from freehold.qwen.config import Config, config_of
from freehold.qwen.ops import Array, Cache, Ops, Packed, State, TapFn, Want
from freehold.types import ModelCard, VerifiedModel

Progress = Callable[[int, int], None]
DEFAULT_CACHE_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Span:
    """One sequence's share of a step: ``ids`` follow what ``state`` holds already.

    ``want`` says which of its rows need logits.
    """

    state: State
    ids: Sequence[int]
    want: Want


class Model:
    """A loaded model: its shape, its cache and one method that runs a step."""

    def __init__(
        self, *, config: Config, card: ModelCard, ops: Ops, cache: Cache, weights: qwen.Weights
    ) -> None:
        self.config = config
        self.card = card
        self.ops = ops
        self.cache = cache
        self.weights = weights

    def forward(
        self, spans: Sequence[Span], *, tap: TapFn | None = None
    ) -> list[npt.NDArray[np.float32] | None]:
        """Run one packed ragged batch: prefill chunks and single decode rows, mixed freely.

        Appends each span's ids to its state. Returns, per span, its wanted logits (rows, vocab)
        float32, or ``None`` for ``want="none"``. ``tap`` sees and may replace the residual stream
        of all rows. Raises ``OutOfPages`` (no state changed) and ``UsageError`` for an id outside
        the vocabulary or an empty span.
        """
        self._check(spans)
        if not spans:
            return []
        with ExitStack() as undo:  # a step that fails must leave no half-written tokens
            for span in spans:
                undo.callback(span.state.rollback, span.state.snapshot())
                span.state.append(len(span.ids))
            results = self._run(spans, tap)
            undo.pop_all()
        return results

    def _check(self, spans: Sequence[Span]) -> None:
        for span in spans:
            if not span.ids:
                raise UsageError("a span holds no token ids", param="ids")
            if min(span.ids) < 0 or max(span.ids) >= self.config.vocab:
                raise UsageError(
                    f"a token id lies outside the vocabulary of {self.config.vocab}", param="ids"
                )
        assert len({id(span.state) for span in spans}) == len(spans), "one span per state"

    def _run(
        self, spans: Sequence[Span], tap: TapFn | None
    ) -> list[npt.NDArray[np.float32] | None]:
        wanted, counts = _wanted(spans)
        with self.ops.inference():
            batch = self.ops.batch(spans)
            logits_wv = qwen.forward(self.ops, self.weights, batch, wanted, tap)
            if logits_wv is None:
                return [None] * len(spans)
            logits = self.ops.to_numpy(logits_wv)
        ends = np.cumsum(counts)
        return [
            logits[end - count : end] if count else None
            for end, count in zip(ends, counts, strict=True)
        ]


def _wanted(spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """The batch rows that need logits, and how many belong to each span."""
    wanted: list[int] = []
    counts: list[int] = []
    row = 0
    for span in spans:
        end = row + len(span.ids)
        first = {"none": end, "last": end - 1, "all": row}[span.want]
        wanted.extend(range(first, end))
        counts.append(end - first)
        row = end
    return wanted, counts


def load(
    model: VerifiedModel,
    *,
    backend: Literal["torch", "native"] = "torch",
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "cpu",
    threads: int | None = None,
    cache_tokens: int = DEFAULT_CACHE_TOKENS,
    page_size: int = 16,
    progress: Progress | None = None,
) -> Model:
    """Give the weights to a back end and make an empty cache of ``cache_tokens`` tokens.

    ``torch`` dequantises to ``dtype``; ``native`` keeps the file's own codes (plain floats become
    8-bit ones), computes as ``docs/numerics.md`` says, and ``dtype`` is the cache's. ``threads``
    sets how many the arithmetic may use, for the whole process. ``progress`` is called with packed
    bytes done and in all. Raises ``MalformedError`` where config and weights do not fit together,
    ``UsageError`` for an impossible option.
    """
    _check_options(backend, dtype, threads, cache_tokens, page_size)
    config = config_of(model)
    naming = names.names_of(model.format)
    names.check(config, naming, model.tensors)
    for tensor in model.tensors.values():
        quants.check(tensor)
    ops, numerics, isa = _open(
        config,
        backend,
        dtype,
        device=device,
        threads=threads,
        n_pages=-(-cache_tokens // page_size),
        page_size=page_size,
    )
    weights = _Loader(model, ops, progress).weights(config)
    card = ModelCard(
        name=model.name,
        digest=model.digest,
        context=config.context,
        vocab=config.vocab,
        bytes_per_token=_read_per_token(ops, weights),
        numerics=numerics,
        isa=isa,
        # Only the native arithmetic is specified to the bit.
        caps=frozenset({"ids", "score", "taps"} | ({"replay"} if backend == "native" else set())),
    )
    return Model(config=config, card=card, ops=ops, cache=ops.cache, weights=weights)


def _open(
    config: Config,
    backend: Literal["torch", "native"],
    dtype: Literal["float32", "bfloat16"],
    *,
    device: str,
    threads: int | None,
    n_pages: int,
    page_size: int,
) -> tuple[Ops, str, str]:
    """The back end, the names of its arithmetic and of what it runs on. Its import waits until a
    model is loaded."""
    if backend == "torch":
        if importlib.util.find_spec("torch") is None:
            raise UsageError(
                "the torch back end needs PyTorch, which is not installed: take the native back "
                "end, or install the extra with `pip install 'freehold[lab]'`",
                param="backend",
            )
        from freehold.qwen.ops import torch as torch_ops

        return (
            torch_ops.open_ops(
                config,
                dtype=dtype,
                device=device,
                threads=threads,
                n_pages=n_pages,
                page_size=page_size,
            ),
            f"torch-{dtype}",
            device,
        )
    from freehold.qwen.ops import native

    if device != "cpu":
        raise UsageError(f"device is {device!r}: the native back end is for cpu", param="device")
    ops = native.open_ops(
        config, kv_dtype=dtype, threads=threads, n_pages=n_pages, page_size=page_size
    )
    return ops, f"{native.NUMERICS}-{dtype}", ops.engine.isa


def _check_options(
    backend: str, dtype: str, threads: int | None, cache_tokens: int, page_size: int
) -> None:
    if backend not in ("torch", "native"):
        raise UsageError(f"backend {backend!r} is unknown: use torch or native", param="backend")
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype {dtype!r} is unknown: use float32 or bfloat16", param="dtype")
    least = (("threads", 1 if threads is None else threads), ("page_size", page_size))
    for name, value in (*least, ("cache_tokens", cache_tokens)):
        if value < 1:
            raise UsageError(f"{name} is {value}: it must be at least 1", param=name)


def _read_per_token(ops: Ops, weights: qwen.Weights) -> int:
    """Everything but the embedding table, of which one row is read."""
    parts = [weights.norm, weights.head]
    for b in weights.blocks:
        parts += [b.attn_norm, b.qkv, b.out, b.mlp_norm, b.gate_up, b.down, *(b.qk_norm or ())]
    return sum(ops.nbytes(part) for part in parts)


class _Loader:
    """Hands the file's tensors to the back end, fused the way ``forward.py`` wants them."""

    def __init__(self, model: VerifiedModel, ops: Ops, progress: Progress | None) -> None:
        self._tensors = model.tensors
        self._names = names.names_of(model.format)
        self._ops = ops
        self._progress = progress
        self._done = 0
        self._total = sum(tensor.data.nbytes for tensor in model.tensors.values())

    def weights(self, config: Config) -> qwen.Weights:
        embed = self._pack([self._names.whole("embed")])
        head = embed if config.tied_head else self._pack([self._names.whole("head")])
        blocks = tuple(self._block(config, i) for i in range(config.n_layers))
        norm = self._vector(self._names.whole("norm"))
        return qwen.Weights(embed=embed, blocks=blocks, norm=norm, head=head)

    def _block(self, config: Config, i: int) -> qwen.BlockWeights:
        def name(part: names.Part) -> str:
            return self._names.block(i, part)

        qkv_bias = [name("q_bias"), name("k_bias"), name("v_bias")] if config.qkv_bias else []
        return qwen.BlockWeights(
            attn_norm=self._vector(name("attn_norm")),
            qkv=self._pack([name("q"), name("k"), name("v")], qkv_bias),
            qk_norm=(self._vector(name("q_norm")), self._vector(name("k_norm")))
            if config.qk_norm
            else None,
            out=self._pack([name("out")], [name("out_bias")] if config.out_bias else []),
            mlp_norm=self._vector(name("mlp_norm")),
            gate_up=self._pack([name("gate"), name("up")]),
            down=self._pack([name("down")]),
        )

    def _pack(self, weights: Sequence[str], biases: Sequence[str] = ()) -> Packed:
        packed = self._ops.pack(
            [self._tensors[n] for n in weights], [self._tensors[n] for n in biases]
        )
        self._report([*weights, *biases])
        return packed

    def _vector(self, name: str) -> Array:
        vector = self._ops.vector(self._tensors[name])
        self._report([name])
        return vector

    def _report(self, done: Sequence[str]) -> None:
        self._done += sum(self._tensors[name].data.nbytes for name in done)
        if self._progress is not None:
            self._progress(self._done, self._total)
