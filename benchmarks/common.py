"""What the benchmarks share: where the data is, a cache of features, tables, JSON with the machine's name."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from delf_engine import LocalFeatures, __version__
from delf_engine.config import VerificationConfig
from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, load_ground_truth, restrict
from delf_engine.storage import FeatureStore

T = TypeVar("T")

__all__ = [
    "by_homography",
    "cached_features",
    "card_of",
    "data_folder",
    "machine",
    "measured_apart",
    "memory",
    "options_parser",
    "own_process",
    "print_markdown",
    "print_rows",
    "print_table",
    "rank_features",
    "sub_rparis",
    "timed",
    "write_json",
]

#: A query of Sub-RParis with only two positives among the photographs at hand; its definition leaves it out.
_LEFT_OUT = "paris_defense_000038"

#: Tables, by title, printed since `write_json` was last called: it writes them, and the documentation shows them.
_printed: dict[str, dict[str, Any]] = {}


def own_process(module: str, *options: object, stderr: int | None = None) -> subprocess.Popen[str]:
    """Start ``python -m MODULE OPTIONS`` with its standard output on a pipe, from wherever this process runs."""
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", module, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def measured_apart(module: str, *options: object) -> dict[str, Any]:
    """Return the JSON object that ``python -m MODULE OPTIONS`` prints, which did nothing else."""
    process = own_process(module, *options)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return dict(json.loads(said))


def options_parser(
    doc: str | None, out: str, *, data: bool = False, model: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options that many benchmarks share.

    Parameters
    ----------
    doc : str or None
        The script's own text, for ``--help``.
    out : str
        Default of ``--out``.
    data : bool
        With ``--data``, and ``--cache`` for features of its photographs.
    model : bool
        With ``--model``, one checkpoint.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument("--data", help="folder that holds paris/, revisited/, photos/, strecha/ and so on")
        parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="of features, between runs")
    if model:
        parser.add_argument("--model", default="delf-r18", help="name or path of a checkpoint")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def data_folder(given: str | None) -> Path:
    """Return the folder of photographs: as given, by DELF_ENGINE_SHARED, or ``shared`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(given) if given else Path(os.environ.get("DELF_ENGINE_SHARED", beside)) / "data"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the one that holds paris/ and revisited/ with --data")
    return folder


def sub_rparis(data: Path, *, distractors: bool = False, more: bool = False) -> GroundTruth:
    """Return the ground truth of RParis6k restricted to the photographs at hand: 11 queries, 238 images.

    With `distractors` the unrelated photographs are in the gallery too, with `more` the 18 of ``paris_more/``.
    """
    full = load_ground_truth(data / "revisited" / "gnd_rparis6k.pkl")
    folders = ("paris", "paris_more") if more else ("paris",)
    here = {path.stem for folder in folders for path in (data / folder).glob("*.jpg")}
    names = [name for name in full.names if name in here]
    queries = [name for name in full.query_names if name in here and name != _LEFT_OUT]
    found = restrict(full, names, queries)
    unrelated = (
        sorted(f"distractors/{path.stem}" for path in (data / "distractors").glob("*.jpg")) if distractors else ()
    )
    return replace(found, names=(*found.names, *unrelated))


def cached_features(
    cache: Path, identity: str, dim: int, items: Mapping[str, Callable[[], LocalFeatures]], *, title: str
) -> dict[str, LocalFeatures]:
    """Return the features of all items by id, extracted at most once for this `identity` of extractor."""
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    exists = (folder / "data.mdb").is_file()
    store = (
        FeatureStore.open(folder)
        if exists
        else FeatureStore.create(folder, dim=dim, codec="float32", model=identity)
    )
    with store:
        missing = [image_id for image_id in items if image_id not in store]
        for image_id in track(missing, title, console=Console(stderr=True), disable=not missing):
            store.put(image_id, items[image_id]())
        return dict(zip(items, store.get_many(items), strict=True))


def rank_features(
    extract: Callable[..., LocalFeatures],
    identity: str,
    dim: int,
    truth: GroundTruth,
    data: Path,
    cache: Path,
) -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    """Return the features of the queries, cropped, and of the gallery."""
    items: dict[str, Callable[[], LocalFeatures]] = {}
    for name, box in zip(truth.query_names, truth.boxes.tolist(), strict=True):
        items[f"query {name}"] = partial(extract, data / "paris" / f"{name}.jpg", box=box)
    for name in truth.names:
        items[name] = partial(extract, data / (f"{name}.jpg" if "/" in name else f"paris/{name}.jpg"))
    found = cached_features(cache, identity, dim, items, title="extracting")
    return {name: found[f"query {name}"] for name in truth.query_names}, {
        name: found[name] for name in truth.names
    }


def by_homography(config: VerificationConfig) -> VerificationConfig:
    """Return options with the homography that was the default when the tables that use it were measured.

    It is also what detectors of one scale are judged by: the exhaustive estimator wants scales of features.
    """
    changes = {"model": "homography", "estimator": "ransac", "max_iterations": 2000, "confidence": 0.999}
    return config.model_copy(update=changes)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def memory(field: str, pid: int | str = "self") -> int | None:
    """Return a field of ``/proc/PID/status`` such as "RssAnon", in bytes; None where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; one with the title of an earlier one takes its place in the JSON file."""
    _keep(title, columns, rows)
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=max(120, Console().width), highlight=False)
    console.print(title)
    console.print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print one line for each row: by column, how its values are formatted, such as ``"{seconds:.1f}"``."""
    print_table(title, list(columns), [[cell.format_map(row) for cell in columns.values()] for row in rows])


def print_markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output as Markdown, in lines of any length; the first column is text."""
    _keep(title, columns, rows)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    print(f"\n{title}\n")
    for line in lines:
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")


def _keep(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    _printed[title] = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def machine() -> dict[str, Any]:
    """Say what these figures were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "delf_engine": __version__,
    }


def card_of(device: Any) -> dict[str, Any]:
    """Say what a torch device is: card, driver, torch, CUDA."""
    import torch

    found = {"card": "no card: torch on the CPU", "driver": "none", "torch": torch.__version__}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            found["driver"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split(
                "\n"
            )[0]
        found["card"] = torch.cuda.get_device_name(device)
    return {**found, "cuda": torch.version.cuda}


def write_json(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write a benchmark's result; return what was written.

    Beside it stand the command, the date, the machine, and the tables that were printed: ``docs/tables.py`` takes
    them into the documentation.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    full = {
        "command": _command(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        **result,
    }
    if _printed:
        full["tables"] = list(_printed.values())
        _printed.clear()
    path.write_text(json.dumps(full, indent=1, ensure_ascii=False), encoding="utf-8")
    Console(stderr=True).print(f"wrote {path}", highlight=False)
    return full


def _command() -> str:
    """Return what was typed, from the root of the checkout: without ``--out``, absolute paths by their names."""
    root = Path(__file__).resolve().parents[1]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    script = Path(sys.argv[0]).resolve()
    named = str(script.relative_to(root)) if script.is_relative_to(root) else script.name
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return shlex.join(["python", *(("-m", module.name) if module else (named,)), *words])
