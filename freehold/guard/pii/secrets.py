"""Keys, tokens and passwords in a text, by the forms that those who issue them publish.

Each form has a literal that must be there; only where it stands is its pattern tried, so a text
without keys costs one search per literal.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from freehold.types import Span


@dataclass(frozen=True, kw_only=True)
class Token:
    """``pattern`` is matched where ``literal`` begins, unless a word goes on there."""

    name: str
    literal: str
    pattern: re.Pattern[str]


def _token(name: str, literal: str, rest: str) -> Token:
    pattern = re.compile(re.escape(literal) + f"(?:{rest})" + r"(?![A-Za-z0-9_])")
    return Token(name=name, literal=literal, pattern=pattern)


TOKENS = (
    *(_token("aws-key", begin, "[A-Z2-7]{16}") for begin in ("AKIA", "ASIA", "ABIA", "ACCA")),
    *(_token("github-token", f"gh{kind}_", "[A-Za-z0-9]{36,251}") for kind in "pousr"),
    _token("github-token", "github_pat_", "[A-Za-z0-9_]{60,240}"),
    _token("gitlab-token", "glpat-", "[A-Za-z0-9_-]{20,300}"),
    *(
        _token("slack-token", f"xox{kind}-", "[A-Za-z0-9-]{20,240}")
        for kind in ("a", "b", "e", "o", "p", "r", "s")
    ),
    _token("slack-webhook", "hooks.slack.com/", "(?:services|workflows)/[A-Za-z0-9/+]{30,80}"),
    _token("google-key", "AIza", "[A-Za-z0-9_-]{35}"),
    _token("google-secret", "GOCSPX-", "[A-Za-z0-9_-]{28}"),
    *(_token("stripe-key", f"{kind}_live_", "[A-Za-z0-9]{16,120}") for kind in ("sk", "rk")),
    _token("anthropic-key", "sk-ant-", "[A-Za-z0-9_-]{32,160}"),
    _token(
        "openai-key", "sk-", "(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{32,240}|[A-Za-z0-9]{32,80})"
    ),
    _token("huggingface-token", "hf_", "[A-Za-z0-9]{30,60}"),
    _token("npm-token", "npm_", "[A-Za-z0-9]{36}"),
    _token("pypi-token", "pypi-", "[A-Za-z0-9_-]{60,300}"),
    _token("sendgrid-key", "SG.", r"[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}"),
    _token("twilio-key", "SK", "[0-9a-f]{32}"),
    _token("digitalocean-token", "dop_v1_", "[0-9a-f]{64}"),
    _token("shopify-token", "shpat_", "[0-9a-fA-F]{32}"),
    _token("azure-key", "AccountKey=", "[A-Za-z0-9+/]{86}=="),
    _token("age-key", "AGE-SECRET-KEY-1", "[A-Z0-9]{58}"),
    _token(
        "jwt",
        "eyJ",
        r"[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,8192}\.(?:[A-Za-z0-9_-]{16,1024})",
    ),
    _token("freehold-key", "fh-", "[A-Za-z0-9_-]{44,80}"),
)

LABELS = frozenset((*(token.name for token in TOKENS), "password", "private-key"))
"""The kinds of secrets that are known."""


def find(text: str) -> Iterator[Span]:
    """Secrets in ``text``; they may overlap. Time grows with the text's length."""
    for token in TOKENS:
        at = text.find(token.literal)
        while at >= 0:
            step = len(token.literal)
            match = None if _within_word(text, at) else token.pattern.match(text, at)
            if match is not None and _random(match[0][step:]):
                step = match.end() - at
                yield _secret(at, match.end(), token.name, 0.95)
            at = text.find(token.literal, at + step)
    yield from _private_keys(text)
    yield from _in_addresses(text)
    yield from _assigned(text)


def _secret(start: int, end: int, label: str, score: float) -> Span:
    return Span(start=start, end=end, category="secret", label=label, score=score)


def _within_word(text: str, at: int) -> bool:
    before = text[at - 1] if at else " "
    return before.isascii() and (before.isalnum() or before in "_-")


def _random(text: str) -> bool:
    """Whether it could be drawn by lot: no xxxxxxxx, no word."""
    return len(set(text)) >= min(8, len(text) // 2)


_BEGIN, _END = "-----BEGIN ", "-----END "
_HEAD = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(r"[A-Za-z0-9+/=:,\s\\-]*")


def _private_keys(text: str) -> Iterator[Span]:
    at, end = text.find(_BEGIN), 0
    while at >= 0:
        head = _HEAD.match(text, at)
        after = at + len(_BEGIN)
        if head is not None:
            after = head.end()
            if 0 <= end < after:  # looked for once: there may be many heads and no end
                end = text.find(_END, after)
            if end >= 0:
                line = text.find("-----", end + len(_END), end + len(_END) + 69)
                after = line + 5 if 0 <= line < end + 64 else end + len(_END)
            elif (body := _BODY.match(text, after)) is not None:
                after = body.end()
            yield _secret(at, after, "private-key", 1.0)
        at = text.find(_BEGIN, after)


_LOGIN = re.compile(r"://[^\s/:@?#]{1,64}:([^\s/@]{3,256})@[\w.\[]")


def _in_addresses(text: str) -> Iterator[Span]:
    """The password in ``https://name:password@host``."""
    at = text.find("://")
    while at >= 0:
        if (match := _LOGIN.match(text, at)) is not None and "${" not in match[1]:
            yield _secret(*match.span(1), "password", 0.9)
        at = text.find("://", at + 3)


_NAMED = re.compile(
    r"(?i:passw(?:or)?d|passwort|passphrase|kennwort|kata ?sandi|katalaluan|mot de passe|hasło"
    r"|mật khẩu|รหัสผ่าน|密码|密碼|비밀번호|secret|token|api[_ -]?key|access[_ -]?key"
    r"|client[_ -]?secret|pwd)[\"'`]?\s{0,3}"
    r"(?:(?:is|ist|est|adalah|là|to)\s|[:=\uff1a]{1,2}>?)\s{0,3}[\"'`]?"
    r"([^\s\"'`,;<>(){}\[\]]{8,256})"
)
_STEMS = ("pass", "kennwort", "kata", "secret", "token", "key", "pwd")
"""Some of these is in every such name in ASCII."""
_DIGIT = re.compile("[0-9]")
_MANY_BITS = 2.75


def _assigned(text: str) -> Iterator[Span]:
    """What is called a password or a key and looks drawn by lot."""
    if text.isascii():
        lower = text.lower()
        if _DIGIT.search(text) is None or not any(stem in lower for stem in _STEMS):
            return  # what was drawn by lot has digits
    elif not any(map(str.isdigit, text)):
        return
    for match in _NAMED.finditer(text):
        value = match[1].rstrip(".:!?")
        start = match.start(1)
        if len(value) >= 8 and _mixed(value) and _bits(value) >= _MANY_BITS:
            yield _secret(start, start + len(value), "password", 0.75)


def _mixed(value: str) -> bool:
    """Letters and digits, and no address, path or call in place of a value."""
    if "://" in value or "$" in value[:1] or value.count(".") > 2 or "/" in value[:1]:
        return False
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _bits(value: str) -> float:
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
