"""The floors of the architecture: each room imports only what lies below it, and stages never each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import delf_engine

PACKAGE = Path(delf_engine.__file__).parent

FLOORS: dict[int, set[str]] = {
    1: {"errors", "support"},
    2: {
        "model",
        "images",
        "features",
        "grid",
        "config",
        "pyramid",
        "evaluation",
        "interchange",
        "matching",
        "vectors",
    },
    3: {"extraction", "storage", "index", "verification"},
    4: {"reranking", "plotting", "training"},
    5: {"engine"},
    6: {"cli", "copies", "datasets", "demo", "mining", "serve", "shards"},
}
ROOMS = set().union(*FLOORS.values())
RECORDS = {"errors", "features", "config", "grid", "pyramid", "images", "support"}
TORCH_ROOMS = {"model", "training", "interchange", "extraction"}
# Of batches on a card.
TORCH_FILES = {"matching/batched.py", "verification/shards.py", "verification/tensors.py"}
TORCH_FILES |= {"index/codebook/on_device.py"}
BY_NAME = {"import_module", "__import__"}


def below(floor: int) -> set[str]:
    return set().union(*(rooms for number, rooms in FLOORS.items() if number < floor))


MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),  # names are imported on first use
    "__main__": {"cli"},
    **{room: below(floor) for floor, rooms in FLOORS.items() for room in rooms},
    "model": RECORDS,
    "evaluation": RECORDS,
    "support": {"errors"},
    "grid": {"features"},
    "matching": {"errors", "support"},
    "vectors": {"errors", "support"},
    "interchange": {"features", "config", "errors", "model", "support"},
    "reranking": {"verification", "storage", "features", "config", "errors", "support"},
    "plotting": RECORDS | {"evaluation", "verification"},
    "training": RECORDS
    | {"model", "evaluation", "interchange", "extraction", "index", "vectors"},  # words and whitening go with it
    "datasets": {"config", "errors", "evaluation", "images", "support"},
    "serve": below(6) | {"copies", "shards"},  # one of its jobs; parts that are searched as an engine is
    "cli": below(6) | {"copies", "datasets", "demo", "mining", "serve", "shards"},  # commands that start them
}


# ---------------------------------------------------------------------------------------------- the inspector


def violations(package: Path) -> list[str]:
    """Return one line for each import in `package` that the floors forbid."""
    problems = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        if room not in MAY_IMPORT:
            problems.append(f"{inside}: belongs to no floor")
            continue
        for line, module in imports(path, package):
            if inside.as_posix() in TORCH_FILES and module.split(".")[0] == "torch":
                continue
            complaint = judge(room, module, package.name)
            if complaint:
                problems.append(f"{inside}:{line}: {complaint}")
    return problems


def judge(room: str, module: str, package: str) -> str | None:
    """Say what is wrong with `room` importing `module` (a dotted path, a name of it included), if anything."""
    top, *rest = module.split(".")
    if top in ("torch", "torchvision"):
        return None if room in TORCH_ROOMS else f"{room} imports {top}"
    if top != package or rest[:1] == ["__version__"]:
        return None
    if not rest or rest[0] not in ROOMS:  # what the package itself offers may come from any floor
        return None if room in FLOORS[6] else f"{room} imports {module}: name the module it lives in"
    return None if rest[0] in MAY_IMPORT[room] | {room} else f"{room} imports {rest[0]}"


def circles(package: Path) -> list[str]:
    """Return the modules that import themselves by way of others of their room; no import is excepted."""
    files = {
        ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    imported: dict[str, set[str]] = {}
    for module, path in files.items():
        named = {name for _, name in imports(path, package, types=True)}
        targets = {name if name in files else name.rpartition(".")[0] for name in named}
        room = module.split(".")[1:2]
        imported[module] = {name for name in targets & set(files) - {module} if name.split(".")[1:2] == room}

    def reached(module: str) -> set[str]:
        found: set[str] = set()
        ahead = list(imported[module])
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead += imported[name]
        return found

    return sorted(module for module in files if module in reached(module))


def imports(path: Path, package: Path, *, types: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of imports at any depth; those under ``if TYPE_CHECKING:`` only with `types`."""
    here = [package.name, *path.relative_to(package).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if types else executed(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in BY_NAME:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = iter(node.orelse)
    for child in children:
        yield from executed(child)


# --------------------------------------------------------------------------------------------------- the rule


def test_every_room_imports_only_what_lies_below_it() -> None:
    assert violations(PACKAGE) == []


def test_no_module_of_a_room_imports_itself_by_way_of_others() -> None:
    assert circles(PACKAGE) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of two stages, a floor above and a floor below them, in order."""
    package = tmp_path / "delf_engine"
    texts = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
        "errors.py": "",
        "features.py": "import numpy as np\nfrom delf_engine.errors import FeatureError\n",
        "model/__init__.py": "import torch\nfrom delf_engine.features import LocalFeatures\n",
        "extraction/__init__.py": "from delf_engine.extraction.extractor import Extractor\n",
        "extraction/extractor.py": "from ..model import Network\nfrom . import Extractor\nimport torch.nn\n",
        "index/asmk.py": "from delf_engine import __version__, features\n",
        "reranking/__init__.py": "import delf_engine.verification\n",
        "engine.py": "from delf_engine.index.asmk import AsmkIndex\nfrom .reranking import rerank\n",
        "cli/__init__.py": "from delf_engine.demo import run\nimport delf_engine\n",
    }
    for name, text in texts.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_a_tree_in_order_has_no_violation(tree: Path) -> None:
    assert violations(tree) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("errors.py", "import delf_engine.features", "errors imports features"),
        ("features.py", "from delf_engine.config import Profile", "features imports config"),
        ("features.py", "from delf_engine.model import Network", "features imports model"),
        ("model/head.py", "from delf_engine.evaluation import evaluate", "model imports evaluation"),
        ("index/asmk.py", "from delf_engine.extraction import Extractor", "index imports extraction"),
        ("index/asmk.py", "from delf_engine import extraction", "index imports extraction"),
        ("index/asmk.py", "from ..storage import FeatureStore", "index imports storage"),
        ("index/asmk.py", "from .. import storage", "index imports storage"),
        ("index/deep/er.py", "from ...storage.lmdb import x", "index imports storage"),
        ("index/asmk.py", "def f():\n    import delf_engine.training.loop", "index imports training"),
        ("index/asmk.py", "import importlib\nimportlib.import_module('delf_engine.cli')", "index imports cli"),
        (
            "index/asmk.py",
            "if 1:\n    pass\nelse:\n    from ..verification import x",
            "index imports verification",
        ),
        ("index/asmk.py", "from delf_engine import Extractor", "name the module it lives in"),
        ("index/asmk.py", "import delf_engine as de", "name the module it lives in"),
        ("index/asmk.py", "from delf_engine import *", "name the module it lives in"),
        ("index/asmk.py", "from torch import nn", "index imports torch"),
        ("engine.py", "def f():\n    import torchvision.models", "engine imports torchvision"),
        ("plotting.py", "from delf_engine.storage import x", "plotting imports storage"),
        ("reranking/__init__.py", "from delf_engine.index import AsmkIndex", "reranking imports index"),
        ("reranking/__init__.py", "from delf_engine.engine import Engine", "reranking imports engine"),
        ("engine.py", "from delf_engine.cli import main", "engine imports cli"),
        ("engine.py", "from delf_engine.demo.scenes import x", "engine imports demo"),
        ("demo/__init__.py", "from delf_engine.cli import main", "demo imports cli"),
        ("__init__.py", "from delf_engine.engine import Engine", "__init__ imports engine"),
        ("utils.py", "import os", "belongs to no floor"),
    ],
)
def test_the_inspector_catches(tree: Path, file: str, text: str, complaint: str) -> None:
    path = tree / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (problem,) = violations(tree)
    assert problem.startswith(file)
    assert complaint in problem


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_type_checkers_only_are_free(tree: Path, guard: str) -> None:
    body = f"import typing\nif {guard}:\n    import torch\n    from ..storage import FeatureStore\n"
    (tree / "index" / "asmk.py").write_text(body)
    assert violations(tree) == []
    (tree / "index" / "asmk.py").write_text(body + "else:\n    import torch\n")
    assert len(violations(tree)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from delf_engine.index.asmk import AsmkIndex",
        "from . import asmk",
        "def f():\n    import delf_engine.index.asmk",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .asmk import AsmkIndex",
    ],
)
def test_a_circle_within_a_room_is_found(tree: Path, text: str) -> None:
    (tree / "index" / "asmk.py").write_text("from delf_engine.index.codebook import Codebook\n")
    (tree / "index" / "codebook.py").write_text("from delf_engine.features import LocalFeatures\n")
    before = circles(tree)
    (tree / "index" / "codebook.py").write_text(text)
    assert set(circles(tree)) - set(before) == {"delf_engine.index.asmk", "delf_engine.index.codebook"}


# --------------------------------------------------------------------------------------------------- start-up


def loaded_by(code: str) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """Run `code` in a fresh interpreter; return the top-level modules it had loaded at its end."""
    tail = "\nfinally:\n    import sys\n    print('\\n@', *sorted({m.partition('.')[0] for m in sys.modules}))"
    body = "try:\n" + "\n".join("    " + line for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", body + tail], capture_output=True, text=True, check=False)
    assert "\n@ " in done.stdout, done.stderr
    return set(done.stdout.rpartition("\n@ ")[2].split()), done


def test_import_delf_engine_loads_nothing_heavy() -> None:
    modules, done = loaded_by("import delf_engine\ndir(delf_engine)\ndelf_engine.__version__")
    assert done.returncode == 0, done.stderr
    assert "delf_engine" in modules
    heavy = {"torch", "torchvision", "cv2", "numba", "pydantic", "matplotlib", "faiss", "scipy", "sklearn", "lmdb"}
    assert modules & heavy == set()


@pytest.mark.parametrize("name", ["LocalFeatures", "load_profile", "DelfEngineError", "verify_features", "Engine"])
def test_light_names_do_not_load_torch(name: str) -> None:
    modules, done = loaded_by(f"import delf_engine\ndelf_engine.{name}")
    assert done.returncode == 0, done.stderr
    assert "torch" not in modules


def test_every_public_name_has_a_home() -> None:
    assert set(delf_engine._HOME) | {"__version__"} == set(delf_engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Extracter'"):
        delf_engine.Extracter  # noqa: B018


@pytest.mark.skipif(
    not any((PACKAGE / name).is_file() for name in ("cli.py", "cli/__init__.py")), reason="no command line yet"
)
def test_help_does_not_load_torch() -> None:
    code = "import sys\nsys.argv = ['delf-engine', '--help']\nfrom delf_engine.cli import main\nmain()"
    modules, done = loaded_by(code)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert modules & {"torch", "torchvision", "numba", "matplotlib"} == set()
