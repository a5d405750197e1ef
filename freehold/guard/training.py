"""Train the fast tier: labelled texts in, quantised weights out, the same bits for the same input.

Each head is a logistic regression of one kind of attack against harmless text, all fitted at once
by L-BFGS on whole passes (no chance is involved). What a set, a language or a long text weighs is
bounded, so that the heads learn what all attacks share and not how one collection or language
looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from freehold.guard import features, synthetic
from freehold.guard.corpus import DataSet, Row
from freehold.guard.fast import CATEGORIES, Model, load, save, windows
from freehold.guard.normalise import canonical

Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None]


def ignored(n: int) -> None:
    """Progress that nobody wants to hear of."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, besides the texts.

    ``inverse_penalty`` is the C of a logistic regression; ``iterations`` of L-BFGS at most;
    ``set_power`` is how a set's weight grows with its size (0: all alike, 1: by rows);
    ``synthetic`` are texts of each kind and language that we write ourselves: in English
    ``english`` times as many, in languages with a short bank ``others`` times; ``twins`` texts of
    each line of our pairs of requests, those of other languages than English at ``twin_weight``;
    ``requests`` texts of each line of our ordinary requests, English ones at ``request_weight``
    and others at ``request_weight * twin_weight``;
    ``longest`` is where a training text is cut, in characters.
    """

    inverse_penalty: float = 1.0
    iterations: int = 60
    set_power: float = 0.5
    synthetic_weight: float = 1.0
    synthetic: tuple[tuple[synthetic.Kind, int], ...] = (
        ("harmful", 450),
        ("injection", 350),
        ("jailbreak", 220),
        ("toxicity", 220),
        ("benign", 700),
    )
    english: float = 4.0
    others: float = 0.5
    twins: int = 8
    twin_weight: float = 0.3
    requests: int = 4
    request_weight: float = 4.0
    longest: int = 6000
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The texts of one set and kind as features. ``rows`` has a row per window, sparse n-grams or
    a probe's dense hidden states; ``owner`` says
    which text a window is of; ``language`` and ``share`` (one over the text's windows) go with
    the windows. ``family`` is ``None`` for what is never left out; what is not ``trainable`` is
    only ever measured on."""

    name: str
    family: str | None
    trainable: bool
    kind: synthetic.Kind
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    rows: Any
    owner: npt.NDArray[np.int64]
    language: npt.NDArray[np.str_]
    share: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """Weights before they are rounded: (heads, 2**BITS) and (heads,), float32."""

    weights: Floats
    biases: Floats


def write_own(
    sets: Sequence[DataSet], language: str, recipe: Recipe
) -> list[tuple[synthetic.Kind, list[str]]]:
    """Our own texts of one language, by kind."""
    carriers = [
        row.text[:1200]
        for each in sets
        if each.name in ("benign_prose", "p3_sample")
        for row in each.rows[:700]
    ]
    times = recipe.english if language == "en" else 1
    if language in synthetic.MORE_LANGUAGES:
        times = recipe.others
    return [
        (
            kind,
            synthetic.texts(kind, language, int(n * times), seed=recipe.seed, carriers=carriers),
        )
        for kind, n in recipe.synthetic
    ]


Named = tuple[str, str | None, bool, synthetic.Kind]
"""A group's name, its family, whether it may be trained on, and its kind."""


def prepare(
    sets: Sequence[DataSet], recipe: Recipe, start: Progress = ignored, progress: Progress = ignored
) -> list[Group]:
    """Every text as features: the sets', and our own. ``start`` hears how many texts there are,
    ``progress`` of each."""
    listed = [(named, rows) for each in sets for named, rows in _of_set(each)]
    listed += _our_own(sets, recipe)
    start(sum(len(rows) for _, rows in listed))
    return [group_of(named, rows, recipe.longest, progress) for named, rows in listed]


def _of_set(each: DataSet) -> Iterator[tuple[Named, tuple[Row, ...]]]:
    for kind, rows, family in kinds_of(each):
        yield (each.name, family, each.ship_ok, kind), rows


def _our_own(sets: Sequence[DataSet], recipe: Recipe) -> Iterator[tuple[Named, tuple[Row, ...]]]:
    for language in synthetic.LANGUAGES + synthetic.MORE_LANGUAGES:
        for kind, texts in write_own(sets, language, recipe):
            yield _own("own_", kind, language, texts)
    for language in synthetic.TWIN_LANGUAGES if recipe.twins else ():
        for kind, texts in synthetic.twins(language, recipe.twins, seed=recipe.seed).items():
            yield _own(_TWIN, kind, language, texts)
    for language in synthetic.REQUEST_LANGUAGES if recipe.requests else ():
        texts = synthetic.requests(language, recipe.requests, seed=recipe.seed)
        yield _own(_REQUEST, "benign", language, texts)


def _own(
    prefix: str, kind: synthetic.Kind, language: str, texts: Sequence[str]
) -> tuple[Named, tuple[Row, ...]]:
    rows = tuple(Row(text=text, kind=kind, language=language) for text in texts)
    return (f"{prefix}{kind}_{language}", None, True, kind), rows


_TWIN = "own_twin_"
_REQUEST = "own_request_"


def kinds_of(each: DataSet) -> Iterator[tuple[synthetic.Kind, tuple[Row, ...], str | None]]:
    """A set's rows by kind, and the family that they are left out with, if they ever are."""
    family = each.family if each.name.startswith(_OF_GUARD) else None
    for kind in _KINDS:
        if rows := each.of(kind):
            yield kind, rows, family


_KINDS: tuple[synthetic.Kind, ...] = ("benign", "injection", "jailbreak", "harmful", "toxicity")
_OF_GUARD = ("attack_", "benign_", "harmful_", "toxic_", "seahelm_")


def group_of(
    named: Named,
    texts: Sequence[Row],
    longest: int,
    progress: Progress,
) -> Group:
    """The texts of one set and kind as n-grams."""
    places, values, ends, owner = [], [], [0], []
    for i, row in enumerate(texts):
        for piece in windows(canonical(row.text[:longest])):
            found, value = features.places(piece)
            places.append(found.astype(np.int32))
            values.append(value)
            ends.append(ends[-1] + len(found))
            owner.append(i)
        progress(1)
    owners = np.array(owner)
    name, family, trainable, kind = named
    languages = tuple(row.language for row in texts)
    return Group(
        name=name,
        family=family,
        trainable=trainable,
        kind=kind,
        texts=tuple(row.text for row in texts),
        languages=languages,
        rows=csr_matrix(
            (np.concatenate(values), np.concatenate(places), ends),
            shape=(len(owner), 1 << features.BITS),
        ),
        owner=owners,
        language=np.array(languages)[owners],
        share=(1 / np.bincount(owners)[owners]).astype(np.float32),
    )


def fit(
    groups: Sequence[Group],
    recipe: Recipe,
    *,
    without: Collection[str] = (),
    skip: Collection[tuple[str, int]] = (),
) -> Heads:
    """Heads trained on every group whose family is not in ``without``; of the rest, the texts in
    ``skip`` (group, index) are left out too: twins of what is held out."""
    kept = [group for group in groups if group.trainable and group.family not in without]
    left_out: dict[str, list[int]] = {}
    for name, index in skip:
        left_out.setdefault(name, []).append(index)
    kind = np.concatenate([np.full(len(group.owner), group.kind) for group in kept])
    language = np.concatenate([group.language for group in kept])
    base = np.concatenate([weigh(group, recipe, left_out.get(group.name, [])) for group in kept])
    weight = np.zeros((len(base), len(CATEGORIES)), np.float32)
    harmless = kind == "benign"
    for head, category in enumerate(CATEGORIES):
        attacks = kind == category
        ours, theirs = base[attacks], base[harmless]
        balance(ours, language[attacks], theirs, language[harmless])
        weight[attacks, head], weight[harmless, head] = ours, theirs
    sign = np.where(harmless, -1, 1).astype(np.float32)[:, None]
    used = weight.any(axis=1)
    x = vstack([group.rows for group in kept]).tocsr()[used]
    return _minimise(x, sign[used], weight[used], recipe)


def weigh(group: Group, recipe: Recipe, left_out: Sequence[int]) -> Floats:
    """What each row weighs: all of a set by a power of its size, the texts ``left_out`` nothing."""
    weight = group.share * np.float32(len(group.texts) ** (recipe.set_power - 1))
    if group.name.startswith("own_"):
        weight = weight * np.float32(recipe.synthetic_weight)
    if group.name.startswith(_REQUEST):
        weight = weight * np.float32(recipe.request_weight)
    if group.name.startswith((_TWIN, _REQUEST)) and not group.name.endswith("_en"):
        weight = weight * np.float32(recipe.twin_weight)
    if left_out:
        weight = np.where(np.isin(group.owner, left_out), np.float32(0), weight)
    return weight


_ENOUGH = 40
"""Harmless windows of a language, below which its attacks are not used: else the language itself
would be what is learnt."""


def balance(
    attacks: Floats,
    of_attacks: npt.NDArray[np.str_],
    harmless: Floats,
    of_harmless: npt.NDArray[np.str_],
) -> None:
    """Both sides weigh one half, and no language more among attacks than among harmless texts."""
    attacks /= attacks.sum()
    harmless /= harmless.sum()
    for language in np.unique(of_attacks):
        here, there = of_attacks == language, of_harmless == language
        if there.sum() < _ENOUGH:
            attacks[here] = 0
        elif attacks[here].sum() > harmless[there].sum():
            attacks[here] *= harmless[there].sum() / attacks[here].sum()
    attacks /= 2 * attacks.sum()
    harmless /= 2


def _minimise(x: csr_matrix, sign: Floats, weight: Floats, recipe: Recipe) -> Heads:
    """All heads in one go, so that the texts are read once for all of them: ``x`` (windows,
    places), ``sign`` (windows, 1), ``weight`` (windows, heads), 0 where a head does not learn from
    a window."""
    # A place that one window alone has cannot tell anything about another.
    often = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]) >= 2)
    x = x[:, often]
    x_t = x.T.tocsr()
    windows_of_head = (weight > 0).sum(axis=0)
    telling = _telling(x_t, sign, weight, windows_of_head)
    penalty = 1 / (recipe.inverse_penalty * windows_of_head)
    shape = (len(often) + 1, weight.shape[1])

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        point = flat.reshape(shape)
        raw = x @ (telling * point[:-1]).astype(np.float32)
        margin = sign * (raw + point[-1].astype(np.float32))
        slope = -sign * weight * expit(-margin)
        value = float(np.vdot(weight, np.logaddexp(0, -margin)))
        value += float((penalty / 2 * np.square(point[:-1]).sum(axis=0)).sum())
        gradient = np.empty(shape)
        gradient[:-1] = telling * (x_t @ slope) + penalty * point[:-1]
        gradient[-1] = slope.sum(axis=0)
        return value, gradient.ravel()

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": recipe.iterations, "maxcor": 6}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
    weights = np.zeros((shape[1], 1 << features.BITS), np.float32)
    weights[:, often] = (found[:-1] * telling).T
    return Heads(weights=weights, biases=found[-1].astype(np.float32))


def _telling(
    x_t: csr_matrix, sign: Floats, weight: Floats, windows_of_head: npt.NDArray[np.int64]
) -> Floats:
    """(places, heads): how much each place alone tells, the size of the logarithm of how much more
    often attacks have it than harmless texts, or the other way round. Features scaled by it let the
    penalty fall on what is common to both (Wang and Manning, "Baselines and bigrams", 2012)."""
    there = csr_matrix((np.ones_like(x_t.data), x_t.indices, x_t.indptr), shape=x_t.shape)
    smooth = _SMOOTH / windows_of_head
    attacks = there @ np.where(sign > 0, weight, 0) + smooth
    harmless = there @ np.where(sign < 0, weight, 0) + smooth
    found: Floats = np.abs(np.log(attacks / harmless)).astype(np.float32)
    return found


_SMOOTH = 3.0
"""Windows of mean weight that each side is taken to have more of everything."""


def quantise(heads: Heads, offsets: Floats, card: dict[str, object]) -> Model:
    """Eight-bit weights with one scale per head. ``offsets`` (heads,) are the logits that become 0.
    The codes' range is the weights' 99.99th percentile of size: a few larger ones are clipped."""
    used = np.abs(heads.weights)
    scales = np.array(
        [np.quantile(row[row > 0], 0.9999) / 127 if row.any() else 1 for row in used], np.float32
    )
    codes = np.clip(np.rint(heads.weights / scales[:, None]), -127, 127).astype(np.int8)
    model = Model(
        codes=codes, scales=scales, biases=(heads.biases - offsets).astype(np.float32),
        card=dict(card), digest="",
    )  # fmt: skip
    return load(save(model), name="the weights just trained")
