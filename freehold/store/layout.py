"""A model's files under their own names, for tools that look at a folder.

The vault names files by digest. Hard links give them back their names without a copy; they lie
beside the blobs, on the same file system, for as long as the work takes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from freehold.store.manifest import Manifest
from freehold.store.vault import Store, disk_errors


@contextlib.contextmanager
def laid_out(store: Store, manifest: Manifest) -> Iterator[Path]:
    """A folder that holds the model's files and nothing else; gone at the end. Bytes are not
    checked. Raises ``StorageError``."""
    name = manifest.name.replace("/", "_").replace(":", "_")
    with contextlib.ExitStack() as stack:
        with disk_errors(store.root, "The model's files could not be linked beside its blobs."):
            scratch = stack.enter_context(
                tempfile.TemporaryDirectory(dir=store.blobs.parent, prefix="layout-")
            )
            folder = Path(scratch) / name
            for file in manifest.files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.hardlink_to(store.blob(file.sha256))
        yield folder
