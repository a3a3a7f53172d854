"""What encodes images, in files: codebooks and mixtures alike."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from delf_engine.errors import FormatError
from delf_engine.index import Codebook, Mixture
from helpers import raises

MEANS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
ENCODERS: list[tuple[str, Any, Any]] = [
    ("codebook", Codebook(MEANS), Codebook(-MEANS)),
    ("mixture", Mixture(np.ones(7), MEANS, MEANS**2), Mixture(np.ones(7), MEANS, MEANS**2 + 1)),
]
BOTH = pytest.mark.parametrize(("what", "encoder", "other"), ENCODERS, ids=[what for what, _, _ in ENCODERS])


@BOTH
def test_equal_encoders_are_equal_files(tmp_path: Path, what: str, encoder: Any, other: Any) -> None:
    files = []
    for number in range(8):
        encoder.save(tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
    again = type(encoder).load(tmp_path / "0.safetensors")
    assert (again == encoder, hash(again) == hash(encoder)) == (True, True)
    assert other != encoder
    assert encoder != what
    for name in type(encoder)._names:
        np.testing.assert_array_equal(getattr(again, name), getattr(encoder, name))
        assert not getattr(again, name).flags.writeable


@BOTH
def test_an_encoder_travels_to_other_processes(what: str, encoder: Any, other: Any) -> None:
    if what == "codebook":
        encoder.assign(MEANS)  # makes what does not travel
    assert pickle.loads(pickle.dumps(encoder)) == encoder  # noqa: S301


@BOTH
def test_load_refuses(tmp_path: Path, what: str, encoder: Any, other: Any) -> None:
    path, made = tmp_path / "encoder.safetensors", {"format": f"delf-engine {what}", "version": "1"}

    def refused(*facts: str) -> None:
        with raises(FormatError, str(path), what, *facts):
            type(encoder).load(path)

    refused()
    with raises(FormatError, "nowhere"):
        encoder.save(tmp_path / "nowhere" / path.name)
    encoder.save(path)
    good = path.read_bytes()
    for contents in (b"", b"nonsense" * 10, good[:100], good[:-1]):
        path.write_bytes(contents)
        refused()
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    refused("hash")
    arrays = encoder._tensors()
    for metadata in (None, made, {**made, "version": "9"}):
        save_file(arrays, path, metadata)
        refused("version 9" if metadata and metadata["version"] == "9" else "")
    save_file({"words": MEANS}, path, made)
    refused()
    save_file({name: np.full_like(array, np.nan) for name, array in arrays.items()}, path, made)
    refused("NaN")
    next(one for _, one, _ in ENCODERS if one is not encoder).save(path)
    refused()
