"""Draw the time of features against the accuracy of rankings, from `results/rparis.json` and `rparis_peers.json`.

python docs/figure.py    # writes docs/time_accuracy.png
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
PICTURE = HERE / "time_accuracy.png"
RESULTS = (HERE / "results" / "rparis.json", HERE / "results" / "rparis_peers.json")


def points(result: dict[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """Return of each system: seconds a photograph, Medium mAP of its first verified ranking, and the interval."""
    found: dict[str, tuple[float, float, float, float]] = {}
    for stage in result["stages"]:
        system, _, what = stage["name"].partition(": ")
        if not what.startswith("features, ") or "queries of" in what or not stage["timed"]:
            continue
        rows = [m for m in result["methods"] if m["name"].startswith(system) and m["name"].endswith("verified")]
        medium = rows[0]["setups"]["medium"]
        found[system] = stage["seconds"] / stage["timed"], medium["mean_ap"], *medium["interval_95"]
    return found


def draw(results: list[dict[str, Any]]) -> Figure:
    """Return the figure: a point and its 95 % interval for each system."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        for system, (seconds, mean, low, high) in points(result).items():
            ours = system.startswith("delf")
            axes.errorbar(
                seconds,
                mean,
                [[mean - low], [high - mean]],
                fmt="o",
                capsize=3,
                color="#1a7f37" if ours else "#57606a",
            )
            axes.annotate(system, (seconds, mean), xytext=(8, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="seconds a photograph, features on 2 CPU cores", ylabel="mAP, Medium, %")
    axes.grid(alpha=0.3)
    axes.margins(x=0.25)
    return figure


def digest() -> str:
    """Return what the picture's field "Source" says: a hash of the results that it shows."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in RESULTS)).hexdigest()


def main() -> int:
    """Write the picture; return the exit code."""
    missing = [path.name for path in RESULTS if not path.is_file()]
    if missing:
        print(f"docs/results lacks {' and '.join(missing)}; docs/benchmarks/retrieval.md has the commands")
        return 1
    figure = draw([json.loads(path.read_text(encoding="utf-8")) for path in RESULTS])
    figure.savefig(PICTURE, dpi=150, metadata={"Source": digest()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
