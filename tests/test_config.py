from __future__ import annotations

import re
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
        assert isinstance(profile, Profile)
        assert profile.name == name


def test_every_toml_is_a_profile_or_a_recipe_of_training() -> None:
    rest = {path.stem for path in config_directory().glob("*.toml")} - set(profile_names())
    assert all(name.startswith("train_") for name in rest)


def test_the_delf_profile_has_the_papers_constants() -> None:
    profile = load_profile("delf")
    assert profile.extraction.scales == (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
    assert profile.extraction.max_image_size is None
    assert (profile.verification.model, profile.verification.residual_px) == ("affine", 20.0)
    assert profile.asmk == load_profile("default").asmk


def test_a_path_is_taken_as_str_and_as_path(tmp_path: Path) -> None:
    path = derived(tmp_path, "[reranking]\ntop_n = 7")
    assert load_profile(path) == load_profile(str(path))
    profile = load_profile(path)
    assert (profile.name, profile.reranking.top_n) == ("mine", 7)
    assert profile.extraction == load_profile("default").extraction


def test_extends_another_file_relative_to_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    derived(tmp_path, "[reranking]\ntop_n = 7\n[asmk]\nalpha = 2", "base.toml")
    path = write(tmp_path / "sub", "child.toml", 'extends = "../base.toml"\n[asmk]\nidf = true')
    monkeypatch.chdir("/")
    profile = load_profile(path)
    assert (profile.reranking.top_n, profile.asmk.alpha, profile.asmk.idf) == (7, 2.0, True)


def test_profiles_are_immutable() -> None:
    with raises(ValidationError, "frozen"):
        load_profile().reranking.top_n = 3  # type: ignore[misc]


def test_unknown_profile_names_the_nearest_and_all() -> None:
    with raises(ConfigError, "no profile 'defualt'; did you mean 'default'?", "default, delf"):
        load_profile("defualt")
    with raises(ConfigError, "no profile 'zzz'. Shipped profiles:", "default"):
        load_profile("zzz")


@pytest.mark.parametrize("name", ["../configs/default", "", ".", "default.tom", "DEFAULT/"])
def test_what_is_no_profile_name(name: str) -> None:
    with raises(ConfigError, "there is no profile"):
        load_profile(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[verification]\nresidual = 3", r"unknown key 'verification\.residual'; .* 'residual_px'"),
        ("[asmk]\nalhpa = 3", r"unknown key 'asmk\.alhpa'; .* 'alpha'"),
        ("[verifcation]\nresidual_px = 3", r"unknown key 'verifcation'; .* 'verification'"),
        ("indx = 'asmk'", r"unknown key 'indx'; .* 'index'"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: " + message):
        load_profile(derived(tmp_path, text))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("extraction", "max_features", '"1000"'),
        ("extraction", "max_features", "1000.5"),
        ("extraction", "max_features", "true"),
        ("extraction", "max_features", "0"),
        ("extraction", "max_image_size", "-1"),
        ("extraction", "scales", "[]"),
        ("extraction", "scales", "0.5"),
        ("extraction", "scales", "[0.5, -1]"),
        ("extraction", "scales", "[0.5, inf]"),
        ("extraction", "min_score", "nan"),
        ("extraction", "resize", '"cubic"'),
        ("storage", "codec", '"int4"'),
        ("asmk", "idf", "1"),
        ("asmk", "threshold", "1.5"),
        ("asmk", "alpha", '"none"'),
        ("verification", "residual_px", "inf"),
        ("verification", "ratio", "1.2"),
        ("verification", "confidence", "1.0"),
        ("verification", "model", '"similarity"'),
        ("reranking", "top_n", "[100]"),
    ],
)
def test_bad_values_name_the_file_and_the_key(tmp_path: Path, table: str, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.toml: {table}\.{key}"):
        load_profile(derived(tmp_path, f"[{table}]\n{key} = {value}"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with raises(ConfigError) as caught:
        load_profile(derived(tmp_path, "[asmk]\nalhpa = 3\nidf = 2\n[reranking]\ntop_n = 0"))
    assert all(key in str(caught.value) for key in ("asmk.alhpa", "asmk.idf", "reranking.top_n"))


def test_a_number_where_a_table_belongs(tmp_path: Path) -> None:
    with raises(ConfigError, "mine.toml: extraction:"):
        load_profile(derived(tmp_path, "extraction = 3"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "bare.toml", 'index = "asmk"\n[reranking]\ntop_n = 3\n')
    with raises(ConfigError, "bare.toml:", "extraction: Field required"):
        load_profile(path)


def test_the_word_none_stands_for_no_limit(tmp_path: Path) -> None:
    profile = load_profile(derived(tmp_path, '[extraction]\nmax_image_size = "none"'))
    assert profile.extraction.max_image_size is None


@pytest.mark.parametrize("length", [1, 2, 3])
def test_extends_round_in_a_circle(tmp_path: Path, length: int) -> None:
    for i in range(length):
        write(tmp_path, f"p{i}.toml", f'extends = "p{(i + 1) % length}.toml"\n')
    with raises(ConfigError, "p0.toml: 'extends' goes round in a circle"):
        load_profile(tmp_path / "p0.toml")


@pytest.mark.parametrize("base", ['"gone.toml"', '"gone"', "3"])
def test_extends_what_is_not_there(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match=r"gone|'3'"):
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
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read as TOML")):
            read_toml(path)
        with raises(ConfigError):
            load_profile(path)


def test_parse_config_says_where(tmp_path: Path) -> None:
    values: dict[str, Any] = {"top_n": 0}
    with raises(ConfigError, "manifest.json: top_n:"):
        parse_config(config.RerankingConfig, values, where="manifest.json")
    assert values == {"top_n": 0}
    assert parse_config(config.RerankingConfig, {"top_n": 5}, where="x").top_n == 5


def test_a_profile_survives_json() -> None:
    for name in profile_names():
        profile = load_profile(name)
        assert Profile.model_validate_json(profile.model_dump_json()) == profile
