"""Where the calibration of a checkpoint lies, and whether it holds for what is asked."""

from __future__ import annotations

import os
from pathlib import Path

from delf_engine.config import Profile
from delf_engine.errors import MismatchError
from delf_engine.verification.calibration import Calibration

__all__ = ["calibration_beside", "load_calibration"]

_SUFFIX = ".calibration.json"


def calibration_beside(checkpoint: str | os.PathLike[str]) -> Path:
    """Return where the calibration of a checkpoint file lies if it has one: ``NAME.calibration.json``."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}{_SUFFIX}")


def load_calibration(
    checkpoint: str | os.PathLike[str], *, profile: Profile | None = None, identity: str | None = None
) -> Calibration | None:
    """Load the calibration that lies beside a checkpoint, if there is one that holds.

    Parameters
    ----------
    checkpoint : path
        Of the checkpoint's file (`delf_engine.model.checkpoint_path`), or of a calibration (``.json``).
    profile : Profile or None
        That pairs are extracted and verified with.
    identity : str or None
        Of the model (`CheckpointInfo.identity`).

    Returns
    -------
    Calibration or None
        None if there is no file beside the checkpoint, or it was fitted for another model or other options: no
        probability rather than a wrong one.

    Raises
    ------
    FormatError
        If the file is damaged, or a calibration that was named outright is missing.
    MismatchError
        If a calibration that was named outright does not hold for this model and these options.
    """
    named = Path(checkpoint).suffix == ".json"
    path = Path(checkpoint) if named else calibration_beside(checkpoint)
    if not named and not path.is_file():
        return None
    found = Calibration.load(path)
    if found.holds_for(profile=profile, checkpoint=identity):
        return found
    if named:
        raise MismatchError(
            f"{path}: fitted for model {found.checkpoint or '(unknown)'} and profile "
            f"{found.profile or '(unknown)'}, not for {identity or 'this model'} and "
            f"{profile.name if profile else 'this profile'}; fit another one (delf-engine calibrate)"
        )
    return None
