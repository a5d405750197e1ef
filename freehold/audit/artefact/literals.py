"""What a text that stands in a template says: addresses, orders, hidden letters, hidden texts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Iterator

ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s'\"<>]{3,}|\b\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|ru|cn|xyz|top|info|biz|onion|dev|app|sh)\b",
    re.IGNORECASE,
)
MARKUP = re.compile(r"</?[A-Za-z_][\w.:=-]*/?>|<[|｜][^<>\s]{1,40}[|｜]>|\[/?[A-Z_]{2,20}\]|```\w*")
"""Tags, control tokens and fences: what honest templates look for, and put around messages."""
_BLOB = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}|(?:[0-9a-fA-F]{2}){12,}|(?:\\x[0-9a-fA-F]{2}){4,}")
_WORDS = re.compile(r"[^\W\d_]{2,}", re.UNICODE)
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_ORDERS = (
    r"\b(ignore|disregard|override|bypass)\b.{0,60}\b(instruction|rule|previous|prior|safety|polic)",
    r"\b(do not|don't|never|without)\b.{0,40}\b(mention|reveal|disclose|tell|telling|warn|warning"
    r"|inform|say that|admit|refuse|report)",
    r"\b(secretly|covertly|silently|discreetly|unnoticed|hidden)\b",
    r"\b(always|must|be sure to|make sure)\b.{0,60}\b(recommend|include|insert|append|add|link"
    r"|mention|prefer|praise|answer with|reply with|respond with|begin with|end with|end every)",
    r"\b(you are|act as|pretend|behave as)\b.{0,40}\b(unrestricted|jailbroken|developer mode|DAN"
    r"|no (?:rules|limits|restrictions)|evil)",
    r"\b(password|api[ _-]?key|credential|secret|token)s?\b.{0,60}\b(send|post|upload|leak|forward"
    r"|append|include)|\b(send|post|upload|leak|forward)\b.{0,60}\b(password|api[ _-]?key"
    r"|credential|secret|conversation|user data)",
    r"\b(wrong|false|incorrect|insecure|vulnerable|misleading)\b.{0,40}\b(answer|answers|code|figures"
    r"|numbers|information|results?)",
    r"\b(answer|give|write|produce)\b.{0,40}\b(wrong|false|incorrect|insecure|vulnerable)",
)
ORDERS = re.compile("|".join(f"(?:{each})" for each in _ORDERS), re.IGNORECASE | re.DOTALL)


def hidden(text: str) -> list[str]:
    """Names of letters that nobody sees: format characters, tags, selectors, private use."""
    found = []
    for letter in sorted(set(text)):
        code = ord(letter)
        unseen = unicodedata.category(letter) in ("Cf", "Co", "Cn") or (
            0xFE00 <= code <= 0xFE0F
            or 0xE0100 <= code <= 0xE01EF
            or code in (0x115F, 0x1160, 0x3164)
        )
        control = unicodedata.category(letter) == "Cc" and letter not in "\t\n\r"
        if unseen or control:
            found.append(f"U+{code:04X} {unicodedata.name(letter, 'unnamed')}")
    return found


def mixed_script(text: str) -> list[str]:
    """Words that mix Latin with Cyrillic or Greek letters: look-alikes."""
    found = []
    for word in re.findall(r"\w{3,}", text):
        scripts = {unicodedata.name(c, "").split(" ")[0] for c in word if c.isalpha()}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "GREEK"}:
            found.append(word)
    return found


def blobs(text: str) -> Iterator[tuple[str, str]]:
    """Encoded runs, each with what it decodes to (empty where that is no text)."""
    for match in _BLOB.finditer(text):
        run = match[0]
        decoded = _decoded(run)
        mixed = len({c.islower() + 2 * c.isupper() + 4 * c.isdigit() for c in run}) > 2
        if decoded or (len(run) >= 40 and mixed):
            yield run, decoded


def _decoded(run: str) -> str:
    tries = []
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", run):
        tries.append(bytes.fromhex(run))
    if "\\x" in run:
        tries.append(bytes.fromhex(run.replace("\\x", "")))
    try:
        tries.append(base64.b64decode(run + "=" * (-len(run) % 4), altchars=None, validate=True))
        tries.append(base64.urlsafe_b64decode(run + "=" * (-len(run) % 4)))
    except (binascii.Error, ValueError):
        pass
    for data in tries:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) >= 6 and all(c.isprintable() or c in "\n\t" for c in text):
            return text
    return ""


def sentences(text: str) -> Iterator[str]:
    """Sentences of at least three words, markup taken away."""
    for part in _SENTENCE.split(MARKUP.sub(" ", text)):
        told = " ".join(part.split()).strip(" -*#:")
        if len(_WORDS.findall(told)) >= 3 or _dense(told):
            yield told


def _dense(text: str) -> bool:
    """A sentence of a script that puts no blanks between words."""
    return sum("\u2e80" <= c <= "\uffdc" or "\u0e00" <= c <= "\u0e7f" for c in text) >= 6


def fingerprint(sentence: str) -> str:
    """The first 16 hex digits of a sentence's SHA-256, letter case and blanks aside."""
    folded = " ".join(sentence.casefold().split())
    return hashlib.sha256(folded.encode()).hexdigest()[:16]
