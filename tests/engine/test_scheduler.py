"""The scheduler under random arrivals, cancels, lengths and slow readers, with every page counted.

The model is the pretend one: it reads its logits from the pages, so a page in the wrong hands shows
as a wrong token, not only as a wrong count.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from freehold.engine.runner import Runner
from freehold.engine.scheduler import Share
from freehold.engine.wire import (
    AnyEvent,
    Done,
    EngineSettings,
    Failed,
    Generate,
    Prefilled,
    Score,
    Scored,
    Token,
    cost,
)
from freehold.qwen.model import Span
from freehold.types import Sampling

# Few different prefixes, so that requests really share some.
prompts = st.tuples(
    st.sampled_from([0, 4, 11, 17, 30]), st.lists(st.integers(0, 3), min_size=1, max_size=12)
).map(lambda made: [7, 8, 9, 10] * 8 if made[0] == 30 else [*range(made[0]), *made[1]])


class Traffic(RuleBasedStateMachine):
    """Requests come, are read slowly or not at all for a while, and are cancelled."""

    requests = Bundle("requests")
    pretend: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, Generate | Score] = {}
        self.events: dict[int, list[AnyEvent]] = {}
        self.owed: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.next = 1

    @initialize(
        n_pages=st.sampled_from([12, 20, 60]),
        max_running=st.integers(1, 6),
        step_tokens=st.sampled_from([1, 3, 8, 40]),
    )
    def begin(self, n_pages: int, max_running: int, step_tokens: int) -> None:
        self.model = self.pretend(n_pages=n_pages, page_size=4, context=48)
        self.runner = Runner(
            self.model,
            EngineSettings(
                root="",
                model="",
                max_running=max_running,
                max_waiting=1000,
                step_tokens=step_tokens,
            ),
        )

        self.plan = self.runner.scheduler.plan
        self.runner.scheduler.plan = self._watched_plan  # type: ignore[method-assign]

    def _watched_plan(self) -> list[Share]:
        """No starvation: the oldest running request that is being read is in every single step."""
        shares = self.plan()
        ready = [r for r in self.runner.scheduler.running if not r.stalled]
        assert [s.request for s in shares[:1]] == ready[:1]
        assert all(share.n > 0 for share in shares)
        return shares

    @rule(
        target=requests,
        ids=prompts,
        n=st.integers(1, 40),
        seed=st.integers(0, 3),
        logprobs=st.sampled_from([None, 20]),
    )
    def ask(self, ids: list[int], n: int, seed: int, logprobs: int | None) -> int:
        sampling = Sampling(max_tokens=n, seed=seed, logprobs=logprobs, stop_ids=(13,))
        message = Generate(self.next, list(ids), sampling)
        assert self.runner.generate(message) == []
        # The runner's list grows with the answer; the oracle needs the prompt.
        return self._asked(Generate(self.next, list(ids), sampling))

    @rule(target=requests, ids=prompts, top=st.sampled_from([0, 20]))
    def score(self, ids: list[int], top: int) -> int:
        assert self.runner.score(Score(self.next, list(ids), top)) == []
        return self._asked(Score(self.next, list(ids), top))

    def _asked(self, message: Generate | Score) -> int:
        self.asked[message.request] = message
        self.events[message.request] = []
        self.owed[message.request] = 0
        self.next += 1
        return message.request

    @rule(n=st.integers(1, 8))
    def run_on(self, n: int) -> None:
        for _ in range(n):
            self._step()

    @rule(request=requests)
    def fall_behind(self, request: int) -> None:
        """The reader stalls: as if a window's worth lay unread."""
        if (found := self.runner._requests.get(request)) is not None:
            found.unread += 1 << 20
            self.owed[request] += 1 << 20

    @rule(request=requests)
    def catch_up(self, request: int) -> None:
        self.runner.read(request, self.owed[request])
        self.owed[request] = 0

    @rule(request=consumes(requests))
    def cancel(self, request: int) -> None:
        free = self.model.cache.n_free
        held = self.runner._requests.get(request)
        self.runner.cancel(request)
        if held is not None:
            self.cancelled.add(request)
            assert held.state is None
            assert self.model.cache.n_free >= free

    @invariant()
    def no_page_is_lost(self) -> None:
        if not hasattr(self, "runner"):
            return
        scheduler, size = self.runner.scheduler, self.model.cache.page_size
        held = {page for r in scheduler.running for page in r.pages}
        own = sum(-(-r.length // size) - len(r.pages) for r in scheduler.running)
        stats = self.runner.stats()
        assert stats.pages_free + stats.pages_cached + len(held) + own == stats.pages_total
        assert all(r.state is None for r in scheduler.waiting)
        ages = [r.number for r in scheduler.running]
        assert ages == sorted(ages)
        assert [r.number for r in scheduler.waiting] == sorted(r.number for r in scheduler.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for request in self.owed:
            self.catch_up(request)
        for _ in range(20_000):
            if self._step() is None:
                break
        assert self.runner.stats().running == self.runner.stats().waiting == 0
        self.runner.scheduler.prefix.clear()
        assert self.model.cache.n_free == self.model.cache.n_pages
        for request in set(self.asked) - self.cancelled:
            self._check(request)

    def _step(self) -> list[AnyEvent] | None:
        events = self.runner.step()
        for event in events or []:
            assert event.request not in self.cancelled
            self.events[event.request].append(event)
            self._read_at_once(event)
        return events

    def _read_at_once(self, event: AnyEvent) -> None:
        if self.owed[event.request] < 1 << 20:
            self.runner.read(event.request, cost(event))
        else:
            self.owed[event.request] += cost(event)

    def _check(self, request: int) -> None:
        """Every request ended, in order, with what it would have got alone."""
        asked, events = self.asked[request], self.events[request]
        assert not any(isinstance(event, Failed) for event in events)
        if isinstance(asked, Score):
            rows = b"".join(e.values for e in events if isinstance(e, Scored))
            assert len(rows) == 4 * len(asked.ids)
            return
        kinds = [type(event) for event in events]
        assert kinds == [Prefilled, *[Token] * (len(kinds) - 2), Done]
        tokens = [e.id for e in events if isinstance(e, Token)]
        assert tokens == self._alone(asked)

    def _alone(self, asked: Generate) -> list[int]:
        from freehold.engine.sampler import Chooser

        model = self.pretend(n_pages=60, page_size=4)
        state, ids = model.cache.new(), list(asked.ids)
        chooser = Chooser(asked.sampling, ids)
        step, answer = ids, list[int]()
        room = min(48, 4 * self.model.cache.n_pages) - len(ids)
        for _ in range(min(asked.sampling.max_tokens, room)):
            (logits,) = model.forward([Span(state=state, ids=step, want="last")])
            token = chooser.choose(logits[0], position=len(ids) + len(answer)).id
            if token == 13:
                break
            answer.append(token)
            step = [token]
        return answer


@pytest.fixture(autouse=True)
def _model(pretend: Any) -> None:
    Traffic.pretend = staticmethod(pretend)


@pytest.mark.usefixtures("_model")
class TestTraffic(Traffic.TestCase):
    settings = settings(
        max_examples=60,
        stateful_step_count=40,
        # The steps that led to a failure are printed as found: shrinking them takes minutes.
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
