"""Options that several commands take, written once: the same words mean the same everywhere."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

ModelOrDefault: TypeAlias = Annotated[
    str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
]
Backend: TypeAlias = Annotated[str | None, typer.Option(help="native or torch [native].")]
Dtype: TypeAlias = Annotated[str | None, typer.Option(help="float32, bfloat16 or int8 [auto].")]
Threads: TypeAlias = Annotated[int | None, typer.Option(help="Arithmetic threads [all cores].")]
EngineName: TypeAlias = Annotated[
    str | None, typer.Option(help="freehold, vllm, or openai with --upstream [freehold].")
]
Upstream: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of a server to ask: unix:/PATH or http://HOST:PORT.")
]
UpstreamModel: TypeAlias = Annotated[
    str | None, typer.Option(help="What the model is called there [the only one].")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
