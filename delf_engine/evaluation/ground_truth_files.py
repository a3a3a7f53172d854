"""Writing ground truths in the layout that the revisited benchmarks distribute theirs in."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from delf_engine.errors import DataError
from delf_engine.evaluation.ground_truth import GroundTruth
from delf_engine.support.files import replacing

__all__ = ["save_ground_truth"]

_PROTOCOL = 2  # of pickle: what the published evaluation code reads in any version of Python


def save_ground_truth(path: str | os.PathLike[str], truth: GroundTruth) -> None:
    """Write a ground truth as ``gnd_roxford5k.pkl`` is laid out: whole, or not at all.

    The file is a pickle of plain lists, dictionaries, strings and numbers, ``{"imlist", "qimlist", "gnd"}`` with
    ``{"bbx", "easy", "hard", "junk"}`` for each query (Radenović et al., CVPR 2018). `load_ground_truth` reads
    it, and so does ``pickle.load`` in the published code. Equal ground truths give equal bytes.

    Parameters
    ----------
    path : path
        Its folder exists; a file of that name is replaced.
    truth : GroundTruth

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    queries = [
        {"bbx": box, "easy": easy.tolist(), "hard": hard.tolist(), "junk": junk.tolist()}
        for box, easy, hard, junk in zip(truth.boxes.tolist(), truth.easy, truth.hard, truth.junk, strict=True)
    ]
    content = {"imlist": list(truth.names), "qimlist": list(truth.query_names), "gnd": queries}
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(pickle.dumps(content, protocol=_PROTOCOL))
    except OSError as error:
        raise DataError(
            f"{path}: the ground truth cannot be written: {error.strerror or error}; make room or choose another "
            "folder"
        ) from error
