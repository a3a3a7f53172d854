"""Write a page about a benchmark run: figures, every query, the lowest ones with pictures, inliers, time.

    python -m benchmarks.revisited.report RESULT.json PAGE.html [--images DIR] [--markdown MD] [--queries 10]

The page is one HTML file that needs nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from benchmarks.revisited.report.page import markdown, write_benchmark_page
from benchmarks.revisited.report.result import read_result
from delf_engine.errors import ConfigError, DelfEngineError
from delf_engine.images import find_images
from delf_engine.support.files import replacing, system_errors


def main(argv: list[str] | None = None) -> None:
    """Write the page that the command line asks for; errors of the package are one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="what a benchmark run has written")
    parser.add_argument("page", type=Path, metavar="PAGE.html", help="the page to write")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs, named after their ids")
    parser.add_argument("--markdown", type=Path, metavar="MD", help="write the tables here as Markdown")
    parser.add_argument("--queries", type=int, default=10, help="queries to show with their rankings: the lowest")
    args = parser.parse_args(argv)
    try:
        result = read_result(args.result)
        images = None if args.images is None else photographs_below(args.images)
        written = write_benchmark_page(args.page, result, images=images, max_queries=args.queries)
        if args.markdown is not None:
            with (
                system_errors(f"{args.markdown}: cannot be written", ConfigError),
                replacing(args.markdown) as partial,
            ):
                partial.write_text(markdown(result), encoding="utf-8")
    except DelfEngineError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    print(f"{written.queries} of {written.of} queries shown; wrote {args.page}, {written.bytes:,} bytes")


def photographs_below(folder: Path) -> dict[str, str]:
    """Return the photographs in a folder and those below it, by what their ids may be.

    An id is the path of a file inside the folder, or its name where no other has it, with its ending or without.

    Raises
    ------
    DataError
        If there is no such folder, or no image in it.
    """
    inside = {path: Path(os.path.relpath(path, folder)) for path in find_images([folder])}
    names = Counter(name for path in inside.values() for name in {path.name, path.stem})
    by_name = {name: path for path, at in inside.items() for name in (at.name, at.stem) if names[name] == 1}
    by_path = {str(name): path for path, at in inside.items() for name in (at.with_suffix(""), at)}
    return by_name | by_path


if __name__ == "__main__":
    main()
