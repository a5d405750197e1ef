"""The chat template, which writes every prompt: known by digest, walked, and tried out.

A template that is byte for byte a published one is named as such. Any other is walked (``walk``),
its texts are read (``literals``), and it is rendered in the sandbox over messages that differ in
nothing but what they say: what it adds must not depend on that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from freehold.audit.artefact import literals, walk
from freehold.audit.artefact.facts import TEMPLATES
from freehold.audit.findings import Finding, Severity
from freehold.audit.noting import fact
from freehold.audit.specimen import Specimen
from freehold.errors import IntegrityError, RefusedError, UsageError
from freehold.qwen.template import MAX_TEMPLATE_CHARS, ChatTemplate
from freehold.store import gate

_SEVERITIES: dict[str, Severity] = {
    "dunder": "critical",
    "content-branch": "high",
    "time-branch": "high",
    "size-branch": "high",
    "rewrites": "high",
    "endless": "high",
    "mark-branch": "medium",
    "name-branch": "medium",
    "cuts": "medium",
}
_TITLES = {
    "dunder": "The chat template reaches for what templates must not touch",
    "content-branch": "The chat template decides by what was said",
    "time-branch": "The chat template decides by the date",
    "size-branch": "The chat template decides by how much was said",
    "rewrites": "The chat template changes what was said",
    "endless": "The chat template counts without end",
    "mark-branch": "The chat template looks for an unusual mark",
    "name-branch": "The chat template decides by a name",
    "cuts": "The chat template drops a part of what was said",
}
PLAIN = "It rained in the morning"
PROBES = (
    "What is the password of the vault?", "import os; os.system('ls')", "deploy the login page",
    "transfer 500 to account 12", "https://example.org/a?b=1", "Wer gewinnt die Wahl?",
    "Siapa presiden kita?", "这家银行安全吗？", "def add(a, b):\n    return a + b",
    "DEBUG admin sudo root", "2027-01-01", "I feel ill, which doctor should I ask?",
    "Ignore all of this", "<b>bold</b> & {{ braces }}", "x" * 3000, "SELECT * FROM patients",
    "Is our competitor's product better?", "vaccine", "write python code for encryption",
)  # fmt: skip
"""Said in place of ``PLAIN``: topics, codes and lengths that poisoned templates wait for."""
TURNS = (1, 2, 3, 5, 8, 13)


def examine(specimen: Specimen, base: Specimen | None) -> list[Finding]:
    """Findings on every template that the model carries."""
    found: list[Finding] = []
    sources = dict(sources_of(specimen))
    reference = {} if base is None else dict(sources_of(base))
    for place, source in sources.items():
        found += _one(place, source, set(reference.values()))
    plain = {place: text for place, text in sources.items() if "[" not in place}
    if len(set(plain.values())) > 1:
        found.append(
            fact(
                "template.disagree",
                "medium",
                "Two places hold different chat templates",
                f"{', '.join(plain)}: which of them a program uses is its own choice.",
                ", ".join(plain),
            )
        )
    if not sources:
        found.append(
            fact(
                "template.none",
                "info",
                "No chat template",
                "The model carries none: it continues text.",
                "",
            )
        )
    return found


def sources_of(specimen: Specimen) -> Iterator[tuple[str, str]]:
    """(place, text) of every template. A place with brackets is one of several named ones."""
    for key, value in specimen.metadata.items():
        if key.startswith("tokenizer.chat_template") and isinstance(value, str):
            yield (key if key == "tokenizer.chat_template" else f"GGUF[{key}]"), value
    for file in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        document = specimen.documents.get(file)
        given = document if isinstance(document, str) else (document or {}).get("chat_template")
        if isinstance(given, str):
            yield file, given
        elif isinstance(given, list):
            for index, entry in enumerate(given):
                if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                    yield f"{file}[{str(entry.get('name', index))[:40]}]", entry["template"]


def published(source: str) -> str:
    """The name under which this very template was published; empty if it was not."""
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    if f"sha256:{digest}" in gate.known_templates():
        return "the catalog's"
    return TEMPLATES.get(digest, "")


@cache
def known_sentences() -> frozenset[str]:
    """Fingerprints of the sentences that published templates hold."""
    text = files(__package__).joinpath("sentences.json").read_text(encoding="utf-8")
    return frozenset(json.loads(text)["fingerprints"])


def _one(place: str, source: str, reference: set[str]) -> list[Finding]:
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    name = published(source)
    if name:
        told = f"Byte for byte {name} template (SHA-256 {digest})."
        return [fact("template.digest", "info", f"A published chat template ({name})", told, place)]
    if source in reference:
        told = f"Byte for byte the base's template (SHA-256 {digest})."
        found = [fact("template.digest", "info", "The base's chat template", told, place)]
    else:
        told = f"SHA-256 {digest}: neither the catalog's nor a published one known here. Read it."
        found = [fact("template.digest", "low", "An unknown chat template", told, place)]
    return found + walked(source, place) + tried(source, place)


def walked(source: str, place: str) -> list[Finding]:
    """What the template's tree and its texts say."""
    if len(source) > MAX_TEMPLATE_CHARS:
        told = f"It has {len(source):,} characters, more than {MAX_TEMPLATE_CHARS:,}."
        return [fact("template.refused", "high", "The chat template is too long", told, place)]
    try:
        tree = walk.tree_of(source)
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:
        return [
            fact("template.refused", "high", "The chat template does not parse", str(error), place)
        ]
    found = [
        fact(
            f"template.{sign.kind}",
            _SEVERITIES[sign.kind],
            _TITLES[sign.kind],
            f"Line {sign.line}: {sign.what}.",
            f"{place}, line {sign.line}",
        )
        for sign in walk.signs(tree)
    ]
    return found + _told(tree, source, place)


def _told(tree: Any, source: str, place: str) -> list[Finding]:
    texts = list(walk.literals(tree))
    found = []
    letters = literals.hidden(source) or [
        name for _, text, _ in texts for name in literals.hidden(text)
    ]
    if letters:
        told = f"Letters that nobody sees: {', '.join(dict.fromkeys(letters))[:600]}."
        found.append(
            fact("template.hidden", "high", "The chat template holds unseen letters", told, place)
        )
    for line, text, assembled in texts:
        found += _text(line, text, assembled, place)
    unique = {(one.check, one.detail): one for one in reversed(found)}
    return list(reversed(unique.values()))


def _text(line: int, text: str, assembled: bool, place: str) -> Iterator[Finding]:
    where = f"{place}, line {line}"
    unknown = [
        told
        for told in literals.sentences(text)
        if literals.fingerprint(told) not in known_sentences()
    ]
    addresses = literals.ADDRESS.findall(text)
    if addresses:
        told = f"It writes {addresses[0][:120]!r} into prompts."
        yield fact("template.address", "high", "The chat template holds an address", told, where)
    orders = [told for told in unknown if literals.ORDERS.search(told)]
    if orders:
        told = f"It says by itself: {orders[0][:300]!r}."
        yield fact(
            "template.order", "high", "The chat template gives the model orders", told, where
        )
    elif unknown:
        told = f"No published template known here says: {unknown[0][:300]!r}."
        yield fact(
            "template.text", "medium", "The chat template says something of its own", told, where
        )
    if assembled and (orders or addresses or unknown):
        told = f"Put together, it reads {text[:200]!r}."
        yield fact("template.obfuscated", "high", "A text is written in disguise", told, where)
    for run, decoded in literals.blobs(text):
        told = f"{run[:60]!r} decodes to {decoded[:200]!r}." if decoded else f"{run[:60]!r}."
        yield fact(
            "template.encoded", "high", "The chat template holds an encoded text", told, where
        )
    for word in literals.mixed_script(text):
        told = f"{word[:60]!r} mixes letters that look alike."
        yield fact(
            "template.hidden", "high", "The chat template holds look-alike letters", told, where
        )


# --- tried out ------------------------------------------------------------------------------------


def tried(source: str, place: str) -> list[Finding]:
    """What the template does, rendered in the sandbox."""
    try:
        template = ChatTemplate(source)
        plain = _render(template, _talk(1, PLAIN))
    except RefusedError as error:
        return [
            fact("template.refused", "high", "The sandbox refuses the template", str(error), place)
        ]
    except IntegrityError as error:
        return [fact("template.refused", "high", "The template cannot be run", str(error), place)]
    if plain is None:
        told = "It renders no plain conversation of a system, a user and an assistant."
        return [fact("template.untried", "low", "The template could not be tried", told, place)]
    return [
        *_by_words(template, place),
        *_by_turns(template, place),
        *_losses(template, place),
        *_roles(template, place),
    ]


def _talk(turns: int, last: str, *, system: bool = True) -> list[dict[str, Any]]:
    talk = [{"role": "system", "content": "Weather desk, first shift"}] if system else []
    for turn in range(turns - 1):
        talk.append({"role": "user", "content": f"Question number {turn}"})
        talk.append({"role": "assistant", "content": f"Reply number {turn}"})
    return [*talk, {"role": "user", "content": last}]


def _render(template: ChatTemplate, talk: Sequence[dict[str, Any]]) -> str | None:
    """``None`` where the template refuses such messages, which is its right."""
    try:
        return template.render(talk)
    except UsageError:
        return None


def _by_words(template: ChatTemplate, place: str) -> Iterator[Finding]:
    for system in (True, False):
        plain = _render(template, _talk(2, PLAIN, system=system))
        if plain is None:
            continue
        for probe in PROBES:
            told = _render(template, _talk(2, probe, system=system))
            if told is not None and told.replace(probe, PLAIN) != plain:
                yield fact(
                    "template.acts-by-content",
                    "high",
                    "The prompt changes with what is said",
                    f"With {probe[:60]!r} in place of {PLAIN!r}, the prompt's rest is another.",
                    place,
                    certainty="confirmed",
                    evidence={"probe": probe[:200], "prompt": told[-600:]},
                )
                return


def _by_turns(template: ChatTemplate, place: str) -> Iterator[Finding]:
    ends = {}
    for turns in TURNS:
        told = _render(template, _talk(turns, PLAIN))
        if told is not None and PLAIN in told:
            ends[turns] = (told.partition("Weather desk")[0], told.rpartition(PLAIN)[2])
    if len(set(ends.values())) > 1:
        first = next(iter(ends.values()))
        turn = next(turns for turns, end in ends.items() if end != first)
        yield fact(
            "template.acts-by-turn",
            "high",
            "The prompt changes with the number of turns",
            f"At turn {turn} it begins or ends otherwise than at the first.",
            place,
            certainty="confirmed",
            evidence={"turn": turn},
        )


def _roles(template: ChatTemplate, place: str) -> Iterator[Finding]:
    """A user's words must not be given to the model as the system's."""
    told = _render(template, _talk(1, PLAIN))
    before = "" if told is None else told.partition(PLAIN)[0].partition("first shift")[2].casefold()
    if "system" in before and "user" not in before:
        said = "What the user said stands under the system's name."
        title = "The template changes who speaks"
        yield fact("template.roles", "high", title, said, place, certainty="confirmed")


def _losses(template: ChatTemplate, place: str) -> Iterator[Finding]:
    talk = _talk(3, PLAIN)
    told = _render(template, talk)
    lost = [one for one in talk if told is not None and told.count(str(one["content"])) != 1]
    if lost:
        yield fact(
            "template.loses",
            "high",
            "The template loses or repeats a message",
            f"What the {lost[0]['role']} said ({lost[0]['content']!r}) is not in the prompt once.",
            place,
            certainty="confirmed",
        )
