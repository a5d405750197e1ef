"""``POST /v1/embeddings``: one vector for each text."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from freehold.errors import UsageError
from freehold.serve import parts
from freehold.serve.answer import Ask, Usage
from freehold.serve.asker import Asker, asker_of, record
from freehold.serve.desk import Desk, Served, desk_of
from freehold.serve.fields import Count, Ignored, Strict
from freehold.serve.guarding import Watched
from freehold.serve.intake import read
from freehold.serve.reply import Outlet, Reply
from freehold.serve.schema import PROMPTS
from freehold.types import Floats, Sampling


class EmbeddingsRequest(Strict):
    """The body of ``POST /v1/embeddings``. ``input``'s four shapes are read in ``prompt.py``."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[Any, WithJsonSchema(PROMPTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    pooling: Literal["mean", "last"] | None = None
    user: Ignored = None


async def embeddings(request: Request) -> Response:
    """A vector of length 1 for each text."""
    desk = desk_of(request)
    asked = await read(request, EmbeddingsRequest)
    served = desk.find(asked.model, request)
    if "embed" not in served.hosted.card.caps:
        raise UsageError(f"model {asked.model!r} makes no embeddings here", param="model")
    work = _Embedding(desk, served, asked, asker_of(request))
    spending, watched = desk.spending(request, served), desk.watched(request)
    return Reply(desk, served.hosted, work.run, spending, watched=watched)


class _Embedding:
    """One request's texts."""

    def __init__(self, desk: Desk, served: Served, asked: EmbeddingsRequest, asker: Asker) -> None:
        self._most, self._at_once = desk.limits.max_prompts, asyncio.Semaphore(desk.limits.at_once)
        self._served, self._asked, self._asker = served, asked, asker

    async def run(self, outlet: Outlet) -> None:
        hosted, asked = self._served.hosted, self._asked
        given = asked.input
        texts = await self._served.tokenising.prompts(given, self._most, param="input")
        if outlet.watched is not None and (masked := await self._judged(outlet.watched)):
            texts = await self._served.tokenising.prompts(masked, self._most, param="input")
        suffix = list(hosted.codec.suffix)
        texts = [ids if ids[len(ids) - len(suffix) :] == suffix else ids + suffix for ids in texts]
        told = tuple if outlet.watched is None else outlet.watched.told
        usage = Usage(prompt_tokens=sum(map(len, texts)), verdicts=told)
        await outlet.spending.begin(usage)
        asks = [Ask(index=i, ids=ids, sampling=Sampling()) for i, ids in enumerate(texts)]
        leaf = record(self._asker, hosted, asks, 1, {"input": given}, watched=outlet.watched)
        outlet.account.open(leaf, usage)
        vectors = await _all([self._vector(ids) for ids in texts])
        usage.cached[0] = 0
        await outlet.account.answered()
        data = [
            {"object": "embedding", "index": i, "embedding": self._written(vector_d)}
            for i, vector_d in enumerate(vectors)
        ]
        spent = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        await outlet.whole({"object": "list", "data": data, "model": hosted.name, "usage": spent})

    async def _judged(self, watched: Watched) -> list[str]:
        """Have the guard read the texts: all of them as they may go on, if one was masked. Raises
        ``ProblemError`` where one is stopped: no vector could say so."""
        said = parts.of_prompts(self._asked.input, self._served.hosted.codec)
        texts = await watched.judge(*said)
        if watched.stopped:
            raise watched.refuse()
        after = [text for (text,) in texts]
        return after if after != [part.text for (part,) in said] else []

    async def _vector(self, ids: list[int]) -> Floats:
        hosted = self._served.hosted
        async with self._at_once:
            whole_d = await hosted.engine.embed(
                ids, pooling=self._asked.pooling or hosted.codec.pooling
            )
        most = self._asked.dimensions or whole_d.size
        if most > whole_d.size:
            raise UsageError(
                f"dimensions is {most}: this model's vectors have {whole_d.size}",
                param="dimensions",
            )
        # A shorter vector is the beginning of the longer one, brought to length 1 again.
        vector_d = whole_d[:most].astype(np.float64)
        return (vector_d / max(float(np.linalg.norm(vector_d)), 1e-12)).astype(np.float32)

    def _written(self, vector_d: Floats) -> object:
        if self._asked.encoding_format == "float":
            return vector_d.tolist()
        return base64.b64encode(vector_d.astype("<f4").tobytes()).decode()


async def _all(works: Sequence[Coroutine[Any, Any, Floats]]) -> list[Floats]:
    """What all of them give; the first failure ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
