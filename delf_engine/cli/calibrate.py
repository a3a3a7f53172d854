"""The command that fits a calibration to a list of labelled pairs: probabilities for one's own photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from delf_engine.cli.console import print_failures, print_json, say, staged_progress
from delf_engine.cli.options import (
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    ProfileOption,
    SeedOption,
    check_outputs,
)

if TYPE_CHECKING:
    from delf_engine.config import Profile
    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Calibration
    from delf_engine.verification.calibrating import CrossValidation

Progress = Callable[[str, int, int], None]


def calibrate(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Labelled pairs, .csv (columns a,b,label) or .jsonl; label 1: the same place, 0: not.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("calibration.json"),
    features: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Engine that images are ids of; it says model and profile too."),
    ] = None,
    model: ModelOption = "delf-r18",
    profile: ProfileOption = None,
    evidence: Annotated[
        str, typer.Option(help="inliers, inlier_similarity, log_inliers or log_inlier_similarity.")
    ] = "inlier_similarity",
    prior: Annotated[
        float, typer.Option(help="Share of pairs of one place that probabilities are to hold for.")
    ] = 0.5,
    folds: Annotated[int, typer.Option(min=3, help="Folds of places in cross-validation.")] = 5,
    max_pixels: MaxPixelsOption = None,
    seed: SeedOption = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw the reliability diagram of this check here."),
    ] = None,
    roc: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw its ROC curve here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit probabilities that two photographs show the same place to pairs of which you know it.

    Images are ids of the engine given with --features, or paths (relative ones start at the list's folder);
    features of each photograph are extracted once. Photographs that cannot be read are named, their pairs left
    out, and the exit code is 1.

    Checked by cross-validation: places (photographs connected by pairs with label 1) are dealt into folds, and
    each pair is judged by a calibration of pairs that touch neither fold of its places. ECE is the expected
    calibration error at the prior, 0 is best; AUC the area under the ROC curve, 1 is best. The file is fitted to
    all pairs.
    """
    from delf_engine.verification.calibrating import calibrate as fit
    from delf_engine.verification.calibrating import check_request, read_labelled_pairs

    check_outputs(out, pictures=(plot, roc))
    listed = read_labelled_pairs(pairs)
    check_request(listed, evidence, prior)
    names = list(dict.fromkeys(name for pair in listed for name in (pair.a, pair.b)))
    with (
        staged_progress(quiet=as_json) as progress,
        _gathered(names, pairs.parent, features, model, profile, max_pixels, progress) as source,
    ):
        print_failures(source.failed.items())
        kept = [pair for pair in listed if not {pair.a, pair.b} & source.failed.keys()]
        calibration, check = fit(
            kept,
            source.features,
            source.profile,
            fine=source.fine,
            evidence=evidence,  # type: ignore[arg-type]  # checked there
            prior=prior,
            folds=folds,
            seed=seed,
            trained_on=f"labelled pairs of {pairs.name}",
            checkpoint=source.identity,
            progress=partial(progress, "verifying"),
        )
    calibration.save(out)
    if (plot or roc) and not check.conclusive:
        say("no pairs of both labels were judged, so there is nothing to draw", error=True)
    elif plot or roc:
        _draw(check, plot, roc)
    figures = check.to_dict()
    if as_json:
        failed = [{"id": name, "reason": reason} for name, reason in source.failed.items()]
        values = {"out": str(out), "cross_validation": figures, "failed": failed}
        print_json(values | {"calibration": calibration.to_dict()})
    else:
        for line in _report(calibration, figures, len(listed) - len(kept), out):
            say(line)
    if source.failed:
        raise typer.Exit(1)


def _draw(check: CrossValidation, plot: Path | None, roc: Path | None) -> None:
    from delf_engine.plotting import draw_reliability, draw_roc, save_figure

    for path, draw in ((plot, draw_reliability), (roc, draw_roc)):
        if path:
            save_figure(draw(check.probabilities, check.labels), path)


class _Source(NamedTuple):
    """Features by the names of the list, what could not be read and why, and what made them."""

    features: dict[str, LocalFeatures]
    failed: dict[str, str]
    profile: Profile
    identity: str | None
    fine: Callable[[str], LocalFeatures | None]


@contextmanager
def _gathered(
    names: Sequence[str],
    folder: Path,
    directory: Path | None,
    model: str,
    profile: str | None,
    max_pixels: int | None,
    progress: Progress,
) -> Iterator[_Source]:
    """Yield the features of images, from an engine, or extracted."""
    from delf_engine.config import load_profile
    from delf_engine.engine import Engine
    from delf_engine.engine.fine import FineSource
    from delf_engine.errors import ConfigError, ImageError
    from delf_engine.extraction import Extractor

    found, failed = {}, {}

    def gather(features_of: Callable[[str], LocalFeatures]) -> None:
        for number, name in enumerate(names, start=1):
            try:
                found[name] = features_of(name)
            except ImageError as error:
                failed[name] = error.reason
            progress("reading photographs", number, len(names))

    if directory is None:
        extractor = Extractor.from_pretrained(model, profile=profile, max_pixels=max_pixels)
        info = extractor.info
        gather(lambda name: extractor(folder / name))
        chosen = load_profile(profile or (info.profile if info else "default"))
        kept = FineSource(None, chosen)
        yield _Source(
            found,
            failed,
            chosen,
            info.identity if info else None,
            lambda name: kept.get(name, str(folder / name)),
        )
        return
    if profile or model != "delf-r18":
        raise ConfigError(f"{directory} has its own model and profile; leave --model and --profile out")
    with Engine.open(directory, readonly=True) as engine:
        if max_pixels:
            engine.extractor.max_pixels = max_pixels
        gather(lambda name: engine.get(name) if name in engine else engine.extractor(folder / name))
        manifest = engine.manifest
        yield _Source(
            found,
            failed,
            manifest.profile,
            manifest.model_identity,
            lambda name: engine.state.fine_of(name if name in engine else folder / name),
        )


def _report(calibration: Calibration, check: dict[str, Any], left_out: int, out: Path) -> list[str]:
    curve = calibration.coarse
    assert curve is not None
    total = curve.positives + curve.negatives
    missing = f"; {left_out} left out, as a photograph could not be read" if left_out else ""
    lines = [
        f"{total} pairs: {curve.positives} of one place ({check['places']} places), "
        f"{curve.negatives} of different places{missing}"
    ]
    if check["roc_auc"] is None:
        lines.append(
            "not checked by cross-validation: without the places of a pair too few others are left; "
            "label pairs of more places"
        )
    else:
        lines.append(
            f"cross-validation between places, {check['judged']} pairs judged: "
            f"ECE {check['expected_calibration_error']:.4f} at prior {calibration.prior:g}, "
            f"AUC {check['roc_auc']:.4f}"
        )
    return [*lines, f"wrote {out}"]
