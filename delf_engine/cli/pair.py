"""Commands on single photographs and pairs: verify, attention."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from delf_engine.cli.console import print_json, say
from delf_engine.cli.options import (
    BoxOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    PlotOption,
    ProfileOption,
    SeedOption,
    check_outputs,
    parse_box,
)

#: 1 and 2 are errors.
_EXIT_CODES = {"different": 3, "unsure": 4}


def verify(
    a: Annotated[Path, typer.Argument(help="A photograph.")],
    b: Annotated[Path, typer.Argument(help="Another photograph.")],
    model: ModelOption = "delf-r18",
    profile: ProfileOption = None,
    box_a: BoxOption = None,
    box_b: BoxOption = None,
    max_pixels: MaxPixelsOption = None,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw A laid over B into this picture.")
    ] = None,
    mode: Annotated[
        Literal["blend", "checkerboard", "colours"],
        typer.Option("--overlay-mode", help="How A is laid over B."),
    ] = "blend",
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a page with pictures and figures.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="File of `calibrate`. Default: what comes with the model or the package."
        ),
    ] = None,
    fine: Annotated[
        bool, typer.Option(help="Look at details, too, which tell look-alikes apart; about 0.5 s.")
    ] = True,
    turn: Annotated[bool, typer.Option(help="If the answer is not yes, turn one of them and try again.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say whether two photographs show the same place: exit code 0 if so, 3 if not, 4 if that is not sure."""
    from delf_engine.engine.pairs import verify_pair
    from delf_engine.extraction import Extractor

    check_outputs(pictures=(plot, overlay))
    if report:
        from delf_engine.plotting.report import check_path

        check_path(report)
    extractor = Extractor.from_pretrained(model, profile=profile, max_pixels=max_pixels)
    result, features_a, features_b, _ = verify_pair(
        a,
        b,
        model=model,
        profile=profile,
        box_a=parse_box(box_a),
        box_b=parse_box(box_b),
        seed=seed,
        extractor=extractor,
        calibration=calibration,
        fine=fine,
        turn=turn,
    )
    if as_json:
        print_json({"a": str(a), "b": str(b), **result.to_dict()})
    else:
        say(str(result))
    if plot:
        from delf_engine.plotting import save_matches

        save_matches(plot, a, b, features_a, features_b, result, labels=(a.name, b.name))
    if overlay:
        from delf_engine.plotting import draw_overlay, save_figure

        over = draw_overlay(a, b, result, features=(features_a, features_b), mode=mode)
        save_figure(over, overlay)
    if report:
        from delf_engine.plotting.report import write_pair_report

        write_pair_report(report, a, b, features_a, features_b, result, title=f"{a.name} and {b.name}")
    if not result:
        raise typer.Exit(_EXIT_CODES[result.verdict])


def attention(
    photo: Annotated[Path, typer.Argument(help="A photograph.")],
    plot: Annotated[Path, typer.Option(metavar="PNG", help="Draw the heat map into this picture.")],
    model: ModelOption = "delf-r18",
    profile: ProfileOption = None,
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Draw where the extractor looks: a heat map of its attention over a photograph."""
    from delf_engine.extraction import Extractor
    from delf_engine.plotting import draw_attention, save_figure

    check_outputs(pictures=(plot,))
    extractor = Extractor.from_pretrained(model, profile=profile, max_pixels=max_pixels)
    heat = extractor.attention_map(photo)
    save_figure(draw_attention(photo, heat, title=photo.name, max_pixels=extractor.max_pixels), plot)
    say(f"{len(extractor(photo))} features; wrote {plot}")
