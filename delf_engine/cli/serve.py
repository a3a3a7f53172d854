"""The command that serves an engine over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from delf_engine.cli.console import say


def serve(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Directory of the engine, or address of a plan of shards.")
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen. Any but a loopback address needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that holds the token. Default: the variable DELF_ENGINE_TOKEN, if it is set."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Change nothing.")] = False,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Of Ray, that search the parts of a plan, which are only read (extra `ray`)."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Origin whose pages may ask, too. Repeat it.")
    ] = None,
    folder: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Folder that clients may have added, by its name. Repeat it."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of a photograph. Default: 32 MiB.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Of a photograph. Default: 64 million.")] = None,
    max_files: Annotated[int | None, typer.Option(min=1, help="Of an upload. Default: 1000.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Searches at a time. Default: all cores.")] = None,
    queue: Annotated[int | None, typer.Option(min=1, help="Searches, and jobs, that wait. Default: 32.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For an answer. Default: 60.")] = None,
) -> None:
    """Serve an engine over HTTP, as a page and an API: verify, search, re-rank, add, remove (extra `serve`).

    Open its address in a browser. The API is described under /v1/openapi.json. Logs are JSON, one line a request.
    """
    from delf_engine.config import parse_config
    from delf_engine.errors import ConfigError

    try:
        from delf_engine.serve import Settings, read_token, run
    except ImportError as error:
        raise ConfigError(f"serving needs pip install 'delf-engine[serve]': {error}") from error
    named = [text.partition("=") for text in folder or ()]
    if not all(name and path for name, _, path in named):
        raise ConfigError(f"folders are given as NAME=PATH, got {', '.join(folder or ())}")
    options: dict[str, Any] = {
        "directory": directory,
        "host": host,
        "port": port,
        "token": read_token(token_file),
        "readonly": read_only or actors is not None,
        "actors": actors,
        "cors": tuple(cors or ()),
        "folders": {name: Path(path) for name, _, path in named},
        "max_bytes": max_bytes,
        "max_pixels": max_pixels,
        "max_files": max_files,
        "threads": threads,
        "queue": queue,
        "seconds": seconds,
    }
    given = {name: value for name, value in options.items() if value is not None}
    settings = parse_config(Settings, given, where="serve")
    run(settings, lambda address: say(address, error=True))
