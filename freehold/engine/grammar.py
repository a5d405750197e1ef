"""Holds an answer to a grammar: which tokens may come next, given those that came.

The library ``llguidance`` does the work (MIT, no dependencies): a lexer of derivatives and an
Earley parser walk the vocabulary's trie. A grammar is Lark text in that library's dialect, so that
it can hold JSON schemas (``%json``), regular expressions and token ids (``<[151657]>``); or several
such texts that name each other, as JSON.

Where the grammar forces bytes, only the tokens that the tokenizer itself would have written are
allowed. Nothing here looks at logits, so an answer under a grammar is as independent of the batch
as any other.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from freehold.errors import UsageError

if TYPE_CHECKING:
    import llguidance

Indices = npt.NDArray[np.intp]

PARAM = "grammar"
_CACHED = 32
"""Compiled grammars that are kept. None has been walked, so each is as small as it was made."""

_STACK = 256 << 20
"""Bytes of address space for the thread that compiles: the library's compiler calls itself once for
each rule that leads to another."""

_LEXER_STATES = 20_000
"""One takes one or two kilobytes."""

_MAX_REASON = 400
_NOTES = re.compile(r"\n(?:<|\s+\d+ \|)")


class Vocabulary(Protocol):
    """What is asked of ``qwen.tokenizer.Tokenizer``."""

    @property
    def added_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token: int) -> bytes: ...
    def encode(self, text: str) -> list[int]: ...


class Constraint:
    """Where one answer stands in its grammar. ``stop_ids`` end an answer, and may come only where
    the grammar may end.

    Every method raises ``UsageError`` once the grammar takes more work or memory than one step of
    an answer is worth.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, stop_ids: Collection[int], vocab: int
    ) -> None:
        self._matcher = matcher
        self._stop_ids = frozenset(stop_ids)
        self._vocab = vocab

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._matcher.is_stopped()

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next. Much cheaper than ``allowed``."""
        if token in self._stop_ids:
            return self._matcher.is_accepting()
        return self.prefix([token]) == 1

    def prefix(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may come next, one after the other; none of them a stop id."""
        n = self._matcher.validate_tokens(list(tokens))
        self._check()
        return n

    def mask(self) -> npt.NDArray[np.bool_]:
        """Of each token of the vocabulary, whether it may come next; at least one may."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask_v = np.unpackbits(packed, bitorder="little")[: self._vocab].view(np.bool_)
        mask_v[list(self._stop_ids)] = self._matcher.is_accepting()
        if not mask_v.any():
            raise UsageError(
                "grammar allows nothing more here, and not an end either: no text fulfils it",
                param=PARAM,
            )
        return mask_v

    def allowed(self) -> Indices:
        """All tokens that may come next, ascending; at least one."""
        return np.flatnonzero(self.mask())

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is no choice."""
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def take(self, token: int) -> None:
        """``token`` has come."""
        if token not in self._stop_ids:
            self._matcher.consume_token(token)
            self._check()

    def fork(self) -> Constraint:
        """One that stands at the same place and goes its own way."""
        return Constraint(self._matcher.deep_copy(), self._stop_ids, self._vocab)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refusal(
                "grammar has become too large for one step here: make it simpler",
                self._matcher.get_error(),
            )


class Grammars:
    """Compiles grammars for one vocabulary in a thread of its own, and keeps the latest.

    ``vocabulary`` is called once, for the first grammar: a server that is asked for none does not
    hold one. ``size`` is the model's, padding included.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary], size: int) -> None:
        self._vocabulary = vocabulary
        self._size = size
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    def constraint(self, grammar: str, stop_ids: Collection[int]) -> Future[Constraint]:
        """The beginning of ``grammar``, for an answer that ``stop_ids`` end.

        The future raises ``UsageError`` for what is no grammar or too large a one.
        """
        with self._lock:
            if (known := self._kept.get(grammar)) is not None:
                self._kept.move_to_end(grammar)
                ready: Future[Constraint] = Future()
                ready.set_result(Constraint(known.deep_copy(), stop_ids, self._size))
                return ready
        return self._worker().submit(self._make, grammar, tuple(stop_ids))

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="freehold-grammar")
            usual = threading.stack_size(_STACK)
            # The pool starts its thread with the first task.
            self._thread.submit(lambda: None).result()
            threading.stack_size(usual)
        return self._thread

    def _make(self, grammar: str, stop_ids: tuple[int, ...]) -> Constraint:
        import llguidance

        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._vocabulary(), self._size)
        try:
            matcher = llguidance.LLMatcher(
                self._tokenizer, grammar, log_level=0, limits=_limits(llguidance)
            )
        except UnicodeEncodeError as error:
            raise _refusal("grammar cannot be used", "it holds half a character") from error
        if matcher.is_error():
            raise _refusal("grammar cannot be used", matcher.get_error())
        with self._lock:
            self._kept[grammar] = matcher
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)
        return Constraint(matcher.deep_copy(), stop_ids, self._size)


def _limits(library: Any) -> llguidance.LLParserLimits:
    """How much of the library's work a grammar may cost."""
    limits: llguidance.LLParserLimits = library.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        max_lexer_states=_LEXER_STATES,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
    return limits


def _tokenizer(vocabulary: Vocabulary, size: int) -> llguidance.LLTokenizer:
    import llguidance

    return llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(_Words(vocabulary, size)), n_vocab=size + 1
    )


class _Words:
    """A vocabulary in the shape that the library asks for."""

    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        self._encode = vocabulary.encode
        # The library asks for a token that ends. It gets one of its own, past all others: which
        # tokens end an answer is each request's to say, see ``Constraint``.
        self.tokens = [*map(vocabulary.token_bytes, range(size)), b"<|the end of the grammar|>"]
        self.special_token_ids = [*sorted(vocabulary.added_ids), size]
        self.eos_token_id, self.bos_token_id = size, None
        self._single = {text[0]: i for i, text in enumerate(self.tokens) if len(text) == 1}

    def __call__(self, data: bytes) -> list[int]:
        """The tokens of ``data``, which must come to the same bytes again: a tokenizer normalises,
        and may not do so to what a grammar forces."""
        ids = self._encode(data.decode(errors="replace"))
        if b"".join(self.tokens[token] for token in ids) == data:
            return ids
        return [self._single[byte] for byte in data]


def _refusal(problem: str, reason: str) -> UsageError:
    # The library's own words, without its notes on where it stood: the place is in them.
    why = _NOTES.split(reason)[0].strip().replace("\n", " ")[:_MAX_REASON]
    return UsageError(f"{problem}: {why}", param=PARAM)
