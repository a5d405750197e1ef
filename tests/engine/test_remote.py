"""Asking another server: what is asked, what is believed, and what becomes of a server that lies,
stalls, fails or goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.engine.remote import http, talk, words
from freehold.engine.remote.http import Wire
from freehold.engine.remote.talk import PROBE, Talk
from freehold.engine.wire import AnyEvent, Done, Prefilled, Remote, Token
from freehold.errors import BusyError, EngineError, FreeholdError, UsageError
from freehold.qwen.tokenizer import Tokenizer, from_tokenizer_json
from freehold.types import Cutoff, Sampling
from tests.engine.upstream import (
    DONE,
    Asked,
    Scripted,
    Writer,
    chunk,
    event,
    listening,
    saying,
    spoken,
)
from tests.qwen.conftest import small_tokenizer_json

TOKENIZER = Tokenizer(from_tokenizer_json(small_tokenizer_json()))
VOCAB = 300
STOP = 299
GREEDY = Sampling(temperature=0, max_tokens=5, stop_ids=(STOP,))
SENTENCE = (chunk(10), chunk(11), chunk(12), chunk(STOP, "stop"), DONE)


@pytest.fixture(autouse=True, scope="module")
def _impatient() -> Iterator[None]:
    """It asks again at once: the pauses of before were most of this file's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talk, "_ASK_AGAIN", 0.01)
        yield


@asynccontextmanager
async def talking(script: Scripted, folder: Path, *, patience: float = 5.0) -> AsyncIterator[Talk]:
    remote = Remote(address=f"unix:{folder}/s", what="test", patience=patience, start_seconds=5.0)
    wire = Wire(remote, silence=5.0)
    try:
        async with listening(script, folder / "s"):
            made = Talk(remote, wire, TOKENIZER, VOCAB)
            await made.meet()
            yield made
    finally:
        await wire.close()


async def said(found: Talk, sampling: Sampling = GREEDY, room: int = 100) -> list[AnyEvent]:
    async with aclosing(found.generate([1, 2, 3], sampling, room)) as events:
        return [one async for one in events]


def ids(events: list[AnyEvent]) -> list[int]:
    return [one.id for one in events if isinstance(one, Token)]


# --- what is asked, what comes back ---------------------------------------------------------------


async def test_ids_go_there_and_come_back_without_the_one_that_ends(tmp_path: Path) -> None:
    script = Scripted(reply=saying(*SENTENCE))
    async with talking(script, tmp_path) as found:
        assert found.server == talk.Server(name="m", speech="ids", context=400)
        events = await said(found)
    assert events[0] == Prefilled(0, 3, 0)
    assert ids(events) == [10, 11, 12]
    assert events[-1] == Done(0, "stop", 3)
    (asked,) = script.asked
    assert asked["prompt"] == [1, 2, 3]
    assert asked["stop_token_ids"] == [STOP]
    assert asked["ignore_eos"] is True
    assert asked["return_token_ids"] is True


async def test_sampling_travels_whole(tmp_path: Path) -> None:
    script = Scripted(reply=saying(*SENTENCE))
    sampling = Sampling(
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={7: 2.0},
        seed=42,
        max_tokens=9,
        grammar='start: "yes"',
    )
    async with talking(script, tmp_path) as found:
        await said(found, sampling)
    (asked,) = script.asked
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"):
        assert asked[name] == getattr(sampling, name)
    assert asked["presence_penalty"] == 0.2
    assert asked["frequency_penalty"] == 0.3
    assert asked["logit_bias"] == {"7": 2.0}
    assert asked["structured_outputs"] == {"grammar": 'start: "yes"'}
    assert asked["max_tokens"] == 9


def test_each_choice_has_a_seed_of_its_own() -> None:
    seeds = {words.seed_of(Sampling(seed=seed, choice=n)) for seed in (1, 2, -3) for n in range(9)}
    assert len(seeds) == 27
    assert all(0 <= seed < 1 << 63 for seed in seeds)


async def test_logprobs_are_read_by_id(tmp_path: Path) -> None:
    told = {"token_logprobs": [-0.5], "top_logprobs": [{"token_id:9": -2.0, "token_id:10": -0.5}]}
    reply = saying(chunk(10, logprobs=told), chunk(finish="length", logprobs=None))
    async with talking(Scripted(reply=reply), tmp_path) as found:
        events = await said(found, Sampling(temperature=0, max_tokens=1, logprobs=2))
    assert events[1] == Token(0, 10, -0.5, [(10, -0.5), (9, -2.0)])


async def test_a_score_has_a_value_for_every_token_but_the_first(tmp_path: Path) -> None:
    def one(*pairs: tuple[int, float]) -> dict[str, Any]:
        return {str(i): {"logprob": p, "rank": rank} for rank, (i, p) in enumerate(pairs, 1)}

    choice = {
        "text": "",
        "prompt_logprobs": [None, one((5, -0.1), (2, -3.0)), one((3, -0.2), (9, -1.0))],
        "logprobs": {"token_logprobs": [-0.3], "top_logprobs": [{"token_id:8": -0.3}]},
        "finish_reason": "length",
    }
    script = Scripted(reply=saying(), body=json.dumps({"choices": [choice]}).encode())
    async with talking(script, tmp_path) as found:
        scored = await found.score([1, 2, 3], 1)
    assert scored.top == [[(5, pytest.approx(-0.1))], [(3, pytest.approx(-0.2))], [(8, -0.3)]]
    assert scored.last


async def test_reasoning_is_cut_off_between_two_requests(tmp_path: Path) -> None:
    async def reply(asked: Asked, writer: Writer) -> None:
        writer.write(b"".join(chunk(20 + i) for i in range(asked["max_tokens"] - 1)))
        writer.write(chunk(29, "length") + DONE)

    script = Scripted(reply=reply)
    cutoff = Cutoff(after=3, unless=99, ids=(7, 8))
    async with talking(script, tmp_path) as found:
        events = await said(found, Sampling(temperature=0, max_tokens=7, cutoff=cutoff))
        assert ids(events) == [20, 21, 29, 7, 8, 20, 29]
        assert events[-1] == Done(0, "length", 7)
        assert script.asked[1]["prompt"] == [1, 2, 3, 20, 21, 29, 7, 8]
        # What is met in time is not cut off; what is cut off at once is.
        met = Cutoff(after=3, unless=21, ids=(7, 8))
        assert 7 not in ids(await said(found, Sampling(max_tokens=7, cutoff=met)))
        at_once = Cutoff(after=0, unless=99, ids=(7, 8))
        assert ids(await said(found, Sampling(max_tokens=3, cutoff=at_once))) == [7, 8, 29]
        with pytest.raises(UsageError, match="structured output"):
            await said(found, Sampling(cutoff=met, grammar="start: /a/"))


# --- a server of text -----------------------------------------------------------------------------


async def test_a_server_of_text_gets_text(tmp_path: Path) -> None:
    script = Scripted(
        reply=saying(spoken("hello "), spoken("wörld"), spoken("", "stop")), ids=False
    )
    async with talking(script, tmp_path) as found:
        assert found.server.speech == "text"
        events = await said(found, Sampling(temperature=0, max_tokens=50))
        text = b"".join(map(TOKENIZER.token_bytes, ids(events))).decode()
        assert text == "hello wörld"
        assert isinstance(script.asked[0]["prompt"], str)
        with pytest.raises(UsageError, match="scores no tokens"):
            await found.score([1, 2], 0)
        for cannot in (
            {"logprobs": 2},
            {"top_k": 3},
            {"min_p": 0.1},
            {"repetition_penalty": 1.2},
            {"grammar": "start: /a/"},
        ):
            with pytest.raises(UsageError, match="spoken to in text"):
                await said(found, Sampling(**cannot))  # type: ignore[arg-type]


async def test_one_that_counts_other_tokens_is_refused(tmp_path: Path) -> None:
    n = len(TOKENIZER.encode(PROBE))
    async with talking(Scripted(reply=saying(), ids=False, prompt_tokens=n), tmp_path):
        pass
    with pytest.raises(EngineError, match="runs another model"):
        async with talking(Scripted(reply=saying(), ids=False, prompt_tokens=n + 1), tmp_path):
            pass


@given(st.text(max_size=40))
def test_ids_spell_just_the_text(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    made = Talk.encode(_ENCODER, text)
    assert b"".join(map(TOKENIZER.token_bytes, made)) == raw
    assert TOKENIZER.special_ids.isdisjoint(made)


@pytest.mark.parametrize("text", ["e\u0301", "<|im_end|>", "\u212b", ""])
def test_texts_that_a_tokenizer_would_change(text: str) -> None:
    test_ids_spell_just_the_text.hypothesis.inner_test(text)  # type: ignore[attr-defined]


_ENCODER = Talk(Remote(address="unix:/nowhere", what=""), None, TOKENIZER, VOCAB)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "name", "match"),
    [
        ({"data": []}, "", "it has none"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, "", "several models"),
        ({"data": [{"id": "a"}]}, "x", "no model 'x'"),
        ({"data": 7}, "", "not a list of models"),
        ([], "", "not a list of models"),
    ],
)
async def test_a_server_without_the_model(
    tmp_path: Path, models: Any, name: str, match: str
) -> None:
    remote = Remote(address=f"unix:{tmp_path}/s", what="", name=name, start_seconds=1.0)
    wire = Wire(remote, silence=2.0)
    async with listening(Scripted(reply=saying(), models=models), tmp_path / "s"):
        with pytest.raises(EngineError, match=match):
            await Talk(remote, wire, TOKENIZER, VOCAB).meet()
    await wire.close()


# --- servers that are hostile, or ill -------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ((b"data: {\n\n",), "not an answer"),
        ((b'data: {"choices": [{"text": 7}]}\n\n',), "not an answer"),
        ((b"data: " + b"[" * 100_000 + b"\n\n",), "not an answer"),
        ((chunk(VOCAB),), "does not exist"),
        ((chunk(-1),), "does not exist"),
        ((chunk(1, "tool_calls"),), "tool_calls"),
        ((b"data: " + b"x" * (http.MAX_LINE + (1 << 18)),), "line of more than"),
        ((chunk(),) * 20, "no token"),
        ((chunk(1), DONE), "without saying why"),
        ((chunk(1), b""), "middle of the answer"),
        ((chunk(1), event({"error": {"message": "it broke", "code": 500}})), "middle"),
    ],
)
async def test_what_no_server_should_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...], match: str
) -> None:
    monkeypatch.setattr(talk, "MOST_EMPTY", 10)
    async with talking(Scripted(reply=saying(*parts)), tmp_path, patience=0.1) as found:
        with pytest.raises(EngineError, match=match):
            await said(found)


async def test_an_endless_answer_is_cut_where_it_should_have_ended(tmp_path: Path) -> None:
    async def endless(asked: Asked, writer: Writer) -> None:
        while True:
            writer.write(chunk(4))
            await writer.drain()

    script = Scripted(reply=endless)
    async with talking(script, tmp_path) as found:
        assert ids(await said(found)) == [4] * 5
        await asyncio.wait_for(script.hung_up.wait(), 5)


async def test_leaving_an_answer_cancels_it_there(tmp_path: Path) -> None:
    async def slow(asked: Asked, writer: Writer) -> None:
        writer.write(chunk(4))
        await asyncio.Event().wait()

    script = Scripted(reply=slow)
    async with talking(script, tmp_path) as found:
        async with aclosing(found.generate([1], GREEDY, 100)) as events:
            async for one in events:
                if isinstance(one, Token):
                    break
        await asyncio.wait_for(script.hung_up.wait(), 5)


@pytest.mark.parametrize(
    ("status", "body", "kind", "match"),
    [
        (400, b'{"error": {"message": "too long"}}', UsageError, "too long"),
        (429, b"", BusyError, "busy"),
        (401, b"", EngineError, "upstream_key"),
        (404, b'{"detail": "nothing here"}', EngineError, "nothing here"),
        (500, b"\xff\x00<html>", EngineError, "failed"),
        (302, b"", EngineError, "302"),
    ],
)
async def test_statuses(
    tmp_path: Path, status: int, body: bytes, kind: type[FreeholdError], match: str
) -> None:
    script = Scripted(reply=saying(), status=status, body=body)
    async with talking(script, tmp_path, patience=0.1) as found:
        with pytest.raises(kind, match=match):
            await said(found)


async def test_a_server_that_comes_back_before_the_first_token_is_asked_again(
    tmp_path: Path,
) -> None:
    remote = Remote(address=f"unix:{tmp_path}/s", what="", patience=10.0)
    wire = Wire(remote, silence=5.0)
    found = Talk(remote, wire, TOKENIZER, VOCAB)
    async with listening(Scripted(reply=saying(*SENTENCE)), tmp_path / "s"):
        await found.meet()
    asking = asyncio.create_task(said(found))
    await asyncio.sleep(0.3)
    assert not asking.done()
    with pytest.raises(EngineError, match="does not answer"):
        await found.well()
    async with listening(Scripted(reply=saying(*SENTENCE)), tmp_path / "s"):
        assert ids(await asking) == [10, 11, 12]
    await wire.close()


async def test_one_that_stays_away_is_given_up(tmp_path: Path) -> None:
    async with talking(Scripted(reply=saying()), tmp_path, patience=0.2) as found:
        (tmp_path / "s").unlink()
        with pytest.raises(EngineError, match="try again later"):
            await said(found)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([*SENTENCE, b"data: ", b"\n\n"])))
)
async def test_whatever_comes_is_an_answer_or_an_error(tmp_path: Path, parts: list[bytes]) -> None:
    async with talking(Scripted(reply=saying(*parts)), tmp_path, patience=0.01) as found:
        try:
            events = await said(found)
        except FreeholdError:
            return
    assert isinstance(events[-1], Done)
    assert all(0 <= token < VOCAB for token in ids(events))


@given(st.binary(max_size=200))
def test_documents_are_read_or_refused(data: bytes) -> None:
    for read in (words.read, words.read_models):
        with suppress(EngineError):
            read(data)
    assert len(http.said(data)) <= http.MAX_WORDS
