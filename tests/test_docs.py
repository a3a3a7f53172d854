"""README, site and examples say what is there: names, commands, links, tables, and the reference is complete."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from PIL import Image

import delf_engine
from delf_engine.cli import app
from delf_engine.demo.scenes import Collection, render_collection

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
]
#: What the reference documents, by the `__all__` of each.
PACKAGES = """
    delf_engine delf_engine.config delf_engine.copies delf_engine.datasets delf_engine.engine
    delf_engine.errors delf_engine.evaluation delf_engine.extraction delf_engine.images delf_engine.index
    delf_engine.interchange delf_engine.matching delf_engine.model delf_engine.plotting
    delf_engine.plotting.report delf_engine.reranking delf_engine.serve delf_engine.storage
    delf_engine.shards delf_engine.training delf_engine.vectors delf_engine.verification
""".split()  # noqa: SIM905 - a list that is read
CELL = "{code-cell} ipython3"
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "the_whole_thing.py")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the code blocks of a page in some languages, code cells of the site included."""
    named = "|".join(re.escape(language) for language in languages)
    for block in re.finditer(
        rf"^(`{{3,}})(?:{named})\n(.*?)^\1", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        yield re.sub(r"\A(?:---\n.*?---\n|(?::\S+:.*\n)+)", "", block[2], flags=re.DOTALL)  # options of a cell


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------- the pages


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_on_pages_parses_and_its_names_exist(page: Path) -> None:
    for code in blocks(page, "python", CELL):
        if not code.startswith("%%"):  # of another language
            check_names(parsed(code))


def parsed(code: str) -> ast.AST:
    """Parse code without the magic of notebooks."""
    return ast.parse("\n".join(line for line in code.splitlines() if not line.startswith(("%", "!"))))


def check_names(tree: ast.AST) -> None:
    """Check what is imported of the package, and names and keywords of what is called as `de.NAME`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("delf_engine", "benchmarks"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
        if isinstance(node, (ast.Attribute, ast.Call)):
            known = resolved(node.func if isinstance(node, ast.Call) else node)
            if isinstance(node, ast.Call) and callable(known):
                parameters = inspect.signature(known).parameters
                if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                    assert {k.arg for k in node.keywords if k.arg} <= set(parameters), ast.unparse(node)


def resolved(node: ast.AST) -> Any:
    """Return what `de.NAME.NAME` stands for, None for anything else; fails where there is no such name."""
    names = ast.unparse(node).split(".")
    if names[0] not in ("de", "delf_engine") or not all(name.isidentifier() for name in names):
        return None
    value: Any = delf_engine
    for name in names[1:]:
        value = getattr(value, name) if hasattr(value, name) else importlib.import_module(f"delf_engine.{name}")
    return value


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_on_pages_exist_with_their_options(page: Path) -> None:
    cells = (code for code in blocks(page, CELL) if code.startswith("%%bash"))
    for text in (*blocks(page, "bash", "console", "shell"), *cells):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "delf-engine" in words[:1]:
                check_command(words[1:])
            elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks"):
                assert importlib.util.find_spec(words[2]) is not None, line
            elif words[:1] == ["python"] and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), line


def check_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options | {"--help", "--version"}, f"{command.name}: {given - options}"
    if hasattr(command, "commands"):
        assert not words or words[0].startswith("--") or words[0].isupper(), f"no command {words[0]}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    shown = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
    text = re.sub(r"^(`{3,}).*?^\1", "", shown, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(<?([^)>\s]+)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        assert any(p.exists() for p in (path, Path(f"{path}.md"), Path(f"{path}.ipynb"))), target


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "reference").rglob("*.md"))
    listed = re.findall(r"^\.\. auto(?:class|function|data|exception):: (\S+)$", text, re.MULTILINE)
    described = {id(named(path)): path for path in listed}
    modules = set(re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE))
    assert len(listed) == len(set(listed))
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            known = (
                id(value) in described or getattr(value, "__module__", None) in modules or name == "__version__"
            )
            assert known or f"{package}.{name}" in listed, (
                f"{package}.{name} has no entry in docs/reference/python/"
            )


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_documented_function_describes_its_parameters() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "reference").rglob("*.md"))
    lacking = []
    for path in re.findall(r"^\.\. autofunction:: (\S+)$", text, re.MULTILINE):
        doc = inspect.getdoc(named(path)) or ""
        names = [n for n in inspect.signature(named(path)).parameters if not n.startswith("_")]
        if len(names) > 2:  # with fewer, the summary says it
            lacking += [f"{path}: {name}" for name in names if not re.search(rf"\b{name}\b", doc)]
    assert lacking == []


def test_every_documented_name_has_a_docstring() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "reference").rglob("*.md"))
    for path in re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", text, re.MULTILINE):
        value = named(path)
        assert inspect.getdoc(value), path
        for name, member in vars(value).items() if inspect.isclass(value) else ():
            if not name.startswith("_") and inspect.isfunction(member) and member.__name__ == name:
                assert inspect.getdoc(getattr(value, name)), f"{path}.{name}"


# ------------------------------------------------------------------------------------------- generated contents


def test_tables_of_benchmarks_are_those_of_their_results() -> None:
    tables = loaded(DOCS / "tables.py")
    shown = set()
    for page in (DOCS / "benchmarks").glob("*.md"):
        text = page.read_text("utf-8")
        assert tables.renewed(text) == text, f"{page.name}: run python docs/tables.py"
        shown |= set(tables.result_names(text))
    for path in (DOCS / "results").glob("*.json"):
        assert path.stem in shown, f"{path.name} is on no page"
        elsewhere = re.findall(r'"/\w[^"]*"', path.read_text("utf-8"))
        assert not elsewhere, f"{path.name} names paths of one machine: {elsewhere[:3]}"


def test_a_table_is_made_of_what_a_benchmark_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = importlib.import_module("benchmarks.common")
    script = str(ROOT / "benchmarks" / "startup.py")
    monkeypatch.setattr(sys, "argv", [script, "--runs", "2", "--out", "a.json", "--data", "/home/me/DATA"])
    common.print_markdown("Seconds | of two_runs", ["command", "a < b"], [["verify", "1.0"]])
    common.print_table("other", ["x"], [["1"]])
    common.print_table("other", ["x"], [["2"]])
    common.write_json(tmp_path / "startup.json", {"seconds": 1})
    assert "tables" not in common.write_json(tmp_path / "next.json", {})
    tables = loaded(DOCS / "tables.py")
    page = "before\n<!-- results: startup 1 | python -m benchmarks.startup -->\n<!-- end of results -->\nafter\n"
    text = tables.renewed(page, tmp_path)
    assert tables.renewed(text, tmp_path) == text
    assert "**Seconds \\| of two\\_runs**" in text
    assert "| command | a \\< b |\n| --- | ---: |\n| verify | 1.0 |" in text
    assert "--runs 2 --data DATA\n```" in text
    assert "other" not in text
    assert "| 2 |" in tables.renewed(page.replace("startup 1", "startup 2"), tmp_path)
    missing = tables.renewed(page, tmp_path / "nowhere")
    assert "python -m benchmarks.startup\n```" in missing
    assert "| ---" not in missing


def test_the_figure_shows_every_system_of_its_results() -> None:
    setup = {"mean_ap": 90.0, "interval_95": [80.0, 95.0]}
    result = {
        "methods": [
            {"name": "delf-r18: ASMK", "setups": {"medium": {"mean_ap": 50.0, "interval_95": [40.0, 60.0]}}},
            {"name": "delf-r18: ASMK, first 100 verified", "setups": {"medium": setup}},
        ],
        "stages": [
            {"name": "delf-r18: features, paris", "seconds": 5.0, "timed": 10},
            {"name": "delf-r18: features, queries of paris", "seconds": 1.0, "timed": 1},
        ],
    }
    figure = loaded(DOCS / "figure.py")
    assert figure.points(result) == {"delf-r18": (0.5, 90.0, 80.0, 95.0)}
    (axes,) = figure.draw([result]).axes
    assert [text.get_text() for text in axes.texts] == ["delf-r18"]
    with Image.open(figure.PICTURE) as picture:
        assert picture.info["Source"] == figure.digest(), "run python docs/figure.py"


def test_generated_reference_holds_every_command_and_constant() -> None:
    pytest.importorskip("numpydoc", reason="of the extra `docs`")
    generated = loaded(DOCS / "_ext" / "generated.py")
    commands = generated.commands()
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"### delf-engine {name}\n" in commands
    assert "`--top-k INTEGER` | Hits to show. Default: `10`." in commands
    constants = generated.constants()
    profile = delf_engine.load_profile()
    for section in ("extraction", "verification", "fine", "ranking"):
        for key in type(getattr(profile, section)).model_fields:
            (row,) = (
                line
                for line in constants.partition(f"## `[{section}]`")[2].split("\n## ")[0].splitlines()
                if line.startswith(f"| `{key}` |")
            )
            assert all(cell.strip() for cell in row.split(" | ")[1:3]), row
    assert "`large`: 1600" in constants


# ----------------------------------------------------------------------------------------- examples, other files


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return render_collection(tmp_path_factory.mktemp("collection"), views_per_place=2, distractors=1)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_run(
    script: Path,
    collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(script.read_text("utf-8").splitlines()) <= 60
    photos, query = collection.gallery[0].path, str(collection.queries[0].path)
    folder, found = str(photos.parent), str(photos)
    arguments, said = {
        "group_by_place": ([folder, "groups.json"], "2 places with more than one photograph"),
        "own_features": ([query, found], "matches agree on one homography"),
        "rerank_faiss": ([folder, query], " inliers, same"),
        "search_folder": ([folder, query, "engine"], "2 photographs show the same place"),
        "verify_pair": ([query, found, "matches.png"], "the same place (probability"),
    }[script.stem]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    with pytest.raises(SystemExit, match=f"python examples/{script.name}"):  # how to call it
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr()
    assert said in printed.out
    assert not printed.err


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_hold_no_output_and_name_what_exists(notebook: Path) -> None:
    content = json.loads(notebook.read_text("utf-8"))
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            check_names(parsed("".join(cell["source"])))


def test_the_image_is_made_of_what_is_there_and_runs_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] != "root"
