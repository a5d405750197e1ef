"""The dock and the vault: models come in through ``pull``, and out, checked, through ``verify``."""

from freehold.store.catalog import DEFAULT_MODEL, catalog_names
from freehold.store.fetch import Progress
from freehold.store.manifest import Manifest, ManifestFile
from freehold.store.packs import Packs, Quality, Record
from freehold.store.pull import pull
from freehold.store.sources import DEFAULT_SOURCES, FolderSource, Source, sources_from
from freehold.store.vault import Store, default_root
from freehold.store.verify import verify

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_SOURCES",
    "FolderSource",
    "Manifest",
    "ManifestFile",
    "Packs",
    "Progress",
    "Quality",
    "Record",
    "Source",
    "Store",
    "catalog_names",
    "default_root",
    "pull",
    "sources_from",
    "verify",
]
