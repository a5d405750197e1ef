"""What a passport may say: in-toto statements about one model, one kind of predicate each.

A statement's subject is the model, known by its digest; its predicate is one of the classes below.
Every member is required, none may be added, and texts, lists and numbers are bounded: what Freehold
cannot understand whole, it does not half-believe. Times are RFC 3339 in UTC; digests are
``sha256:`` and 64 hex digits.

Source: in-toto attestation framework, Statement v1 and DSSE payload type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

import msgspec

from freehold import strictjson
from freehold.errors import MalformedError, UsageError
from freehold.signing import dsse
from freehold.signing.dsse import Envelope
from freehold.signing.keys import SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATES = "https://freehold.example/passport/{kind}/v1"
"""``.example`` can never be anybody's: it names, and leads nowhere (docs/passport.md describes)."""

MAX_PAYLOAD = 2 << 20
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096)]
Word: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Hex: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Time: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
Until: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?\Z")]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]

SEVERITIES = ("info", "low", "medium", "high", "critical")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class File(_Part, frozen=True):
    """One file of the model; its size is in bytes."""

    path: Word
    size: Size
    sha256: Hex
    blake3: Hex


class Named(_Part, frozen=True):
    """Something known by its digest: another model, a delta, a data set, a report."""

    name: Word
    digest: Digest


class Finding(_Part, frozen=True):
    """One result of an audit."""

    severity: Literal["info", "low", "medium", "high", "critical"]
    title: Word
    detail: Text


class Predicate(_Part, frozen=True):
    """What every kind has: ``made`` is when it was said."""

    kind: ClassVar[str]
    made: Time

    def gist(self) -> str:
        """What it says, in one line."""
        raise NotImplementedError


class Source(Predicate, frozen=True):
    """Where the bytes came from, on whose word, and every digest."""

    kind = "source"
    source: Word
    repository: Text
    revision: Text
    attested: Literal["catalog", "hub", "owner"]
    admitted: Time
    files: Annotated[tuple[File, ...], msgspec.Meta(min_length=1, max_length=10_000)]

    def gist(self) -> str:
        return f"{self.source} {self.repository}, {len(self.files)} files"


class LicenceSaid(Predicate, frozen=True):
    """Under which licence the model is: an SPDX id or ``LicenseRef-`` name."""

    kind = "licence"
    licence: Word
    commercial: Literal["yes", "no", "on condition", "unknown"]
    facts: Annotated[tuple[Text, ...], msgspec.Meta(max_length=50)]

    def gist(self) -> str:
        return f"{self.licence}; commercial use: {self.commercial}"


class Lineage(Predicate, frozen=True):
    """How the model was made out of others: ``parents`` by their model digests, ``deltas`` what was
    added (an adapter's weights, a calibration set)."""

    kind = "lineage"
    relation: Literal["base", "adapter", "merge", "quantisation", "training"]
    parents: Annotated[tuple[Named, ...], msgspec.Meta(max_length=64)]
    deltas: Annotated[tuple[Named, ...], msgspec.Meta(max_length=64)]
    tool: Word

    def gist(self) -> str:
        parents = ", ".join(parent.name for parent in self.parents)
        return f"{self.relation} of {parents or 'nothing'}, by {self.tool}"


class Closeness(_Part, frozen=True):
    """Mean KL in nats per token to the source's own values, over ``tokens`` tokens of the text with
    digest ``text``, with ``reference`` computing the source."""

    kl: float
    tokens: Size
    text: Digest
    reference: Word


class Packing(Predicate, frozen=True):
    """The model's weights as the kernels hold them: made from the model by the recipe ``layout``
    and the choice ``weights``, ``size`` bytes with BLAKE3 ``blake3``. Whoever packs the same model
    by the same recipe gets the same bytes."""

    kind = "packing"
    layout: Word
    weights: Literal["file", "8bit", "4bit"]
    size: Size
    blake3: Hex
    quality: Closeness | None
    tool: Word

    def gist(self) -> str:
        kl = "" if self.quality is None else f", mean KL {self.quality.kl:g} nats per token"
        return f"{self.weights} by {self.layout}, BLAKE3 {self.blake3[:16]}{kl}"


class Audit(Predicate, frozen=True):
    """An examination: ``scope`` is what was looked at (``artefact``: the files themselves)."""

    kind = "audit"
    scope: Word
    tool: Word
    findings: Annotated[tuple[Finding, ...], msgspec.Meta(max_length=1000)]
    report: Named | None

    def gist(self) -> str:
        severities = sorted((f.severity for f in self.findings), key=SEVERITIES.index)
        worst = f", the worst {severities[-1]}" if severities else ""
        return f"{self.scope}: {len(severities)} findings{worst}, by {self.tool}"


class Eval(Predicate, frozen=True):
    """Scores on a task; ``data`` is the set that they were measured on."""

    kind = "eval"
    task: Word
    tool: Word
    data: Named | None
    scores: Annotated[dict[Word, float], msgspec.Meta(min_length=1, max_length=100)]

    def gist(self) -> str:
        scores = ", ".join(f"{name} {value:g}" for name, value in self.scores.items())
        return f"{self.task}: {scores}"


class Adaptation(Predicate, frozen=True):
    """A training run of the owner's: its method, its data, and its evals before and after."""

    kind = "adaptation"
    method: Word
    data: Annotated[tuple[Named, ...], msgspec.Meta(max_length=1000)]
    evals: Annotated[tuple[Named, ...], msgspec.Meta(max_length=100)]
    settings: Annotated[dict[Word, Text], msgspec.Meta(max_length=200)]

    def gist(self) -> str:
        return f"{self.method} on {len(self.data)} data sets"


class Gated(Predicate, frozen=True):
    """An adapted model against its base on the same items: whether it kept the owner's margins.
    ``report`` is the report's digest; ``figures`` are its values before and after."""

    kind = "gated"
    base: Named
    passed: bool
    report: Named
    tool: Word
    figures: Annotated[dict[Word, float], msgspec.Meta(min_length=1, max_length=400)]

    def gist(self) -> str:
        verdict = "passed" if self.passed else "refused"
        return f"{verdict} against {self.base.name}, by {self.tool}"


class Approval(Predicate, frozen=True):
    """A person's word that the model may be used for ``purpose``, or may not any longer.
    ``expires`` is empty for never."""

    kind = "approval"
    decision: Literal["approve", "withdraw"]
    purpose: Literal["serve", "publish"]
    expires: Until
    reason: Text

    def gist(self) -> str:
        until = f" until {self.expires}" if self.expires else ""
        return f"{self.decision} for {self.purpose}{until} {self.reason}".rstrip()


class ReleasedPart(_Part, frozen=True):
    """One component of a release: its licence, where others get it, and the digest over its
    files."""

    component: Word
    licence: Word
    where: Text
    digest: Digest


class Released(Predicate, frozen=True):
    """What was published with the model, by the components of a ``framework`` (``openness``)."""

    kind = "released"
    framework: Word
    parts: Annotated[tuple[ReleasedPart, ...], msgspec.Meta(max_length=40)]

    def gist(self) -> str:
        return f"{len(self.parts)} components of {self.framework}"


class Weights(Predicate, frozen=True):
    """The weights' signature in the OpenSSF Model Signing format, whole, and the SHA-256 of its
    bytes."""

    kind = "weights"
    format: Literal["https://model_signing/signature/v1.0"]
    sha256: Hex
    bundle: Annotated[str, msgspec.Meta(max_length=1 << 20)]

    def gist(self) -> str:
        return f"OpenSSF model signature, SHA-256 {self.sha256[:16]}"


KINDS: dict[str, type[Predicate]] = {
    predicate.kind: predicate
    for predicate in (
        Source,
        LicenceSaid,
        Lineage,
        Packing,
        Audit,
        Eval,
        Adaptation,
        Gated,
        Approval,
        Released,
        Weights,
    )
}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A predicate about the model ``name`` with ``digest`` (``sha256:`` and hex)."""

    name: str
    digest: str
    predicate: Predicate


def now() -> str:
    """This moment, as statements write it."""
    return datetime.now(UTC).strftime(_TIME)


def moment(text: str) -> datetime:
    """The moment that a checked ``Time`` names."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def about(name: str, digest: str, said: Predicate, *keys: SigningKey) -> Envelope:
    """``said`` of the model ``name`` with ``digest``, in an envelope signed by ``keys``.

    Raises ``UsageError``, and ``MalformedError`` for what would not be read again.
    """
    statement = Statement(name=name, digest=digest, predicate=said)
    payload = strictjson.canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": statement.name,
                    "digest": {"sha256": statement.digest.removeprefix("sha256:")},
                }
            ],
            "predicateType": PREDICATES.format(kind=said.kind),
            "predicate": msgspec.to_builtins(statement.predicate),
        }
    )
    envelope = dsse.sign(PAYLOAD_TYPE, payload, *keys)
    if read(envelope, file="the new statement") != statement:
        raise MalformedError("the new statement does not survive reading", file="statement")
    return envelope


def read(envelope: Envelope, *, file: str) -> Statement:
    """What an envelope states. Signatures are not checked. Raises ``MalformedError`` naming
    ``file``."""

    def refuse(reason: str) -> MalformedError:
        return MalformedError(f"{file}: {reason}", file=file)

    if envelope.payload_type != PAYLOAD_TYPE:
        raise refuse(f"the envelope holds {envelope.payload_type[:80]!r}, not {PAYLOAD_TYPE}")
    value = strictjson.parse(envelope.payload, file=file, max_bytes=MAX_PAYLOAD)
    members = {"_type", "subject", "predicateType", "predicate"}
    if not isinstance(value, dict) or set(value) != members or value["_type"] != STATEMENT_TYPE:
        raise refuse("the envelope holds no in-toto statement (v1)")
    name, digest = _subject(value["subject"], refuse)
    types = {PREDICATES.format(kind=kind): predicate for kind, predicate in KINDS.items()}
    made = value["predicateType"]
    if not isinstance(made, str) or made not in types:
        raise refuse(f"a statement of unknown kind {str(made)[:120]!r}")
    return Statement(
        name=name, digest=digest, predicate=predicate_of(types[made], value["predicate"], file=file)
    )


def predicate_of(kind: type[Predicate], value: Any, *, file: str) -> Predicate:
    """A predicate out of plain JSON. Raises ``MalformedError`` naming the member."""
    try:
        predicate = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise MalformedError(
            f"{file}: not a statement of {kind.kind}: {error}", file=file
        ) from None
    for member in ("made", "admitted", "expires"):
        _check_time(getattr(predicate, member, ""), member, file)
    if not all(map(math.isfinite, _figures(predicate))):
        raise MalformedError(f"{file}: a figure is not a finite number", file=file)
    return predicate


def _figures(predicate: Predicate) -> Iterable[float]:
    if isinstance(predicate, Eval):
        return predicate.scores.values()
    if isinstance(predicate, Gated):
        return predicate.figures.values()
    measured = isinstance(predicate, Packing) and predicate.quality
    return [measured.kl] if measured else []


def kind_named(kind: str) -> type[Predicate]:
    """The predicate class of a kind's name. Raises ``UsageError``."""
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no kind of statement: take {', '.join(KINDS)}", param="kind")
    return KINDS[kind]


def _check_time(text: str, member: str, file: str) -> None:
    try:
        if text:
            moment(text)
    except ValueError:
        raise MalformedError(f"{file}: {member} {text!r} is no time", file=file) from None


def _subject(value: Any, refuse: Any) -> tuple[str, str]:
    try:
        ((name, digest),) = [(entry["name"], entry["digest"]) for entry in value]
        whole = set(value[0]) == {"name", "digest"} and set(digest) == {"sha256"}
        sha256 = digest["sha256"]
    except (TypeError, ValueError, KeyError, IndexError):
        whole, name, sha256 = False, "", ""
    sound = isinstance(name, str) and isinstance(sha256, str) and len(sha256) == 64
    if not whole or not sound or not set(sha256) <= set("0123456789abcdef"):
        raise cast("MalformedError", refuse("its subject is not one model with one SHA-256"))
    return name, f"sha256:{sha256}"
