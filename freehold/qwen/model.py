"""Load a verified model's weights into a back end, and run steps of packed batches over it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from freehold.errors import MalformedError, UsageError
from freehold.qwen import forward as qwen
from freehold.qwen import names, quants
from freehold.qwen.adapter import Adapter, Rows, load_adapter, with_adapters
from freehold.qwen.config import Config, config_of
from freehold.qwen.ops import Array, Cache, Ops, Packed, State, TapFn, Want
from freehold.qwen.pack import WeightChoice
from freehold.types import Floats, ModelCard, PackedWeights, VerifiedModel

if TYPE_CHECKING:
    from freehold.qwen.ops.native import NativeOps

Progress = Callable[[int, int], None]
DEFAULT_CACHE_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Span:
    """One sequence's share of a step: ``ids`` follow what ``state`` holds already.

    ``want`` says which of its rows need logits. ``adapter`` is beside the weights for its rows, and
    must be the one that was there when ``state`` was filled.
    """

    state: State
    ids: Sequence[int]
    want: Want
    adapter: Adapter | None = None


class Model:
    """A loaded model: its shape, its cache and one method that runs a step."""

    def __init__(
        self,
        *,
        config: Config,
        card: ModelCard,
        ops: Ops,
        cache: Cache,
        weights: qwen.Weights,
        packed: PackedWeights | None = None,
    ) -> None:
        self.config = config
        self.card = card
        self.ops = ops
        self.cache = cache
        self.weights = weights
        self._last: tuple[list[Rows], qwen.Weights] | None = None
        self.packed = packed
        """What a pack of this model holds; views of the weights. Native back end only."""

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

    def adapter(self, found: VerifiedModel) -> Adapter:
        """A verified adapter, ready to lie beside this model. Raises ``MalformedError`` and
        ``UsageError`` (``adapter.load_adapter``)."""
        return load_adapter(found, self.config, self.weights, self.ops)

    def final_norm(self, x_td: Floats) -> Floats:
        """The residual stream behind the last block as the head sees it: (t, d) float32."""
        norm_d = np.asarray(self.ops.to_numpy(self.weights.norm), np.float64)
        x = x_td.astype(np.float64)
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config.norm_eps)
        normed: Floats = (x / scale * norm_d).astype(np.float32)
        return normed

    def _check(self, spans: Sequence[Span]) -> None:
        for span in spans:
            if not span.ids:
                raise UsageError("a span holds no token ids", param="ids")
            if min(span.ids) < 0 or max(span.ids) >= self.config.vocab:
                raise UsageError(
                    f"a token id lies outside the vocabulary of {self.config.vocab}", param="ids"
                )
        assert len({id(span.state) for span in spans}) == len(spans), "one span per state"

    def _beside(self, rows: list[Rows]) -> qwen.Weights:
        """The weights with ``rows``' adapters beside them. Answers that go on together have
        the same rows step after step, so the last ones are kept."""
        if not rows:
            self._last = None
            return self.weights
        if self._last is None or not _same(self._last[0], rows):
            self._last = (rows, with_adapters(self.weights, self.ops, rows))
        return self._last[1]

    def _run(
        self, spans: Sequence[Span], tap: TapFn | None
    ) -> list[npt.NDArray[np.float32] | None]:
        wanted, counts = _wanted(spans)
        with self.ops.inference():
            batch = self.ops.batch(spans)
            weights = self._beside(_adapted(spans))
            logits_wv = qwen.forward(self.ops, weights, batch, wanted, tap)
            if logits_wv is None:
                return [None] * len(spans)
            logits = self.ops.to_numpy(logits_wv)
        ends = np.cumsum(counts)
        return [
            logits[end - count : end] if count else None
            for end, count in zip(ends, counts, strict=True)
        ]


def _adapted(spans: Sequence[Span]) -> list[Rows]:
    """Whose rows are whose; neighbours with the same adapter are taken together."""
    found: list[Rows] = []
    row = 0
    for span in spans:
        n = len(span.ids)
        if span.adapter is not None:
            last = found[-1] if found else None
            if last is not None and last[0] is span.adapter and last[1] + last[2] == row:
                found[-1] = (span.adapter, last[1], last[2] + n)
            else:
                found.append((span.adapter, row, n))
        row += n
    return found


def _same(some: list[Rows], others: list[Rows]) -> bool:
    """Whether the very same adapters have the same rows."""
    return len(some) == len(others) and all(
        one is other and at == other_at and n == other_n
        for (one, at, n), (other, other_at, other_n) in zip(some, others, strict=True)
    )


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
    dtype: Literal["float32", "bfloat16", "int8"] = "float32",
    device: str = "cpu",
    weights: WeightChoice = "8bit",
    threads: int | None = None,
    cache_tokens: int = DEFAULT_CACHE_TOKENS,
    page_size: int = 16,
    codes: bool = False,
    piece: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Give the weights to a back end and make an empty cache of ``cache_tokens`` tokens.

    ``torch`` dequantises to ``dtype``, with ``codes`` again at every use; ``native`` keeps the
    file's own codes, or uses a pack's where it lies, computes as ``docs/numerics.md`` says, and
    ``dtype`` is the cache's. Plain floats become codes of the size that ``weights`` names.
    ``threads`` sets how many the arithmetic may use, for the whole process. ``progress`` is
    called with packed bytes done and in all. A ``piece`` is the first block alone, with as small a
    share of the vocabulary: to be timed. Raises ``MalformedError`` where config and weights do not
    fit together, ``UsageError`` for an impossible option.
    """
    _check_options(backend, dtype, threads, cache_tokens, page_size)
    config = config_of(model)
    naming = names.names_of(model.format)
    names.check(config, naming, model.shapes)
    for tensor in model.tensors.values():
        quants.check(tensor)
    if piece:
        config, model = _piece(config, naming, model)
    n_pages = -(-cache_tokens // page_size)
    packed = model.packed
    source: _Source
    ops: Ops
    if backend == "native":
        ops = native = _open_native(
            config, dtype, device, weights, threads=threads, n_pages=n_pages, page_size=page_size
        )
        numerics, isa = f"{native.numerics}-{dtype}", native.engine.isa
        if packed is None:
            source = file = _File(model, ops, progress)
            fused = _weights(config, naming, source)
            packed = native.packed(model, file.layers, file.vectors)
        else:
            fused = _weights(config, naming, _Pack(packed, native))
    else:
        assert packed is None, "packs are for the native back end"
        assert dtype != "int8", "checked before"
        numerics, isa = f"torch-{dtype}", device
        ops = _open_torch(
            config,
            dtype,
            device,
            threads=threads,
            n_pages=n_pages,
            page_size=page_size,
            codes=codes,
        )
        fused = _weights(config, naming, _File(model, ops, progress))
    card = ModelCard(
        name=model.name,
        digest=model.digest,
        context=config.context,
        vocab=config.vocab,
        bytes_per_token=_read_per_token(ops, fused),
        numerics=numerics,
        isa=isa,
        # Only the native arithmetic is specified to the bit.
        caps=frozenset(
            {"ids", "score", "taps", "adapters"} | ({"replay"} if backend == "native" else set())
        ),
    )
    return Model(config=config, card=card, ops=ops, cache=ops.cache, weights=fused, packed=packed)


def _piece(
    config: Config, naming: names.Names, model: VerifiedModel
) -> tuple[Config, VerifiedModel]:
    """One block, and one of as many parts of the vocabulary as there are blocks."""
    assert model.packed is None, "packs are not cut"
    vocab = -(-config.vocab // config.n_layers)
    small = replace(config, n_layers=1, windows=config.windows[:1], vocab=vocab)
    tensors = {name: model.tensors[name] for name, _ in names.expected(small, naming)}
    for name in {naming.whole("embed"), naming.whole("head")} & {*tensors}:
        table = tensors[name]
        data = table.data[: table.data.nbytes // config.vocab * vocab]
        tensors[name] = replace(table, shape=(vocab, config.width), data=data)
    return small, replace(model, tensors=tensors)


def _open_torch(
    config: Config,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    *,
    threads: int | None,
    n_pages: int,
    page_size: int,
    codes: bool,
) -> Ops:
    # Imported when a model is loaded, and only then.
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "the torch back end needs PyTorch, which is not installed: take the native back "
            "end, or install the extra with `pip install 'freehold[lab]'`",
            param="backend",
        )
    from freehold.qwen.ops import torch as torch_ops

    return torch_ops.open_ops(
        config,
        dtype=dtype,
        device=device,
        threads=threads,
        n_pages=n_pages,
        page_size=page_size,
        codes=codes,
    )


def _open_native(
    config: Config,
    dtype: Literal["float32", "bfloat16", "int8"],
    device: str,
    weights: WeightChoice,
    *,
    threads: int | None,
    n_pages: int,
    page_size: int,
) -> NativeOps:
    from freehold.qwen.ops import native

    if device != "cpu":
        raise UsageError(f"device is {device!r}: the native back end is for cpu", param="device")
    return native.open_ops(
        config,
        kv_dtype=dtype,
        weights=weights,
        threads=threads,
        n_pages=n_pages,
        page_size=page_size,
    )


def _check_options(
    backend: str, dtype: str, threads: int | None, cache_tokens: int, page_size: int
) -> None:
    if backend not in ("torch", "native"):
        raise UsageError(f"backend {backend!r} is unknown: use torch or native", param="backend")
    if dtype not in ("float32", "bfloat16", "int8"):
        raise UsageError(
            f"dtype {dtype!r} is unknown: use float32, bfloat16 or int8", param="dtype"
        )
    if backend == "torch" and dtype == "int8":
        raise UsageError(
            "dtype is 'int8', and the torch back end computes in floats: take float32 or bfloat16, "
            "or the native back end",
            param="dtype",
        )
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


def _weights(config: Config, naming: names.Names, source: _Source) -> qwen.Weights:
    """Everything by name, fused the way ``forward.py`` wants it."""
    embed = source.layer([naming.whole("embed")])
    head = embed if config.tied_head else source.layer([naming.whole("head")])
    blocks = tuple(_block(config, naming, source, i) for i in range(config.n_layers))
    norm = source.vector(naming.whole("norm"))
    return qwen.Weights(embed=embed, blocks=blocks, norm=norm, head=head)


def _block(config: Config, naming: names.Names, source: _Source, i: int) -> qwen.BlockWeights:
    def name(part: names.Part) -> str:
        return naming.block(i, part)

    qkv_bias = [name("q_bias"), name("k_bias"), name("v_bias")] if config.qkv_bias else []
    return qwen.BlockWeights(
        attn_norm=source.vector(name("attn_norm")),
        qkv=source.layer([name("q"), name("k"), name("v")], qkv_bias),
        qk_norm=(source.vector(name("q_norm")), source.vector(name("k_norm")))
        if config.qk_norm
        else None,
        out=source.layer([name("out")], [name("out_bias")] if config.out_bias else []),
        mlp_norm=source.vector(name("mlp_norm")),
        gate_up=source.layer([name("gate"), name("up")]),
        down=source.layer([name("down")]),
    )


class _Source(Protocol):
    """Where weights come from, by the names that tensors have in the file."""

    def layer(self, weights: Sequence[str], biases: Sequence[str] = ()) -> Packed: ...

    def vector(self, name: str) -> Array: ...


class _File:
    """The file's tensors, given to the back end one by one. A layer goes by its first tensor."""

    def __init__(self, model: VerifiedModel, ops: Ops, progress: Progress | None) -> None:
        self.layers: dict[str, Packed] = {}
        self.vectors: dict[str, Array] = {}
        self._tensors = model.tensors
        self._ops = ops
        self._progress = progress
        self._done = 0
        self._total = sum(tensor.data.nbytes for tensor in model.tensors.values())

    def layer(self, weights: Sequence[str], biases: Sequence[str] = ()) -> Packed:
        packed = self._ops.pack(
            [self._tensors[n] for n in weights], [self._tensors[n] for n in biases]
        )
        self.layers[weights[0]] = packed
        self._report([*weights, *biases])
        return packed

    def vector(self, name: str) -> Array:
        self.vectors[name] = self._ops.vector(self._tensors[name])
        self._report([name])
        return self.vectors[name]

    def _report(self, done: Sequence[str]) -> None:
        self._done += sum(self._tensors[name].data.nbytes for name in done)
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Pack:
    """A pack's layers, used where they lie."""

    def __init__(self, packed: PackedWeights, ops: NativeOps) -> None:
        self._packed = packed
        self._ops = ops

    def layer(self, weights: Sequence[str], biases: Sequence[str] = ()) -> Packed:
        found = self._packed.layers.get(weights[0])
        if found is None or (found.bias is not None) != bool(biases):
            raise MalformedError(f"the pack has no layer {weights[0]} as it must be", file="pack")
        return self._ops.hold(found)

    def vector(self, name: str) -> Array:
        if name not in self._packed.vectors:
            raise MalformedError(f"the pack has no vector {name}", file="pack")
        return self._packed.vectors[name]
