"""The gate at the door: what ``freehold.toml`` asks of a model before it is served or published.

It speaks twice. ``foresee`` looks at the digests that the vault states, before an engine loads a
byte; ``admit`` at what was verified, before anything is served.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.cli.output import say
from freehold.cli.places import pack_secret, root
from freehold.cli.settings import Settings
from freehold.cli.trust import demand, trusted
from freehold.errors import GateError

if TYPE_CHECKING:
    from freehold.store import Manifest, Store
    from freehold.store.gate import Purpose
    from freehold.store.policy import Policy
    from freehold.types import VerifiedModel


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the engine is told of the model that guesses ahead: the setting, and the only digest
    that it may have (empty where no gate asks)."""

    name: str
    digest: str = ""


def foresee(settings: Settings) -> Draft:
    """Refuse at once what ``[gate]`` would refuse later, and say which model may guess ahead.

    A draft must pass as the model itself must: one that is named is refused, one that ``auto`` has
    found is left out, and why is said. The model's own chat template is left to ``admit``: opening
    it takes longer than the engine should wait. Raises as ``admit``, ``IntegrityError`` and
    ``NotFoundError``.
    """
    policy = settings.gate
    if not policy.asks:
        return Draft(name=settings.draft)
    from freehold.engine.candidate import draft_candidate
    from freehold.store import Store

    store = Store(root())
    model = store.manifest(settings.model)
    try:
        _judge(model, "", settings, replace(policy, known_template=False), "serve")
    except GateError:
        if policy.known_template:  # nobody waits any more, and all that is missing is named
            _judge(model, _template(store, model.name), settings, policy, "serve")
        raise
    name = draft_candidate(store, settings)
    if name is None:
        return Draft(name="off")
    found = store.manifest(name)
    try:
        template = _template(store, name) if policy.known_template else ""
        _judge(found, template, settings, policy, "serve")
    except GateError as error:
        if settings.draft != "auto":
            raise GateError(
                f"the draft model must pass the gate too: {error}", missing=error.missing
            ) from None
        say(
            f"{name} does not guess ahead: [gate] asks for what it does not have "
            f"({', '.join(error.missing)}); `--draft {name}` says what to do"
        )
        return Draft(name="off")
    return Draft(name=settings.draft, digest=found.digest)


def admit(model: VerifiedModel, settings: Settings, purpose: Purpose) -> None:
    """Return if the policy for ``purpose`` lets a verified model pass.

    Raises ``GateError`` naming everything that is missing and the command that provides it,
    ``UsageError`` for a policy that speaks of keys nobody named, and whatever is wrong with the
    passport.
    """
    policy = {"serve": settings.gate, "publish": settings.publish}[purpose]
    if not policy.asks and purpose == "serve":
        return  # no key folder, no passport need exist
    from freehold.qwen.template import digest_of

    if purpose == "publish":
        _compared(model)

    _judge(model, digest_of(model), settings, policy, purpose)


def gate_folder(digest: str) -> Path:
    """Where the comparison of an adapted model with its base lies, whoever has signed it or not."""
    return root() / "gates" / digest.removeprefix("sha256:")[:32]


def _compared(model: VerifiedModel) -> None:
    """Refuse what this machine has itself found worse than its base, though nobody signed that."""
    from freehold.adapt.gate import decode

    path = gate_folder(model.digest) / "gate.json"
    if not path.exists():
        return
    report = decode(path.read_bytes(), file=str(path))
    if report.digest == model.digest and not report.passed:
        lost = ", ".join(row.name for row in report.rows if row.passed is False)
        raise GateError(
            f"{model.name} is not published: against {report.base} it does not keep [adapt]'s "
            f"margins ({lost}). See {path.with_name('gate.html')}; adapt again, with --replay or "
            "less, and compare again with `freehold adapt gate`",
            missing=("gated",),
        )


def _judge(
    model: VerifiedModel | Manifest,
    template: str,
    settings: Settings,
    policy: Policy,
    purpose: Purpose,
) -> None:
    from freehold.store import Manifest, Store, gate, passport
    from freehold.store.verify import check_pins

    if isinstance(model, Manifest):
        check_pins(model)  # or it could call itself the catalog's
    trust = trusted(settings)
    demand(trust, policy.keys, {"serve": "gate", "publish": "publish"}[purpose])
    gate.check(
        gate.Candidate(
            name=model.name,
            digest=model.digest,
            licence=model.licence,
            attested=model.attested,
            template=template,
        ),
        passport.read(Store(root()), model.digest, trust),
        policy,
        purpose,
        datetime.now(UTC),
    )


def _template(store: Store, name: str) -> str:
    """The digest of a model's chat template, out of its pack's head or its source."""
    from freehold.qwen.pack import LAYOUT
    from freehold.qwen.template import digest_of
    from freehold.store import Packs, verify

    head = Packs(store, pack_secret()).open_head(name, layout=LAYOUT)
    return digest_of(head or verify(store, name, keep=False))
