"""What a model rehearses: its own conversations, the same each time, and only those that end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.adapt.rehearsal import MOST_TRIES, Plan, Talk, opening, rehearse
from freehold.cli.preparing import _Kept, _questions
from freehold.errors import UsageError
from freehold.train.reading import read
from freehold.types import Delta, Done, Event, Heard, Ids, Prefilled, Sampling, Token, Turn
from tests.conftest import DEFAULT


class Codec:
    """A codec of letters: a prompt is ``<`` and the question, and what is said ends at 0."""

    stop_ids = (0,)

    def chat(self, messages: Sequence[Any], **_: Any) -> list[int]:
        return [*map(ord, f"<{messages[0]['content']}>")]

    def turns(self, prompt: Ids) -> tuple[Turn, ...]:
        return (Turn(role="user", start=1, stop=len(prompt) - 1),)

    def decoder(self, stop: Sequence[str] = ()) -> Any:
        return SimpleNamespace(push=lambda one: Delta(text=chr(one)), finish=Delta)

    def listener(self, prompt: Ids, tools: Sequence[Any] = ()) -> Any:
        return SimpleNamespace(feed=lambda text: Heard(words=text), finish=Heard)


class Engine:
    """Asks what the try's number says, and answers with the question turned round. Tries that
    ``endless`` names never end."""

    card = SimpleNamespace(name="small", caps=frozenset())

    def __init__(self, asked: Sequence[str], endless: frozenset[int] = frozenset()) -> None:
        self.asked, self.endless = asked, endless
        self.running = self.most = 0

    async def generate(self, ids: Ids, sampling: Sampling, **_: Any) -> AsyncGenerator[Event]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield Prefilled(prompt_tokens=len(ids), cached_tokens=0)
            for _ in range(1 + sampling.choice % 5):  # tries take different times
                await asyncio.sleep(0)
            questions = len(ids) == 1
            if questions:
                text = self.asked[sampling.choice % len(self.asked)]
            else:
                text = "".join(map(chr, reversed(ids[1:-1])))
            for letter in text:
                yield Token(id=ord(letter))
            stuck = questions and sampling.choice in self.endless
            yield Done(reason="length" if stuck else "stop", output_tokens=len(text))
        finally:
            self.running -= 1


def gone_through(engine: Engine, plan: Plan, **more: Any) -> list[Talk | None]:
    async def all_of() -> list[Talk | None]:
        return [talk async for talk in rehearse(engine, Codec(), plan, at_once=3, **more)]  # type: ignore[arg-type]

    return asyncio.run(all_of())


@given(
    st.lists(st.text("abc", max_size=3), min_size=1, max_size=30),
    st.frozensets(st.integers(0, 40)),
    st.integers(1, 12),
    st.integers(0, 12),
)
@settings(max_examples=60)
def test_conversations_come_in_order_once_and_go_on_where_they_were(
    asked: list[str], endless: frozenset[int], count: int, cut: int
) -> None:
    def whole(first: int = 0, known: frozenset[str] = frozenset()) -> list[Talk | None]:
        return gone_through(Engine(asked, endless), Plan(count=count), first=first, known=known)

    expected: dict[str, int] = {}
    for number in range(MOST_TRIES * count):
        question = asked[number % len(asked)]
        if question and number not in endless:
            expected.setdefault(question, number)
    if len(expected) < count:
        with pytest.raises(UsageError, match="smaller --count"):
            whole()
        return
    found = whole()
    talks = [talk for talk in found if talk is not None]
    assert [(talk.question, talk.number) for talk in talks] == list(expected.items())[:count]
    assert all(talk.answer == talk.question[::-1] for talk in talks)
    assert all(talk is None or talk.number == n for n, talk in enumerate(found))
    cut = min(cut, len(found) - 1)
    before = frozenset(talk.question for talk in found[:cut] if talk is not None)
    assert found[:cut] + whole(cut, before) == found


@pytest.mark.parametrize("count", [2, 3, 9])
def test_questions_that_are_given_are_asked_in_order(count: int) -> None:
    given = ("ab", "c", "def")
    plan = Plan(count=count, questions=given)
    found = gone_through(Engine([]), plan)
    assert [talk.question for talk in found if talk] == list(given[:count])
    assert all(talk and talk.answer == talk.question[::-1] for talk in found)
    assert gone_through(Engine([]), plan, first=1, known=frozenset({"ab"})) == found[1:]


def test_questions_come_from_texts_and_from_first_turns(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    turns = (("system", "Be kind."), ("user", " second "), ("assistant", "answer"))
    talk = {"messages": [{"role": role, "content": said} for role, said in turns]}
    lines = [{"text": "first"}, talk, {"text": "first"}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert _questions(file) == ("first", "second")
    file.write_text('{"text": "first"}\n{"texts": 1}\n')
    with pytest.raises(UsageError, match="line 2"):
        _questions(file)
    file.write_text("")
    with pytest.raises(UsageError, match="asks nothing"):
        _questions(file)


def test_no_more_run_at_once_than_may() -> None:
    engine = Engine([f"q{n}" for n in range(40)])
    assert len(gone_through(engine, Plan(count=40))) == 40
    assert engine.most == 3
    assert engine.running == 0


def test_a_template_without_a_users_turn_is_named() -> None:
    class Mute(Codec):
        def turns(self, prompt: Ids) -> tuple[Turn, ...]:
            return ()

    with pytest.raises(UsageError, match="user's turn"):
        opening(Mute())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage", ["", "{", '{"source": "us"}', '{"source": "us", "tries": "x"}', "\x00", "[]"]
)
def test_what_is_kept_is_taken_up_or_begun_anew(tmp_path: Path, damage: str) -> None:
    kept = _Kept(tmp_path / "talks.jsonl")
    assert kept.take_up("us") == (0, frozenset())
    kept.add(Talk(number=0, question="q", answer="a"))
    kept.add(None)
    kept.keep()
    assert _Kept(kept.path).take_up("us") == (2, {"q"})
    assert _Kept(kept.path).take_up("another seed") == (0, frozenset())
    part = tmp_path / "talks.jsonl.part"
    part.write_text(damage)
    assert _Kept(kept.path).take_up("us") == (0, frozenset())
    kept.finish()
    assert not part.exists()
    (record,) = read([kept.path]).records
    assert [message["content"] for message in record.messages] == ["q", "a"]


def test_a_line_of_the_file_ends_at_its_line_end_alone(tmp_path: Path) -> None:
    """Some signs end lines elsewhere."""
    said = "a\u2028b\u0085c\x0bd"
    kept = _Kept(tmp_path / "talks.jsonl")
    kept.take_up("us")
    kept.add(Talk(number=0, question=said, answer=said))
    kept.keep()
    assert _Kept(kept.path).take_up("us") == (1, {said})
    kept.finish()
    (record,) = read([kept.path]).records
    assert [message["content"] for message in record.messages] == [said, said]


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    there = tmp_path / "talks.jsonl"
    there.write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "freehold.cli", "adapt", "rehearse", "small", "-o", str(there)],
        check=False, env={**os.environ, "FREEHOLD_HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert there.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_the_default_model_rehearses_the_same_twice(real_root: Path, tmp_path: Path) -> None:
    """From a shell, in its lock; what it says can be learnt."""
    found = []
    for name in ("one.jsonl", "two.jsonl"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "freehold.cli", "adapt", "rehearse"),
                *(DEFAULT, "-o", str(tmp_path / name), "--count", "3"),
                *("--longest", "200", "--json"),
            ],
            check=False, env={**os.environ, "FREEHOLD_HOME": str(real_root)},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["conversations"] == 3
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    assert len(read([tmp_path / "one.jsonl"]).records) == 3
