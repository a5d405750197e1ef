"""The file of a pack: a header, then pieces one after the other, each at the next multiple of 64.

    magic, length of the header, header (JSON as msgspec writes it)
    key-values (MessagePack) and documents: with the header, the head
    the parts of each layer, each layer's bias, the vectors

The header gives the pieces' sizes alone: where there are no offsets, nothing can overlap or leave a
gap. Whoever reads has digested the bytes before, and reads strictly all the same.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn, Protocol, cast

import msgspec
from blake3 import blake3

from freehold.errors import MalformedError
from freehold.store.spans import MAX_NAME, MAX_TENSORS

if TYPE_CHECKING:
    from freehold.types import PackedWeights, VerifiedModel

MAGIC = b"FHPACK1\n"
ALIGNMENT = 64
MAX_HEADER = 64 << 20
MAX_DIMS = 8
_PREAMBLE = struct.Struct("<8sQ")  # magic, bytes of the header
_BLOCK = 16 << 20

Progress = Callable[[int, int], None]
Span = tuple[int, int]


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    format: str
    rows: int
    cols: int
    size: int


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Layer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    parts: list[_Part]
    bias: int  # bytes, 0 for none


class _Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    size: int


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``documents`` come first in the file, and are its head together with this header; then the
    layers' parts, each layer's bias behind them, then the vectors."""

    source: str
    layout: str
    weights: str
    format: Literal["gguf", "safetensors"]
    shapes: dict[str, list[int]]
    metadata: int
    documents: list[_Piece]
    layers: list[_Layer]
    vectors: list[_Piece]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Where things lie in a pack: (begin, end) in bytes. ``head`` is where the weights begin."""

    head: int
    keys: tuple[int, int]
    documents: Mapping[str, tuple[int, int]]
    parts: Mapping[str, list[tuple[int, int]]]
    biases: Mapping[str, tuple[int, int]]
    vectors: Mapping[str, tuple[int, int]]

    def metadata(self, mapping: mmap.mmap) -> dict[str, Any]:
        """The GGUF file's key-values."""
        begin, end = self.keys
        with memoryview(mapping)[begin:end] as data:
            return cast("dict[str, Any]", msgspec.msgpack.decode(data))


def parse(view: memoryview, *, file: str) -> tuple[Header, Pieces]:
    """Read a pack's header strictly and find its pieces, of which no byte is read.

    Raises ``MalformedError``.
    """
    return _Reader(view, file).pack()


class _Reader:
    def __init__(self, view: memoryview, file: str) -> None:
        self.view = view
        self.file = file
        self.at = 0

    def pack(self) -> tuple[Header, Pieces]:
        header = self._header()
        self._check_names(header)
        keys = self._take(header.metadata)
        documents = {one.name: self._take(one.size, least=0) for one in header.documents}
        head = _aligned(self.at)
        parts: dict[str, list[Span]] = {}
        biases: dict[str, Span] = {}
        for layer in header.layers:
            self._check_layer(layer)
            parts[layer.name] = [self._take(part.size) for part in layer.parts]
            if layer.bias:
                biases[layer.name] = self._take(layer.bias)
        vectors = {one.name: self._take(one.size) for one in header.vectors}
        # A pack without weights would end with its head's padding, and is none.
        if not header.layers or self.at != len(self.view):
            self._fail(f"{len(self.view) - self.at:,} bytes follow the last piece")
        return header, Pieces(
            head=head, keys=keys, documents=documents, parts=parts, biases=biases, vectors=vectors
        )

    def _fail(self, reason: str) -> NoReturn:
        raise MalformedError(f"{self.file} is no sound pack: {reason}.", file=self.file)

    def _header(self) -> Header:
        view, first = self.view, _PREAMBLE.size
        if len(view) < first:
            self._fail("it ends within its first bytes")
        magic, length = _PREAMBLE.unpack(view[:first])
        if magic != MAGIC:
            self._fail("it does not begin as one")
        if length > min(MAX_HEADER, len(view) - first):
            self._fail(f"its header claims {length:,} bytes")
        self.at = first + length
        data = view[first : self.at]
        try:
            header = msgspec.json.decode(data, type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail(f"its header cannot be read ({error})")
        # Another order, a key that stands twice, blanks: whatever we did not write.
        if msgspec.json.encode(header) != data:
            self._fail("its header is not as Freehold writes it")
        return header

    def _take(self, size: int, least: int = 1) -> Span:
        begin = _aligned(self.at)
        if size < least or begin + size > len(self.view):
            self._fail(f"a piece of {size:,} bytes at byte {begin:,} does not fit into it")
        self.at = begin + size
        return begin, self.at

    def _check_names(self, header: Header) -> None:
        kinds: tuple[Iterable[_Named], ...] = (header.documents, header.layers, header.vectors)
        for names in [header.shapes.keys(), *([one.name for one in kind] for kind in kinds)]:
            if len(names) > MAX_TENSORS or len(set(names)) != len(names):
                self._fail("it has too many pieces, or two of one name")
            if not all(1 <= len(name) <= MAX_NAME for name in names):
                self._fail("it has a piece without a proper name")
        for sizes in header.shapes.values():
            if len(sizes) > MAX_DIMS or min(sizes, default=1) < 0:
                self._fail("it tells of a shape that cannot be")
        if any(one.size % 4 for one in header.vectors):
            self._fail("a vector is not whole floats")

    def _check_layer(self, layer: _Layer) -> None:
        if not layer.parts or any(min(part.rows, part.cols) < 1 for part in layer.parts):
            self._fail(f"layer {layer.name[:80]!r} has no rows or columns")
        if layer.bias not in (0, 4 * sum(part.rows for part in layer.parts)):
            self._fail(f"the bias of layer {layer.name[:80]!r} is not one float per row")


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def weights_of(header: Header, pieces: Pieces, mapping: mmap.mmap | None) -> PackedWeights:
    """Views of a mapping that was digested; without one, what the head alone says."""
    from freehold.types import PackedLayer, PackedPart, PackedWeights

    shapes = {name: tuple(shape) for name, shape in header.shapes.items()}
    if mapping is None:
        return PackedWeights(weights=header.weights, shapes=shapes, layers={}, vectors={})
    import numpy as np

    data = np.frombuffer(mapping, np.uint8)

    def floats(span: tuple[int, int]) -> Any:
        return data[span[0] : span[1]].view("<f4")

    return PackedWeights(
        weights=header.weights,
        shapes=shapes,
        layers={
            layer.name: PackedLayer(
                parts=tuple(
                    PackedPart(
                        format=part.format, rows=part.rows, cols=part.cols, data=data[begin:end]
                    )
                    for part, (begin, end) in zip(
                        layer.parts, pieces.parts[layer.name], strict=True
                    )
                ),
                bias=floats(pieces.biases[layer.name]) if layer.bias else None,
            )
            for layer in header.layers
        },
        vectors={name: floats(span) for name, span in pieces.vectors.items()},
    )


def lay_out(
    model: VerifiedModel, packed: PackedWeights, layout: str
) -> tuple[bytes, tuple[list[Any], list[Any]]]:
    """The encoded header, and the pieces of the head and of the weights, in order."""
    import numpy as np

    metadata = msgspec.msgpack.encode(dict(model.metadata))
    head: list[Any] = [metadata, *model.documents.values()]
    body: list[Any] = []
    layers = []
    for name, layer in packed.layers.items():
        body += [part.data for part in layer.parts]
        bias = b"" if layer.bias is None else np.ascontiguousarray(layer.bias, "<f4").view(np.uint8)
        if layer.bias is not None:
            body.append(bias)
        layers.append(
            _Layer(
                name,
                [_Part(p.format, p.rows, p.cols, p.data.nbytes) for p in layer.parts],
                len(bias),
            )
        )
    vectors = {
        name: np.ascontiguousarray(vector, "<f4").view(np.uint8)
        for name, vector in packed.vectors.items()
    }
    body += vectors.values()
    header = Header(
        source=model.digest,
        layout=layout,
        weights=packed.weights,
        format=model.format,
        shapes={name: list(shape) for name, shape in model.shapes.items()},
        metadata=len(metadata),
        documents=[_Piece(name, len(data)) for name, data in model.documents.items()],
        layers=layers,
        vectors=[_Piece(name, vector.nbytes) for name, vector in vectors.items()],
    )
    return msgspec.json.encode(header), (head, body)


def size_of(pieces: tuple[list[Any], list[Any]]) -> int:
    return sum(memoryview(piece).nbytes for part in pieces for piece in part)


def write(
    file: IO[bytes],
    header: bytes,
    pieces: tuple[list[Any], list[Any]],
    progress: Progress | None,
) -> tuple[int, int, str, str]:
    """(size, head's size, digest, head's digest) of the pack written to ``file``."""
    hasher = blake3(max_threads=blake3.AUTO)
    at, total = 0, size_of(pieces)

    def put(data: Any) -> None:
        nonlocal at
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _BLOCK):
            block = view[start : start + _BLOCK]
            file.write(block)
            hasher.update(block)
            at += len(block)
            if progress is not None:
                progress(min(at, total), total)

    def align() -> None:
        put(bytes(-at % ALIGNMENT))

    put(_PREAMBLE.pack(MAGIC, len(header)))
    put(header)
    for piece in pieces[0]:
        align()
        put(piece)
    align()
    head_size, head_digest = at, hasher.hexdigest()
    for piece in pieces[1]:
        align()
        put(piece)
    return at, head_size, hasher.hexdigest(), head_digest
