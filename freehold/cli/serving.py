"""``freehold serve``: the counter opens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli import options
from freehold.cli.adapterwatch import following
from freehold.cli.asking import endpoint_of
from freehold.cli.home import at_home
from freehold.cli.hosting import living, starting
from freehold.cli.keyring import keys_of
from freehold.cli.output import Bar, say
from freehold.cli.passports import passport_of
from freehold.cli.places import root
from freehold.cli.recording import keeper_of, keeping, recording
from freehold.cli.settings import Settings, read_settings
from freehold.cli.telemetry import collector_of, telling
from freehold.cli.upstream import hosting, upstream_of
from freehold.cli.watching import Rules, guarded, judge_starting, readout_of, rules_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from freehold.cli.asking import Endpoint
    from freehold.cli.home import Home
    from freehold.cli.recording import Opened
    from freehold.cli.upstream import Upstream, Warden
    from freehold.engine.child import Child
    from freehold.residency.broker import Peer
    from freehold.serve.run import Binding


def serve(
    model: options.ModelOrDefault = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 for any free one [8080].")] = None,
    temporary_key: Annotated[
        bool,
        typer.Option("--temporary-key", help="Make a key that dies with this server, print it."),
    ] = False,
    engine: options.EngineName = None,
    upstream: options.Upstream = None,
    upstream_model: options.UpstreamModel = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    device: Annotated[str | None, typer.Option(help="cpu, or a torch device [cpu].")] = None,
    threads: options.Threads = None,
    speculate: Annotated[
        str | None, typer.Option(help="Guess tokens ahead: lookup or off [lookup].")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="A smaller model to guess with, auto or off [auto].")
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(help="Record requests in this file or data base, or off [ledger.sqlite]."),
    ] = None,
    ledger_content: Annotated[
        str | None, typer.Option(help="Keep prompts and answers as hash, sealed or clear [hash].")
    ] = None,
    guard: Annotated[
        str | None, typer.Option(help="Have prompts and answers judged: on or off [on].")
    ] = None,
    guard_policy: Annotated[
        str | None, typer.Option(help="Policy of keys that name none [warn].")
    ] = None,
    guard_probe: Annotated[
        str | None, typer.Option(help="A probe for this model, made by `guard probe` [none].")
    ] = None,
    cache_tokens: Annotated[
        int | None, typer.Option(help="Context held by all requests together, in tokens [32768].")
    ] = None,
    max_running: Annotated[int | None, typer.Option(help="Answers at once [64].")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Requests queued behind [256].")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(help="Clients must show certificates of these authorities, PEM.")
    ] = None,
    insecure_bind: Annotated[
        bool, typer.Option("--insecure-bind", help="Allow a non-loopback address without TLS.")
    ] = False,
    no_lock: Annotated[
        bool, typer.Option("--no-lock", help="Leave every way out of the server open.")
    ] = False,
    drill: Annotated[int | None, typer.Option("--drill", hidden=True)] = None,
) -> None:
    """Serve a model over the OpenAI HTTP API."""
    settings = read_settings(
        root(),
        model=model,
        host=host,
        port=port,
        engine=engine,
        upstream=upstream,
        upstream_model=upstream_model,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        backend=backend,
        dtype=dtype,
        device=device,
        threads=threads,
        speculate=speculate,
        draft=draft,
        ledger=ledger,
        ledger_content=ledger_content,
        guard=guard,
        guard_policy=guard_policy,
        guard_probe=guard_probe,
        cache_tokens=cache_tokens,
        max_running=max_running,
        max_waiting=max_waiting,
        residency="off" if no_lock else None,
    )
    keeper, keys = keeper_of(settings), keys_of(settings)
    collector = collector_of(settings)
    endpoint = endpoint_of(settings)
    peers = (*keys.peers, *collector, *((endpoint.peer,) if endpoint else ()))
    rules = rules_of(settings)
    with (
        upstream_of(settings) as above,
        at_home(
            settings,
            "counter-remote" if peers else "counter",
            read=(*keys.read, *_tls_files(settings), *_adapters()),
            write=keys.write,
            bind=(settings.port,),
            peers=peers,
            also=[one.reach for one in (keeper, above) if one],
            connects=bool(peers or (keeper and keeper.peers) or above),
            drill=drill,
        ) as home,
        keeping(keeper, home) as started,
        hosting(settings, above, home) as warden,
    ):
        home.shut_files()
        # Only now: what is imported here starts threads of its own where it is allowed to.
        with (
            starting(settings, home, above, readout_of(settings, rules)) as child,
            judge_starting(settings, home) as judge,
        ):
            from freehold.serve.run import Binding, check

            binding = Binding(
                host=settings.host,
                port=settings.port,
                tls_cert=settings.tls_cert or None,
                tls_key=settings.tls_key or None,
                tls_client_ca=settings.tls_client_ca or None,
                tls_reload=settings.tls_reload,
                insecure_bind=insecure_bind,
            )
            check(binding)
            _log_to_stderr()
            records = recording(keeper, started)
            asyncio.run(
                _serve(
                    settings,
                    (keys.url, collector),
                    rules,
                    binding,
                    home,
                    (child, above, warden),
                    (judge, endpoint),
                    records,
                    temporary_key,
                )
            )


async def _serve(
    settings: Settings,
    told: tuple[str, tuple[Peer, ...]],
    rules: Rules | None,
    binding: Binding,
    home: Home,
    engine: tuple[Child, Upstream | None, Warden | None],
    judge: tuple[Child | None, Endpoint | None],
    records: AbstractAsyncContextManager[Opened],
    temporary_key: bool,
) -> None:
    from freehold.serve.app import Hosted, Limits, build
    from freehold.serve.keys import Keyring
    from freehold.serve.run import run

    url, collector = told
    keyring = Keyring(url)
    with Bar() as bar, telling(collector) as traces:
        async with (
            records as opened,
            living(settings, bar, *engine) as model,
            guarded(settings, rules, bar, *judge) as guard,
        ):
            hosted = Hosted(
                name=model.name,
                card=model.engine.card,
                engine=model.engine,
                codec=model.codec,
                created=int(time.time()),
            )
            limits = Limits(
                max_body=settings.max_body,
                max_queue=settings.max_running + settings.max_waiting,
                request_seconds=settings.request_seconds,
                drain_seconds=settings.drain_seconds,
            )
            key = keyring.add_temporary() if temporary_key else None
            app = build(
                [hosted],
                keyring,
                limits,
                await opened(),
                guard=guard,
                residency=home.watch.status,
                passports=lambda name: passport_of(name, settings),
                traces=traces,
            )
            async with following(model, app.state.desk, settings):
                await run(
                    app,
                    binding,
                    drain_seconds=settings.drain_seconds,
                    on_listening=home.shut_calls,
                    on_ready=lambda address: _greet(address, model.name, key),
                )


def _tls_files(settings: Settings) -> list[str]:
    """What a locked counter reads of certificates: the files of now, or also those that will have
    taken their place."""
    named = [Path(one) for one in (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
             if one]  # fmt: skip
    if not settings.tls_reload:
        return [str(path) for path in named]
    folders = {str(at.parent) for path in named for at in (path.absolute(), path.resolve())}
    return sorted(folders)


def _adapters() -> list[str]:
    """The folder that says which adapters are served, made if it is not there: a locked counter
    sees what comes into it, and not that it comes."""
    folder = root() / "adapters"
    with contextlib.suppress(OSError):  # a vault that cannot be written to has none to come
        folder.mkdir(exist_ok=True)
    return [str(folder)]


def _log_to_stderr() -> None:
    """One line per request and per trouble; of libraries, only their trouble."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("freehold").setLevel(logging.INFO)


def _greet(address: str, model: str, key: str | None) -> None:
    say(f"\n{model} answers at {address}")
    if key is None:
        say("make a key with `freehold keys add NAME`")
        return
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,  # the first answer anyone sees is not left to chance
        }
    )
    say(f"key, valid until this server stops: {key}\n")
    say(
        f"curl {address}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )
