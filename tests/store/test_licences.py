from __future__ import annotations

import pytest

from freehold.store import licences


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
