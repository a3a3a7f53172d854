"""The command that fits a calibration to a list of labelled pairs: probabilities for one's own photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from delf_engine.cli.console import error_console, print_failures, print_json, say, staged_progress
from delf_engine.cli.options import JsonOption, ModelOption, ProfileOption, SeedOption

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from delf_engine.cli.labelled_pairs import LabelledPair
    from delf_engine.config import Profile
    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification
    from delf_engine.verification.calibration import Calibration

__all__ = ["register"]

Progress = Callable[[str, int, int, float | None], None]


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(calibrate)


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
    method: Annotated[str, typer.Option(help="logistic or isotonic (for many hundreds of pairs).")] = "logistic",
    evidence: Annotated[
        list[str] | None,
        typer.Option(
            help="inliers, inlier_similarity, log_inliers or log_inlier_similarity; may be repeated. "
            "Default: inlier_similarity."
        ),
    ] = None,
    prior: Annotated[
        float, typer.Option(help="Share of pairs of one place that probabilities are to hold for.")
    ] = 0.5,
    folds: Annotated[int, typer.Option(min=3, help="Of places, in cross-validation.")] = 5,
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
    from delf_engine.cli.labelled_pairs import read_labelled_pairs
    from delf_engine.verification.calibration import Calibration

    listed = read_labelled_pairs(pairs)
    with staged_progress(quiet=as_json) as progress:
        source = _gathered(listed, pairs.parent, features, model, profile, progress)
        kept = [pair for pair in listed if pair.a in source.features and pair.b in source.features]
        print_failures(source.failed.items())
        verifications = _verified(kept, source, seed, progress)
    labels = [pair.label for pair in kept]
    options: dict[str, Any] = {"method": method, "evidence": evidence or ("inlier_similarity",), "prior": prior}
    calibration = Calibration.fit(
        verifications,
        labels,
        trained_on=f"labelled pairs of {pairs.name}",
        checkpoint=source.identity,
        profile=source.profile,
        **options,
    )
    judged = _judged(kept, verifications, folds, options)
    check = _figures(kept, judged, options["prior"])
    calibration.save(out)
    _draw(judged, plot, roc)
    if as_json:
        failed = [{"id": name, "reason": reason} for name, reason in source.failed.items()]
        print_json(
            {"out": str(out), "cross_validation": check, "failed": failed, "calibration": calibration.to_dict()}
        )
    else:
        for line in _report(calibration, check, len(listed) - len(kept), out):
            say(line)
    if source.failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Source:
    """Features by the names of the list, what could not be read and why, and what made them."""

    features: dict[str, LocalFeatures]
    failed: dict[str, str]
    profile: Profile
    identity: str | None


def _gathered(
    listed: Iterable[LabelledPair],
    folder: Path,
    directory: Path | None,
    model: str,
    profile: str | None,
    progress: Progress,
) -> _Source:
    """Return the features of all images of a list, from an engine, or extracted."""
    from delf_engine.config import load_profile
    from delf_engine.engine import Engine
    from delf_engine.errors import ConfigError
    from delf_engine.extraction import Extractor

    names = list(dict.fromkeys(name for pair in listed for name in (pair.a, pair.b)))
    if directory is None:
        extractor = Extractor.from_pretrained(model, profile=profile)
        info = extractor.info
        chosen = load_profile(profile or (info.profile if info else "default"))

        def extracted(name: str) -> LocalFeatures:
            return extractor(folder / name)

        return _Source(*_each(names, extracted, progress), chosen, info.identity if info else None)
    if profile or model != "delf-r18":
        raise ConfigError(f"{directory} has its own model and profile; leave --model and --profile out")
    with Engine.open(directory, readonly=True) as engine:

        def stored(name: str) -> LocalFeatures:
            return engine.get(name) if name in engine else engine.extractor(folder / name)

        found, failed = _each(names, stored, progress)
        return _Source(found, failed, engine.manifest.profile, engine.manifest.model_identity)


def _each(
    names: list[str], features_of: Callable[[str], LocalFeatures], progress: Progress
) -> tuple[dict[str, LocalFeatures], dict[str, str]]:
    from delf_engine.errors import ImageError

    found, failed = {}, {}
    for number, name in enumerate(names, start=1):
        try:
            found[name] = features_of(name)
        except ImageError as error:
            failed[name] = error.reason
        progress("reading photographs", number, len(names), None)
    return found, failed


def _verified(pairs: list[LabelledPair], source: _Source, seed: int, progress: Progress) -> list[Verification]:
    from delf_engine.verification import verify_features

    out = []
    for number, pair in enumerate(pairs, start=1):
        out.append(
            verify_features(
                source.features[pair.a],
                source.features[pair.b],
                config=source.profile.verification,
                exponent=source.profile.ranking.exponent,
                seed=seed,
            )
        )
        progress("verifying", number, len(pairs), None)
    return out


class _Judged(NamedTuple):
    """Pairs that could be judged by others: their probabilities, their labels, and the places of all pairs."""

    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    places: list[tuple[str, str]]

    @property
    def both(self) -> bool:
        """Whether there are pairs of either label."""
        return len(set(self.labels.tolist())) == 2


def _judged(
    pairs: list[LabelledPair], verifications: list[Verification], folds: int, options: dict[str, Any]
) -> _Judged:
    import numpy as np

    from delf_engine.verification.calibration_folds import connected_places, cross_validated

    labels = np.array([pair.label for pair in pairs])
    places = connected_places([(pair.a, pair.b) for pair in pairs], labels)
    p = cross_validated(verifications, labels, places, folds=folds, **options)
    known = ~np.isnan(p)
    return _Judged(p[known], labels[known], list(places))


def _figures(pairs: list[LabelledPair], judged: _Judged, prior: float) -> dict[str, Any]:
    """Return how many pairs could be judged by others, and, of those, the figures (None without both labels)."""
    from delf_engine.evaluation.calibration_at_prior import calibration_error_at_prior
    from delf_engine.evaluation.calibration_figures import roc_auc

    p, labels, both = judged.probabilities, judged.labels, judged.both
    ends = [ends for pair, ends in zip(pairs, judged.places, strict=True) if pair.label]
    return {
        "places": len({place for pair in ends for place in pair}),
        "judged": len(p),
        "expected_calibration_error": calibration_error_at_prior(p, labels, prior=prior) if both else None,
        "roc_auc": roc_auc(p, labels) if both else None,
    }


def _draw(judged: _Judged, plot: Path | None, roc: Path | None) -> None:
    """Draw what cross-validation found."""
    if (plot or roc) and not judged.both:
        error_console().print("no pairs of both labels were judged, so there is nothing to draw", highlight=False)
        return
    from delf_engine.plotting import draw_reliability, draw_roc, save_figure

    if plot:
        save_figure(draw_reliability(judged.probabilities, judged.labels), plot)
    if roc:
        save_figure(draw_roc(judged.probabilities, judged.labels), roc)


def _report(calibration: Calibration, check: dict[str, Any], left_out: int, out: Path) -> list[str]:
    total = calibration.positives + calibration.negatives
    missing = f"; {left_out} left out, as a photograph could not be read" if left_out else ""
    lines = [
        f"{total} pairs: {calibration.positives} of one place ({check['places']} places), "
        f"{calibration.negatives} of different places{missing}"
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
