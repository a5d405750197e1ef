"""Hugging Face and ModelScope: the only file that speaks to hubs.

Their own clients list files and name addresses; the bytes are streamed here, so that a download
resumes at any byte, has limits, and goes to quarantine and nowhere else. The clients are imported
only when a pull asks a hub: they take up to half a second.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from freehold import __version__
from freehold.errors import FreeholdError, SourceError, UsageError
from freehold.store import licences
from freehold.store.sources import Listing, RemoteFile, Wanted

if TYPE_CHECKING:
    import httpx

    from freehold.types import Attestation

CONNECT_SECONDS = 4.0
READ_SECONDS = 20.0
LISTING_SECONDS = 8.0  # for a whole listing, looking up the name included
MAX_STALLS = 3  # connections in a row that brought nothing
MAX_CONNECTIONS = 100  # for one file, however much each brought
PAUSE_SECONDS = 1.0
SLOWEST = 1024  # bytes per second, over SLOW_SECONDS
SLOW_SECONDS = 60.0

_LOGIN = {401, 403}
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class HuggingFace:
    """huggingface.co, or the mirror that ``HF_ENDPOINT`` names. A token is sent only if the user
    has set ``HF_TOKEN``."""

    name = "huggingface"
    attests: Attestation = "hub"

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = _address(
            endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        )

    def listing(self, wanted: Wanted) -> Listing:
        return _in_time(lambda: self._listing(wanted), self.endpoint)

    def _listing(self, wanted: Wanted) -> Listing:
        _quiet()
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(
            endpoint=self.endpoint,
            token=_hf_token() or False,
            library_name="freehold",
            library_version=__version__,
        )
        # The hub's error derives from its HTTP library's, which is not the same in each version.
        transport = HfHubHTTPError.__bases__
        try:
            info = api.model_info(
                wanted.repository,
                files_metadata=True,
                timeout=(CONNECT_SECONDS, LISTING_SECONDS, LISTING_SECONDS, CONNECT_SECONDS),
            )
            files = tuple(_hf_file(sibling) for sibling in info.siblings or ())
            card = info.card_data or {}
            licence = licences.published(card.get("license"), card.get("license_name"))
            revision = str(info.sha)
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise _refused(self.endpoint, status, wanted.repository) from error
        except transport as error:
            raise _unreachable(self.endpoint, error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _nonsense(self.endpoint, error) from error
        return Listing(
            wanted=wanted, revision=revision, licence=_licence(wanted, licence), files=files
        )

    def read(
        self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
    ) -> Iterator[bytes]:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(
            listing.wanted.repository, file.path, revision=listing.revision, endpoint=self.endpoint
        )
        token = _hf_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return _stream(url, offset=offset, size=file.size, headers=headers)


class ModelScope:
    """modelscope.cn, or the address that ``MODELSCOPE_ENDPOINT`` names. A token is sent only if the
    user has set ``MODELSCOPE_API_TOKEN``."""

    name = "modelscope"
    attests: Attestation = "hub"
    revision = "master"  # the hub lists no commit; the SHA-256 of each file pins the content

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = _address(
            endpoint or os.environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn"
        )

    def listing(self, wanted: Wanted) -> Listing:
        return _in_time(lambda: self._listing(wanted), self.endpoint)

    def _listing(self, wanted: Wanted) -> Listing:
        _quiet()
        from modelscope_hub.errors import APIError, HubError

        try:
            with tempfile.TemporaryDirectory() as settings:
                listed = self._api(settings).list_repo_files(
                    wanted.repository, "model", revision=self.revision
                )
            files = tuple(
                RemoteFile(path=str(file.path), size=int(file.size), sha256=_sha256(file.sha256))
                for file in listed
                if file.type == "blob"
            )
        except APIError as error:
            status = getattr(error, "status_code", None) or 0
            raise _refused(self.endpoint, status, wanted.repository) from error
        except (HubError, OSError) as error:
            raise _unreachable(self.endpoint, error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _nonsense(self.endpoint, error) from error
        return Listing(
            wanted=wanted,
            revision=self.revision,
            licence=_licence(wanted, licences.UNKNOWN_LICENCE),
            files=files,
        )

    def read(
        self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
    ) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory() as settings:
            url = self._api(settings).legacy.get_download_url(
                listing.wanted.repository, "model", file.path, listing.revision
            )
        token = _modelscope_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return _stream(url, offset=offset, size=file.size, headers=headers)

    def _api(self, settings: str) -> Any:
        """A client whose settings folder is thrown away: the usual one holds an id of this
        installation, which goes out with each request, and a pickled cookie jar, which is read."""
        from modelscope_hub.api import HubApi
        from modelscope_hub.config import HubConfig

        folder = Path(settings)
        config = HubConfig(
            endpoint=self.endpoint,
            token=_modelscope_token(),
            config_dir=folder,
            cache_dir=folder,
        )
        return HubApi(config, user_agent=f"freehold/{__version__}")


def _quiet() -> None:
    """Settings that the clients read when they are imported: no telemetry, no long retries."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("MODELSCOPE_API_CONNECT_TIMEOUT", str(int(CONNECT_SECONDS)))
    os.environ.setdefault("MODELSCOPE_API_TIMEOUT", str(int(LISTING_SECONDS)))
    os.environ.setdefault("MODELSCOPE_API_MAX_RETRIES", "1")
    os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "1")
    os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS", str(int(LISTING_SECONDS)))
    os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "CRITICAL")


def _address(endpoint: str) -> str:
    """Check an endpoint that a user may have mistyped."""
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            f"{endpoint[:200]!r} is no address of a hub: it must begin with https:// and name a "
            "host. Look at HF_ENDPOINT and MODELSCOPE_ENDPOINT.",
            param="sources",
        )
    return endpoint.rstrip("/")


def _in_time(ask: Callable[[], Listing], endpoint: str) -> Listing:
    """Ask for a listing, but give up after ``LISTING_SECONDS``: no timeout of an HTTP client covers
    a name server that is silent, as is usual where a network is closed."""
    future: Future[Listing] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except FreeholdError as error:
            future.set_exception(error)

    # A daemon thread: a name server that never answers must not keep the process alive.
    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(LISTING_SECONDS)
    except TimeoutError:
        raise SourceError(
            f"{endpoint} cannot be reached (no answer in {LISTING_SECONDS:.0f} seconds)."
        ) from None


def _hf_token() -> str:
    return os.environ.get("HF_TOKEN", "")


def _modelscope_token() -> str:
    return os.environ.get("MODELSCOPE_API_TOKEN", "")


def _hf_file(sibling: Any) -> RemoteFile:
    in_lfs = sibling.lfs is not None
    return RemoteFile(
        path=str(sibling.rfilename),
        size=int(sibling.lfs.size if in_lfs else sibling.size),
        sha256=_sha256(sibling.lfs.sha256) if in_lfs else None,
        git_oid=None if in_lfs else str(sibling.blob_id),
    )


def _sha256(value: object) -> str:
    digest = str(value).lower()
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"{digest[:80]!r} is no SHA-256")
    return digest


def _licence(wanted: Wanted, published: str) -> str:
    """The catalog's licence, or what the hub publishes."""
    return wanted.model.licence if wanted.model else published


def _refused(endpoint: str, status: int, repository: str) -> SourceError:
    if status in _LOGIN:
        return SourceError(
            f"{endpoint} refuses to give {repository} (status {status}): it does not exist, or "
            "needs an account that may have it (set HF_TOKEN or MODELSCOPE_API_TOKEN)."
        )
    if status == 404:
        return SourceError(f"{endpoint} has no {repository} (status 404).")
    return SourceError(f"{endpoint} failed to answer for {repository} (status {status}).")


def _unreachable(endpoint: str, error: BaseException) -> SourceError:
    return SourceError(f"{endpoint} cannot be reached ({type(error).__name__}).")


def _nonsense(endpoint: str, error: BaseException) -> SourceError:
    return SourceError(f"{endpoint} answered with something that is no listing ({error!r:.120}).")


# --- bytes ----------------------------------------------------------------------------------------


def _stream(url: str, *, offset: int, size: int, headers: dict[str, str]) -> Iterator[bytes]:
    """Yield bytes ``offset`` to ``size`` of what lies at ``url``, reconnecting where it breaks."""
    import httpx

    position, stalls = offset, 0
    agent = {"User-Agent": f"freehold/{__version__}", "Accept-Encoding": "identity"}
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    with httpx.Client(follow_redirects=True, timeout=timeout, headers=agent | headers) as client:
        for _ in range(MAX_CONNECTIONS):
            before, trouble = position, "it ended early"
            try:
                for block in _blocks(client, url, position):
                    position += len(block)
                    yield block
            except httpx.HTTPError as error:
                trouble = type(error).__name__
            if position >= size:
                return
            stalls = 0 if position > before else stalls + 1
            if stalls == MAX_STALLS:
                break
            time.sleep(PAUSE_SECONDS * stalls)
    raise SourceError(
        f"{_host(url)} broke off at byte {position:,} of {size:,} ({trouble}). Pull again: it goes "
        "on where it stopped."
    )


def _blocks(client: httpx.Client, url: str, position: int) -> Iterator[bytes]:
    """One connection's worth of bytes, from ``position`` on."""
    import httpx

    headers = {"Range": f"bytes={position}-"} if position else {}
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status in _PASSING:
            raise httpx.RemoteProtocolError(f"status {status}")
        if status not in {200, 206}:
            raise SourceError(f"{_host(url)} does not give the file (status {status}).")
        started = response.headers.get("content-range", "").startswith(f"bytes {position}-")
        if status == 206 and not started:
            raise SourceError(f"{_host(url)} sent another range than it was asked for.")
        # A server that knows no ranges begins at the beginning.
        skip = position if status == 200 else 0
        for block in _not_too_slow(response.iter_raw(), _host(url)):
            fresh = block[skip:]
            skip = max(0, skip - len(block))
            if fresh:
                yield fresh


def _not_too_slow(blocks: Iterator[bytes], host: str) -> Iterator[bytes]:
    """Pass blocks on; give up a server that keeps the connection alive with a trickle."""
    since, received = time.monotonic(), 0
    for block in blocks:
        received += len(block)
        elapsed = time.monotonic() - since
        if elapsed > SLOW_SECONDS:
            if received < SLOWEST * elapsed:
                raise SourceError(f"{host} sends less than {SLOWEST:,} bytes per second.")
            since, received = time.monotonic(), 0
        yield block


def _host(url: str) -> str:
    return url.split("/", 3)[2] if "://" in url else url
