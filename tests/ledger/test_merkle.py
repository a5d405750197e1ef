"""RFC 6962's tree against the RFC's own example, known roots, and a brute-force tree."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import IntegrityError, UsageError
from freehold.ledger import merkle

# The leaves and roots that certificate-transparency implementations are tested with.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def brute(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word, without a line of ours."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = max(2**i for i in range(64) if 2**i < len(leaves))
    return hashlib.sha256(b"\x01" + brute(leaves[:k]) + brute(leaves[k:])).digest()


def subtree_of(leaves: Sequence[bytes]) -> merkle.Subtree:
    return lambda height, place: brute(leaves[place << height : (place + 1) << height])


def names(leaves: Sequence[bytes], proof: Sequence[bytes]) -> str:
    """A proof in the letters of RFC 6962 section 2.1.3's figure."""
    figure = {
        **{brute([leaves[i]]): "abcdefj"[i] for i in range(7)},
        brute(leaves[0:2]): "g",
        brute(leaves[2:4]): "h",
        brute(leaves[4:6]): "i",
        brute(leaves[0:4]): "k",
        brute(leaves[4:7]): "l",
    }
    return "".join(figure[one] for one in proof)


def test_known_roots() -> None:
    tree = merkle.Frontier()
    assert tree.root() == hashlib.sha256(b"").digest()
    for data, root in zip(INPUTS, ROOTS, strict=True):
        list(tree.append(merkle.leaf_hash(data)))
        assert tree.root().hex() == root


def test_the_rfc_s_example_proofs() -> None:
    """Section 2.1.3: audit paths of d0, d3, d4, d6 and three consistency proofs of seven leaves."""
    leaves = [bytes([i]) for i in range(7)]
    subtree = subtree_of(leaves)
    paths = {i: names(leaves, merkle.inclusion(i, 7, subtree)) for i in (0, 3, 4, 6)}
    assert paths == {0: "bhl", 3: "cgl", 4: "fjk", 6: "ik"}
    proofs = {i: names(leaves, merkle.consistency(i, 7, subtree)) for i in (3, 4, 6)}
    assert proofs == {3: "cdgl", 4: "l", 6: "ijk"}


@pytest.mark.parametrize("size", range(1, 34))
def test_every_small_tree(size: int) -> None:
    leaves = [b"leaf %d" % i for i in range(size)]
    subtree = subtree_of(leaves)
    tree, seen = merkle.Frontier(), {}
    for leaf in leaves:
        seen.update({(h, p): root for h, p, root in tree.append(merkle.leaf_hash(leaf))})
    root = brute(leaves)
    assert tree.root() == root
    assert merkle.peaks(size, subtree) == tree.peaks
    assert all(found == subtree(height, place) for (height, place), found in seen.items())
    for i in range(size):
        proof = merkle.inclusion(i, size, subtree)
        merkle.check_inclusion(merkle.leaf_hash(leaves[i]), i, size, proof, root)
        for wrong in range(size):
            if wrong != i:
                with pytest.raises(IntegrityError):
                    merkle.check_inclusion(merkle.leaf_hash(leaves[i]), wrong, size, proof, root)
    for first in range(size + 1):
        old = brute(leaves[:first])
        proof = merkle.consistency(first, size, subtree)
        merkle.check_consistency(first, size, old, root, proof)
        for bad in ([*proof, bytes(32)], proof[:-1] if proof else [root]):
            with pytest.raises(IntegrityError):
                merkle.check_consistency(first, size, old, root, bad)
        with pytest.raises(IntegrityError):
            merkle.check_consistency(first, size, hashlib.sha256(b"x").digest(), root, proof)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), size=st.integers(1, 400))
def test_random_trees(data: st.DataObject, size: int) -> None:
    leaves = [i.to_bytes(2, "big") for i in range(size)]
    i = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion(i, size, subtree_of(leaves))
    merkle.check_inclusion(merkle.leaf_hash(leaves[i]), i, size, proof, brute(leaves))
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        damaged = [*proof[:place], bytes(32), *proof[place + 1 :]]
        with pytest.raises(IntegrityError):
            merkle.check_inclusion(merkle.leaf_hash(leaves[i]), i, size, damaged, brute(leaves))


@given(
    st.integers(-5, 50),
    st.integers(-5, 50),
    st.lists(st.binary(min_size=32, max_size=32), max_size=8),
)
def test_any_claim_is_refused_in_words(leaf: int, size: int, proof: list[bytes]) -> None:
    with pytest.raises(IntegrityError):
        merkle.check_inclusion(bytes(32), leaf, size, proof, b"\x01" * 32)
    with pytest.raises(IntegrityError):
        merkle.check_consistency(leaf, size, b"\x02" * 32, b"\x01" * 32, proof)


def test_proofs_of_what_is_not_there() -> None:
    with pytest.raises(UsageError):
        merkle.inclusion(3, 3, subtree_of([b""] * 3))
    with pytest.raises(UsageError):
        merkle.consistency(4, 3, subtree_of([b""] * 3))
