"""Ask the engine again what the ledger says it was asked, and compare token by token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from freehold.cli.adapterwatch import attach
from freehold.cli.hosting import Living, living
from freehold.cli.output import Bar
from freehold.cli.places import root
from freehold.cli.settings import Settings
from freehold.errors import NotFoundError, UsageError
from freehold.types import Cutoff, Sampling, Token

if TYPE_CHECKING:
    from freehold.ledger.log import Reader

_SCAN = 1000


def choose(log: Reader, named: Sequence[int], sample: int) -> list[int]:
    """``named`` entries, and ``sample`` more at random of those that are sealed."""
    chosen = list(named)
    if sample:
        sealed, first = [], 0
        while leaves := log.leaves(first, _SCAN):
            sealed += [x["entry"] for x in leaves if x["kind"] == "seal" and x["body"]]
            first = leaves[-1]["place"] + 1
        if len(sealed) < sample:
            raise UsageError(f"the ledger has {len(sealed)} sealed entries", param="sample")
        chosen += random.sample(sealed, sample)
    if not chosen:
        raise UsageError("name an entry, or --sample so many", param="entry")
    return chosen


def replay_all(
    entries: Sequence[list[dict[str, Any]]], settings: Settings, at_once: int, bar: Bar
) -> list[dict[str, Any]]:
    """Replay entries, each given as its readable leaves, ``at_once`` at a time. One model's engine
    runs after the other's.

    Raises ``NotFoundError`` where an entry's text was not kept or its model is not in the vault.
    """
    asked = [_Asked(leaves) for leaves in entries]
    held = _names()
    for one in asked:
        one.find(held)
    results: dict[int, dict[str, Any]] = {}
    for model in dict.fromkeys(one.model for one in asked):
        mine = [one for one in asked if one.model == model]
        results |= asyncio.run(_replay(model, mine, settings, at_once, bar))
    return [results[one.entry] for one in asked]


class _Asked:
    """One entry: what was asked, and what was answered."""

    def __init__(self, leaves: list[dict[str, Any]]) -> None:
        first, *rest = leaves
        self.entry: int = first["entry"]
        seal = next((leaf for leaf in rest if leaf["kind"] == "seal"), None)
        if first["kind"] != "open":
            raise UsageError(f"entry {self.entry} is a {first['kind']}: no request", param="entry")
        if first["body"] is None:
            raise NotFoundError(f"entry {self.entry} was erased", param="entry")
        if seal is None:
            raise NotFoundError(f"entry {self.entry} was never sealed: no answer", param="entry")
        if first["content"] is None or seal["content"] is None:
            how = first["body"]["content"]["policy"]
            step = (
                "name the key that opens it with --key"
                if how == "sealed"
                else "only hashes were kept; set ledger_content to sealed or clear"
            )
            raise NotFoundError(f"entry {self.entry} cannot be read: {step}", param="entry")
        self.body: dict[str, Any] = first["body"]
        self.model: str = self.body["model"]
        # Entries from before there were adapters have none.
        self.adapter: str | None = None
        self._digest: str | None = self.body.get("adapter")
        self.prompts: list[list[int]] = first["content"]["prompts"]
        self.answers: list[list[int]] = [one["ids"] for one in seal["content"]["answers"]]
        # Entries from before there were grammars have none.
        self.grammar: str | None = first["content"].get("grammar")
        self.ended: list[str | None] = [one["finish"] for one in seal["body"]["answers"]]

    def find(self, held: Mapping[str, str]) -> None:
        """Look for the adapter that answered, and for the model it was beside, by their digests.
        Raises ``NotFoundError``."""
        if self._digest is None:
            return
        for digest in (self._digest, self.body["digest"]):
            if digest not in held:
                raise NotFoundError(
                    f"entry {self.entry} was answered by an adapter, and {digest} is not in the "
                    "vault any more",
                    param="entry",
                )
        self.adapter, self.model = held[self._digest], held[self.body["digest"]]

    def sampling(self, answer: int) -> Sampling:
        """The settings of one answer."""
        given = self.body["sampling"] | {"grammar": self.grammar}
        given["logit_bias"] = {int(key): value for key, value in given["logit_bias"].items()}
        given["stop_ids"] = tuple(given["stop_ids"])
        if given.get("cutoff") is not None:
            given["cutoff"] = Cutoff(**given["cutoff"] | {"ids": tuple(given["cutoff"]["ids"])})
        place, choice = divmod(answer, self.body["choices"])
        return replace(Sampling(**given), seed=self.body["seeds"][place], choice=choice)


async def _replay(
    model: str, asked: Sequence[_Asked], settings: Settings, at_once: int, bar: Bar
) -> dict[int, dict[str, Any]]:
    gate = asyncio.Semaphore(at_once)
    async with living(replace(settings, model=model), bar) as now:
        for digest, name in {(one.body["adapter"], one.adapter) for one in asked if one.adapter}:
            await attach(now, name, digest, now.engine.card.digest, settings)

        async def one(entry: _Asked) -> tuple[int, dict[str, Any]]:
            async with gate:
                return entry.entry, await _compare(entry, now)

        return dict(await asyncio.gather(*map(one, asked)))


async def _compare(entry: _Asked, now: Living) -> dict[str, Any]:
    """One entry's verdict: ``identical``, ``differences`` and what ``changed`` since."""
    changed = _changed(entry.body, now)
    differences = []
    for place, told in enumerate(entry.answers):
        prompt = entry.prompts[place // entry.body["choices"]]
        made = await _answer(now, prompt, entry, place)
        same = next((i for i, (a, b) in enumerate(zip(told, made, strict=False)) if a != b), None)
        if same is None and len(told) != len(made):
            same = min(len(told), len(made))
        if same is not None:
            differences.append(
                {
                    "answer": place,
                    "token": same,
                    "was": told[same] if same < len(told) else None,
                    "is": made[same] if same < len(made) else None,
                    "text": _text(now, made[: same + 1]),
                }
            )
    lines = [
        f"entry {entry.entry}: answer {d['answer']} differs from token {d['token']} on: "
        f"was {d['was']}, is {d['is']}"
        for d in differences
    ] or [f"entry {entry.entry}: bit-identical"]
    lines += [f"  {name} changed: was {was}, is {is_}" for name, was, is_ in changed]
    return {
        "entry": entry.entry,
        "identical": not differences,
        "tokens": sum(map(len, entry.answers)),
        "differences": differences,
        "changed": [{"what": name, "was": was, "is": is_} for name, was, is_ in changed],
        "lines": lines,
    }


async def _answer(now: Living, prompt: list[int], entry: _Asked, place: int) -> list[int]:
    """The same tokens again, as many as there were: an answer may have been broken off, by a stop
    string or a client that hung up."""
    made: list[int] = []
    sampling, count = entry.sampling(place), len(entry.answers[place])
    if not count:
        return made
    async with aclosing(now.engine.generate(prompt, sampling, adapter=entry.adapter)) as events:
        async for event in events:
            if isinstance(event, Token):
                made.append(event.id)
                if len(made) == count:
                    break
    return made


def _names() -> dict[str, str]:
    """What the vault calls each digest."""
    from freehold.store import Store

    return {manifest.digest: manifest.name for manifest in Store(root()).list()}


def _changed(body: dict[str, Any], now: Living) -> list[tuple[str, str, str]]:
    from freehold import __version__

    card = now.engine.card
    pairs = (
        ("model digest", body["digest"], card.digest),
        ("numerics", body["numerics"], card.numerics),
        ("instruction set", body["isa"], card.isa),
        ("engine", body["engine"], f"freehold {__version__}"),
    )
    return [(name, was, is_) for name, was, is_ in pairs if was != is_]


def _text(now: Living, ids: list[int]) -> str:
    return b"".join(map(now.codec.token_bytes, ids)).decode(errors="replace")
