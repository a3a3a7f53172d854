"""The command line that roxford.py and rparis.py share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.systems import PEERS

__all__ = ["arguments"]

_DESCRIPTION = """\
Measure local features on {title} by the revisited protocol: photographs in, tables out.

    python benchmarks/{script} --data DATA             after: delf-engine data get {name} --root DATA
    python benchmarks/{script} --synthetic             views of photographs at hand, no file from outside

Features are extracted (queries cropped to their box), a codebook is trained on the other set, candidates are
gathered by ASMK and by a KD-tree, and the first 100 of each are verified, the protocol's junk taken out before.
Every step is kept in the work folder: a run that was stopped goes on, and steps whose options did not change are
not done again.
Results: OUT.json (everything), OUT.md (tables), OUT.html (one page with pictures).
"""


def arguments(name: str, title: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a run on the set `name`, checked as far as they can be without reading anything."""
    script = f"{name.rstrip('0123456789k')}.py"
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION.format(title=title, script=script, name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _inputs(parser, name)
    _methods(parser)
    _outputs(parser)
    args = parser.parse_args(argv)
    args.model = list(dict.fromkeys(args.model or ["delf-r18"]))
    if (args.images is None) != (args.ground_truth is None) and not args.features:
        parser.error("--images and --ground-truth belong together")
    if args.synthetic and (args.data or args.images or args.features):
        parser.error("--synthetic makes its own set: leave out --data, --images and --features")
    if args.query_features and not args.features:
        parser.error("--query-features needs --features")
    if args.features and len(args.model) > 1:
        parser.error("--features are of one model: give --model once at most")
    if not args.candidates and not args.shortlist:
        parser.error("nothing to measure: --candidates or --shortlist")
    for option in ("verify", "words", "codebook_features"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1")
    return args


def _inputs(parser: argparse.ArgumentParser, name: str) -> None:
    group = parser.add_argument_group("photographs and ground truth")
    group.add_argument(
        "--data",
        type=Path,
        help=f"folder that holds {name}/ and the other set, where data get has put them (DELF_ENGINE_DATA)",
    )
    group.add_argument("--images", type=Path, help="folder of the photographs, instead of --data")
    group.add_argument("--ground-truth", type=Path, help="gnd_*.pkl, together with --images")
    group.add_argument(
        "--allow-missing",
        action="store_true",
        help="restrict the protocol to the photographs that are there and readable; the title says so",
    )
    group.add_argument(
        "--without-query", action="append", default=[], metavar="NAME", help="leave a query out; the title says so"
    )
    group.add_argument("--features", type=Path, help="feature store of your own, by image name; needs no images")
    group.add_argument(
        "--query-features", type=Path, help="store of the cropped queries; without it they are in --features"
    )
    group.add_argument(
        "--distractors",
        metavar="WHICH",
        help="add to the gallery: revisitop1m below --data, a folder of photographs, or a feature store; "
        "indexed once",
    )
    group.add_argument("--synthetic", action="store_true", help="make a set of the same layout and use it")
    group.add_argument("--synthetic-images", type=int, default=5000, metavar="N")
    group.add_argument("--synthetic-queries", type=int, default=70, metavar="N")
    group.add_argument("--synthetic-side", type=int, default=400, metavar="PIXELS", help="of its pictures (400)")
    group.add_argument(
        "--synthetic-photos",
        type=Path,
        metavar="DIR",
        help="photographs to make it from; without it, the two that scikit-learn ships",
    )


def _methods(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--model",
        action="append",
        help=f"checkpoint, or {' or '.join(PEERS)}; may be given several times (delf-r18)",
    )
    group.add_argument("--profile", help="name or path; without it, each checkpoint's own")
    group.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="without it, as the profile says")
    group.add_argument(
        "--codebook",
        default="other",
        metavar="WHICH",
        help="other: trained on the other set; shipped: the checkpoint's; a .safetensors file; or a folder of "
        "photographs, or a feature store, to train on (other)",
    )
    group.add_argument("--words", type=int, help="of a codebook that is trained (65,536; --synthetic: 16,384)")
    group.add_argument(
        "--codebook-features", type=int, default=300, metavar="N", help="of each photograph, the best (300)"
    )
    group.add_argument(
        "--candidates",
        nargs="*",
        choices=["asmk", "kdtree", "ivf"],
        default=["asmk", "kdtree"],
        help="gathered by (asmk kdtree)",
    )
    group.add_argument(
        "--shortlist",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="of any other search, verified beside them; may be given several times",
    )
    group.add_argument("--verify", type=int, default=100, metavar="N", help="candidates of each query (100)")
    group.add_argument(
        "--junk",
        choices=["before", "after"],
        default="before",
        help="when the protocol's junk is taken out: before the shortlist is cut, as published, or after (before)",
    )
    group.add_argument("--weights", type=Path, help="folder of aliked-n16.safetensors, for --model aliked")
    group.add_argument("--seed", type=int, default=0, help="of k-means, trees and RANSAC")


def _outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to")
    group.add_argument("--work", type=Path, default=Path("out/revisited"), help="what is kept between runs")
    group.add_argument("--out", type=Path, help="name of the results, without an ending (WORK/SET)")
    group.add_argument(
        "--workers", type=int, help="threads of indexes and of verification; results are the same with any number"
    )
