"""The commands, and what is common to them: errors, exit codes.

Each command imports what it needs when it runs, so that ``delf-engine --help`` starts at once and without torch.
Exit codes: 0, done; 1, an error, or some images of a batch could not be read; 2, wrong usage; 130, interrupted.
`verify` has two more: 3, not the same place; 4, not sure.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from delf_engine import __version__
from delf_engine.cli import (
    calibrate,
    codebook,
    collection,
    copies,
    data,
    demo,
    evaluate,
    export,
    mining,
    model,
    pair,
    rerank,
    serve,
    shard,
    training,
)
from delf_engine.cli.console import complain, say
from delf_engine.errors import DelfEngineError, DelfEngineWarning

_INTERRUPTED = 130

app = typer.Typer(
    name="delf-engine",
    help="Do these photographs show the same place? Index folders, search them, verify pairs, re-rank shortlists.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "First steps": (demo.demo,),
    "Pairs of photographs": (pair.verify, pair.attention),
    "Search a folder of photographs": (
        collection.add,
        collection.search,
        collection.remove,
        collection.info,
        collection.check,
        collection.compact,
        collection.reindex,
        codebook.codebook,
        export.export,
    ),
    "Copies": (copies.duplicates, copies.overlap, copies.not_copies),
    "Re-rank the results of another search": (rerank.rerank, rerank.report),
    "Serve": (serve.serve,),
    "Measure": (evaluate.evaluate, calibrate.calibrate),
    "Models and training": (training.train, mining.mine),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(rich_help_panel=_group)(_command)
app.add_typer(data.data_app, rich_help_panel="Measure")
app.add_typer(shard.shard_app, rich_help_panel="Search a folder of photographs")
app.add_typer(model.commands, rich_help_panel="Models and training")


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=lambda v: _version(v)
        ),
    ] = False,
) -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"delf-engine {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors of this package become one line on standard error and exit code 1."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # text that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:  # of an unset variable of the shell; as a path it is the current folder
        name, given, value = argument.partition("=")
        if not argument or (given and not value and name.startswith("--")):
            complain("error", f"an argument is empty{f', {name}' if name else ''}; give a value, or leave it out")
            sys.exit(2)
    try:
        app()
    except (DelfEngineError, OSError) as error:  # of the system: such as a full disk that standard output goes to
        complain("error", str(error), "bold red")
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # Typer has turned Ctrl-C into it without a word
            say("interrupted; what was committed stays: the same command goes on from it", error=True)
        raise


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, DelfEngineWarning):
        complain("warning", str(message))
