"""``guard probe``: a model's hidden states, collected once, and linear heads trained on them."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from freehold.cli.guarding import Json, _absent, _with_extra
from freehold.cli.hosting import living
from freehold.cli.output import Bar, emit, table, write_new
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import MalformedError, StorageError, UsageError

if TYPE_CHECKING:
    from freehold.engine.client import EngineProcess
    from freehold.guard.probing import Origin
    from freehold.types import Codec, Floats

LONGEST = 160
"""Tokens of a text that are read: a window of the probe."""
_PART = 256
"""Texts that a broken run may lose."""
AT_ONCE = 16
"""Texts on their way through the engine: a few fill a step."""


def probe(
    model: Annotated[str, typer.Argument(help="A model in the vault.")],
    manifest: Annotated[Path, typer.Option(help="A MANIFEST.json of data sets.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The probe's file, a new one.")],
    layers: Annotated[
        str, typer.Option(help="Behind which blocks hidden states are read, counted from 0.")
    ] = "11,14,17",
    per_set: Annotated[int, typer.Option(min=1, help="Texts of each guard set and kind.")] = 400,
    compare: Annotated[
        Path | None,
        typer.Option(help="Also measure it beside the fast tier, and write the figures here."),
    ] = None,
    json: Json = False,
) -> None:
    """Train a probe on a model's hidden states, from the data sets that may be shipped.

    Every text goes through the model once, as a user's message; what came of it is kept in the
    store's folder, so that a second run, or one after an interruption, goes on from there. The
    probe is for this one model. Needs the extra `train`.
    """
    _absent(output)
    if compare is not None:
        _absent(compare)
    settings = replace(
        read_settings(root(), model=model),
        engine=Settings.engine,
        speculate="off",
        draft="off",
        guard_probe="",
    )
    work = Work(manifest=manifest, layers=_layers(layers), per_set=per_set, compare=compare)
    with Bar(quiet=json, of_bytes=False) as bar:
        found = _with_extra(lambda: asyncio.run(_probe(settings, work, bar)))
    write_new(output, found.data)
    told = {"file": str(output), "bytes": len(found.data), "sha256": found.digest}
    lines = [f"{output}: {len(found.data)} bytes, sha256 {found.digest}"]
    if compare is not None:
        write_new(compare, found.figures.encode())
        lines = [*found.lines, f"{compare}", *lines]
    emit(told, lines, as_json=json)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one run is told."""

    manifest: Path
    layers: tuple[int, ...]
    per_set: int
    compare: Path | None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one run came to; ``figures`` are JSON and ``lines`` for a person, where it compared."""

    data: bytes
    digest: str
    figures: str = ""
    lines: tuple[str, ...] = ()


async def _probe(settings: Settings, work: Work, bar: Bar) -> Trained:
    from freehold.engine.client import EngineProcess
    from freehold.guard import corpus, probing

    sets = corpus.read(work.manifest, shippable_only=work.compare is None)
    recipe = probing.Recipe(per_set=work.per_set)
    groups = probing.choose(sets, recipe)
    texts = [text for group in groups for text in group.texts]
    async with living(settings, bar) as alive:
        engine = alive.engine
        assert isinstance(engine, EngineProcess), "the settings ask for Freehold's own engine"
        card = engine.card
        origin = probing.Origin(model=card.digest, numerics=card.numerics, layers=work.layers)
        vectors = await _collect(engine, alive.codec, origin, texts, bar)
    groups = probing.with_vectors(groups, lambda _: vectors)
    figures = ""
    lines: tuple[str, ...] = ()
    if work.compare is not None:
        from json import dumps

        from freehold.guard.evaluation import comparing

        compared = comparing.compare(groups, recipe, bar)
        figures, lines = dumps(compared, indent=1), tuple(_lines(compared))
    trained, data = probing.build(sets, groups, origin, recipe, bar)
    return Trained(data=data, digest=trained.digest, figures=figures, lines=lines)


async def _collect(
    engine: EngineProcess, codec: Codec, origin: Origin, texts: Sequence[str], bar: Bar
) -> Floats:
    """(texts, layers, width): the mean over each text's tokens, as a user's message, behind each
    block. What was read before is not read again."""
    import numpy as np

    prompts = [_prompt(codec, text) for text in texts]
    kept = _Kept(root() / "probes", origin)
    kept.read()
    todo = list({one.key: one for one in prompts if one.key not in kept.found}.values())
    tokens = sum(len(one.ids) for one in todo)
    bar.note(
        f"{len(texts)} texts, {len(todo)} of them not read yet: {tokens:,} tokens go through the "
        f"model once. What has been read is kept in {kept.folder}"
    )
    bar.start(len(todo), "reading hidden states")
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: _Prompt) -> None:
        async with gate:
            layers = origin.layers
            both = await engine.pool(
                prompt.ids, layers=layers, start=prompt.start, stop=prompt.stop
            )
        kept.add(prompt.key, both[:, 0].astype("<f2"))
        bar.advance(1)

    try:
        async with asyncio.TaskGroup() as group:
            for prompt in todo:
                group.create_task(one(prompt))
    finally:
        kept.flush()
    return np.stack([kept.found[one.key] for one in prompts])


def _layers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(map(int, text.split(",")))
    except ValueError:
        found = ()
    if not found or list(found) != sorted({*found}) or found[0] < 0:
        raise UsageError(
            f"layers is {text!r}: give rising numbers, such as 11,14,17", param="layers"
        )
    return found


def _lines(compared: Mapping[str, Any]) -> list[str]:
    """A comparison for a person."""
    tiers = list(compared["summary"])
    rows = [
        (one["set"], one["kind"], *(f"{one[tier]['share']:.3f}" for tier in tiers), str(one["n"]))
        for one in compared["sets"]
    ]
    rows += [
        (name, "", *(f"{compared['summary'][tier][name]:.3f}" for tier in tiers), "")
        for name in compared["summary"][tiers[0]]
    ]
    return table(("set", "kind", *tiers, "texts"), rows)


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A text as the model is asked it: the ids, and which of them are the text's own."""

    ids: list[int]
    start: int
    stop: int

    @property
    def key(self) -> bytes:
        """32 bytes that name it."""
        written = ",".join(map(str, (self.start, self.stop, *self.ids)))
        return hashlib.sha256(written.encode()).digest()


def _prompt(codec: Codec, text: str) -> _Prompt:
    ids = codec.chat([{"role": "user", "content": text or " "}])
    turn = codec.turns(ids)[-1]
    stop = min(turn.stop, turn.start + LONGEST)
    return _Prompt(
        ids=ids[:stop] + ids[turn.stop :], start=turn.start, stop=max(stop, turn.start + 1)
    )


class _Kept:
    """Vectors on disk: a folder of files, each with the names and float16 numbers of some texts."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        name = f"{origin.model}/{origin.numerics}/{origin.layers}"
        self.folder = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        self.found: dict[bytes, Floats] = {}
        self._parts = 0
        self._fresh: list[bytes] = []

    def read(self) -> None:
        """Find what is there. Raises ``StorageError``, ``MalformedError``."""
        import numpy as np

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(self.folder.glob("*.npz"))
            self._parts = len(paths)
            for path in paths:
                with np.load(path, allow_pickle=False) as part:
                    names = part["names"].tobytes()
                    for i, vectors in enumerate(part["vectors"]):
                        self.found[names[32 * i : 32 * i + 32]] = vectors
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be used: {error.strerror}") from error
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise MalformedError(
                f"{path} is no file of vectors ({error}): delete it, and they are read anew",
                file=str(path),
            ) from error

    def add(self, name: bytes, vectors: Floats) -> None:
        """Keep one text's; on disk with the next few hundred, or at ``flush``."""
        self.found[name] = vectors
        self._fresh.append(name)
        if len(self._fresh) >= _PART:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet. Raises ``StorageError``."""
        import numpy as np

        if not self._fresh:
            return
        buffer = io.BytesIO()
        names = np.frombuffer(b"".join(self._fresh), np.uint8)
        np.savez(buffer, names=names, vectors=np.stack([self.found[one] for one in self._fresh]))
        write_new(self.folder / f"{self._parts:06}.npz", buffer.getvalue())
        self._parts += 1
        self._fresh = []
