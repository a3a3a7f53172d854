from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from delf_engine import config
from delf_engine.config import (
    Profile,
    config_directory,
    load_profile,
    parse_config,
    profile_names,
    read_toml,
)
from delf_engine.errors import ConfigError
from helpers import raises


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def derived(folder: Path, text: str, name: str = "mine.toml") -> Path:
    """A profile that takes everything from the default one but what `text` says."""
    return write(folder, name, f'extends = "default"\n{text}')


def test_every_shipped_profile_loads() -> None:
    assert {"default", "delf"} <= set(profile_names())
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        assert Profile.model_validate_json(profile.model_dump_json()) == profile
    with raises(ValidationError, "frozen"):
        profile.reranking.top_n = 3  # type: ignore[misc]
    rest = {path.stem for path in config_directory().glob("*.toml")} - set(profile_names())
    assert all(name.startswith("train_") for name in rest)


def test_the_delf_profile_has_the_papers_constants() -> None:
    profile = load_profile("delf")
    assert profile.extraction.scales == (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
    assert profile.extraction.max_image_size is None
    assert (profile.verification.model, profile.verification.residual_px) == ("affine", 20.0)
    assert profile.asmk == load_profile("default").asmk


def test_a_path_is_taken_as_str_and_as_path(tmp_path: Path) -> None:
    path = derived(tmp_path, '[reranking]\ntop_n = 7\n[verification]\nmax_distance = "none"')
    assert load_profile(path) == load_profile(str(path))
    profile = load_profile(path)
    assert (profile.name, profile.reranking.top_n) == ("mine", 7)
    assert profile.extraction == load_profile("default").extraction
    assert profile.verification.max_distance is None


def test_extends_another_file_relative_to_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    derived(tmp_path, "[reranking]\ntop_n = 7\n[asmk]\nalpha = 2", "base.toml")
    path = write(tmp_path / "sub", "child.toml", 'extends = "../base.toml"\n[asmk]\nidf = true')
    monkeypatch.chdir("/")
    profile = load_profile(path)
    assert (profile.reranking.top_n, profile.asmk.alpha, profile.asmk.idf) == (7, 2.0, True)


def test_unknown_profile_names_the_nearest_and_all() -> None:
    with raises(ConfigError, "'defualt'", "'default'?", "default, delf"):
        load_profile("defualt")


@pytest.mark.parametrize("name", ["../configs/default", "", ".", "default.tom", "DEFAULT/", "zzz"])
def test_what_is_no_profile_name(name: str) -> None:
    with raises(ConfigError, repr(name)):
        load_profile(name)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[verification]\nresidual = 3", ["'verification.residual'", "'residual_px'"]),
        ("[verifcation]\nresidual_px = 3", ["'verifcation'", "'verification'"]),
        ("indx = 'asmk'", ["'indx'", "'index'"]),
        ("extraction = 3", ["extraction:"]),
        ("[asmk]\nalhpa = 3\nidf = 2\n[reranking]\ntop_n = 0", ["'asmk.alhpa'", "asmk.idf", "reranking.top_n"]),
    ],
)
def test_wrong_keys_are_told_all_at_once_with_the_nearest(tmp_path: Path, text: str, facts: list[str]) -> None:
    with raises(ConfigError, "mine.toml: ", *facts):
        load_profile(derived(tmp_path, text))
    with raises(ConfigError, "bare.toml: ", "storage: Field required"):
        load_profile(write(tmp_path, "bare.toml", 'index = "asmk"'))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("extraction", "max_features", '"1000"'),
        ("extraction", "max_features", "0"),
        ("extraction", "max_image_size", "-1"),
        ("extraction", "scales", "0.5"),
        ("extraction", "scales", "[0.5, inf]"),
        ("extraction", "min_score", "nan"),
        ("extraction", "resize", '"cubic"'),
        ("asmk", "idf", "1"),
        ("asmk", "threshold", "1.5"),
        ("asmk", "alpha", '"none"'),
        ("verification", "residual_px", "inf"),
        ("verification", "confidence", "1.0"),
        ("reranking", "top_n", "[100]"),
    ],
)
def test_bad_values_name_the_file_and_the_key(tmp_path: Path, table: str, key: str, value: str) -> None:
    with raises(ConfigError, f"mine.toml: {table}.{key}"):
        load_profile(derived(tmp_path, f"[{table}]\n{key} = {value}"))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_extends_round_in_a_circle(tmp_path: Path, length: int) -> None:
    for i in range(length):
        write(tmp_path, f"p{i}.toml", f'extends = "p{(i + 1) % length}.toml"\n')
    with raises(ConfigError, "p0.toml: 'extends' goes round in a circle"):
        load_profile(tmp_path / "p0.toml")


@pytest.mark.parametrize("base", ['"gone.toml"', '"gone"', "3"])
def test_extends_what_is_not_there(tmp_path: Path, base: str) -> None:
    with raises(ConfigError, base.strip('"')):
        load_profile(write(tmp_path, "mine.toml", f"extends = {base}\n"))


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    for path in (
        tmp_path / "gone.toml",
        tmp_path / "folder.toml",
        tmp_path / "latin.toml",
        write(tmp_path, "broken.toml", "[extraction\n"),
        write(tmp_path, "twice.toml", "a = 1\na = 2\n"),
    ):
        with raises(ConfigError, f"{path}: "):
            read_toml(path)
        with raises(ConfigError):
            load_profile(path)


def test_parse_config_says_where(tmp_path: Path) -> None:
    values: dict[str, Any] = {"top_n": 0}
    with raises(ConfigError, "manifest.json: top_n:"):
        parse_config(config.RerankingConfig, values, where="manifest.json")
    assert values == {"top_n": 0}
    assert parse_config(config.RerankingConfig, {"top_n": 5}, where="x").top_n == 5
