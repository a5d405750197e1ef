"""EleutherAI's `lm-eval` over a Freehold engine, its whole catalogue (extra `lm-eval`):

    python -m freehold.evals.harness run --model freehold --model_args model=NAME --tasks arc_easy

All but ``--model freehold`` is `lm-eval`'s own. The engine runs in its locked process, as always;
`lm-eval` itself is not locked: it reads and fetches what its tasks say.

Texts to weigh that are longer than the model's context are an error, never cut. A text to read
whole goes through in windows of ``kinds.WINDOW`` tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from freehold.errors import UsageError
from freehold.evals.asking import Asker
from freehold.evals.data import DOCUMENT_END
from freehold.evals.kinds import marked, windows_of
from freehold.types import Codec, Engine, Sampling

_T = TypeVar("_T")
MAX_GEN_TOKENS = 256
"""The longest answer, where a task says nothing."""


@register_model("freehold")
class FreeholdLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """``model`` is a name in the vault. ``threads`` 0 takes all cores; ``at_once`` requests are
    asked together. ``over`` makes one for an engine that runs already."""

    def __init__(
        self,
        model: str = "",
        *,
        threads: int = 0,
        at_once: int = 64,
        max_gen_toks: int = MAX_GEN_TOKENS,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        over: tuple[Engine, Codec, asyncio.Runner] | None = None,
    ) -> None:
        super().__init__()
        self._close: Callable[[], Coroutine[Any, Any, None]] | None = None
        if over is None:
            runner = asyncio.Runner()
            engine, codec, self._close = runner.run(_started(model, threads))
        else:
            engine, codec, runner = over
        self._engine, self._codec, self._runner = engine, codec, runner
        self._asker = Asker(engine, codec, at_once=at_once)
        self._max = max_gen_toks

    def close(self) -> None:
        """End the engine, if it was started here."""
        if self._close is not None:
            self._runner.run(self._close())
            self._runner.close()

    # --- what lm-eval asks of a model -------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        (token,) = self._codec.text(DOCUMENT_END)
        return token

    @property
    def tokenizer_name(self) -> str:
        return str(self._engine.card.digest).replace(":", "-")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return list(self._codec.text(string))

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Names what prompts are put through: the model's own template, by the model's digest."""
        return self.tokenizer_name if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise UsageError("Freehold's templates always ask for an answer: leave out prefilling")
        ids = self._codec.chat(chat_history)
        return b"".join(map(self._codec.token_bytes, ids)).decode()

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        async def one(context: list[int], ids: list[int]) -> tuple[float, bool]:
            found = await self._asker.weigh(context, ids, greedy=True)
            return found.logprob, found.greedy

        return self._all([one(context, ids) for _, context, ids in requests])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        async def one(text: str) -> float:
            windows = windows_of(marked(text, self._codec))
            found = [await self._asker.weigh(w[:1], w[1:], whole=True) for w in windows]
            return sum(each.logprob for each in found)

        return self._all([one(request.args[0]) for request in requests])

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return self._all([self._until(*request.args) for request in requests])

    async def _until(self, context: str, options: dict[str, Any]) -> str:
        given = dict(options)
        until = given.pop("until", [])
        sampled = given.pop("do_sample", False)
        temperature = float(given.pop("temperature", 1.0))
        sampling = Sampling(
            temperature=temperature if sampled else 0.0,
            max_tokens=int(given.pop("max_gen_toks", self._max)),
            top_p=float(given.pop("top_p", 1.0)),
            stop_ids=self._codec.stop_ids,
        )
        if given:
            raise UsageError(f"a task asks for {', '.join(given)}, which Freehold does not know")
        stops = [until] if isinstance(until, str) else list(until)
        return await self._asker.write(
            self._codec.text(context), sampling, stop=[s for s in stops if s], thoughts=True
        )

    def _all(self, work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
        async def together() -> list[_T]:
            return list(await asyncio.gather(*work))

        return self._runner.run(together())


async def _started(
    model: str, threads: int
) -> tuple[Engine, Codec, Callable[[], Coroutine[Any, Any, None]]]:
    from freehold.engine import EngineProcess, EngineSettings
    from freehold.qwen import codec
    from freehold.store import Store, default_root, verify

    if not model:
        raise UsageError("name a model in the vault: --model_args model=NAME", param="model")
    root = default_root()
    settings = EngineSettings(
        root=str(root), model=model, backend="native", dtype="bfloat16", threads=threads or None
    )
    engine = await EngineProcess.start(settings)
    return engine, codec.load(verify(Store(root), model, keep=False)), engine.close


def main() -> None:
    """`lm-eval`'s own command, which knows ``--model freehold`` now."""
    from lm_eval.__main__ import cli_evaluate

    # Under its own name: run as a program this module is another, and registered already.
    cli_evaluate()


if __name__ == "__main__":
    main()
