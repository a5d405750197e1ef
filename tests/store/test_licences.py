from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.store import licences
from freehold.store.licences import KNOWN, UNKNOWN_LICENCE, of_card
from freehold.store.sources import FolderSource, Wanted


@pytest.mark.parametrize(
    ("published", "id", "commercial"),
    [
        (("apache-2.0", None), "Apache-2.0", "yes"),
        (("MIT", None), "MIT", "yes"),
        (("other", "qwen"), "LicenseRef-Qwen", "on condition"),
        (("other", "tongyi-qianwen"), "LicenseRef-Qwen", "on condition"),
        (("other", "qwen-research"), "LicenseRef-Qwen-Research", "no"),
        (("other", "mine"), "NOASSERTION", "unknown"),
        ((None, None), "NOASSERTION", "unknown"),
        ((["mit"], {}), "NOASSERTION", "unknown"),
    ],
)
def test_what_hubs_publish(published: tuple[object, object], id: str, commercial: str) -> None:
    found = licences.about(licences.published(*published))
    assert (found.id, found.commercial) == (id, commercial)


def test_the_facts_that_matter_are_told() -> None:
    assert "100 million monthly active users" in "\n".join(licences.told("LicenseRef-Qwen"))
    assert "NO commercial use" in licences.told("LicenseRef-Qwen-Research")[0]
    assert "read it before" in "\n".join(licences.told("GPL-3.0-only"))
    assert "ask its publisher" in "\n".join(licences.told("NOASSERTION"))


def test_every_licence_of_the_catalog_is_known() -> None:
    from freehold.store.catalog import catalog

    assert {model.licence for model in catalog().values()} <= set(licences.KNOWN)


@pytest.mark.parametrize(
    ("card", "id"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "Apache-2.0"),
        ("\ufeff---\r\nlanguage:\r\n- id\r\nlicense: 'mit'\r\n---\r\n", "MIT"),
        (
            "---\nlicense: other\nlicense_name: \"qwen-research\"  # ask\n---\n",
            "LicenseRef-Qwen-Research",
        ),
        ("---\nlicense: apache-2.0\nlicense: mit\n---\n", "Apache-2.0"),
        ("---\nlicense: my-own\n---\n", UNKNOWN_LICENCE),
        ("---\nlicense: apache-2.0\n", UNKNOWN_LICENCE),  # the block has no end
        ("---\nmodels:\n  license: apache-2.0\n---\n", UNKNOWN_LICENCE),  # of something else
        ("# Card\n---\nlicense: apache-2.0\n---\n", UNKNOWN_LICENCE),
        ("", UNKNOWN_LICENCE),
    ],
)  # fmt: skip
def test_what_a_model_card_states(card: str, id: str) -> None:
    assert of_card(card) == id


@given(st.text())
def test_any_card_gives_a_known_licence_or_none(text: str) -> None:
    for card in (text, f"---\n{text}\n---\n", f"---\nlicense: {text}\n---\n"):
        assert of_card(card) in {*KNOWN, UNKNOWN_LICENCE}


def test_a_folder_has_the_licence_of_its_card(tmp_path: Path) -> None:
    wanted = Wanted(name="x", folder=tmp_path)
    (tmp_path / "README.md").write_bytes(b"---\nlicense: apache-2.0\n---\n\xff")
    assert FolderSource(tmp_path).listing(wanted).licence == "Apache-2.0"
    assert FolderSource(tmp_path, licence="MIT").listing(wanted).licence == "MIT"
    (tmp_path / "README.md").unlink()
    assert FolderSource(tmp_path).listing(wanted).licence == UNKNOWN_LICENCE
    (tmp_path / "README.md").mkdir()
    assert FolderSource(tmp_path).listing(wanted).licence == UNKNOWN_LICENCE
