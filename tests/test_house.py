"""Limits that keep the code readable, measured on every file of the package, and the number of files that a new thing touches."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import chestmap
from chestmap.training.step_record import ALWAYS

SOURCE = Path(chestmap.__file__).parent
ROOT = SOURCE.parents[1]
FILES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)
MODULES = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAME_IDEA = {"cam.py", "folder.py", "losses.py", "prometheus.py", "settings.py", "start.py", "write.py"}
"""File names in several rooms that mean the same idea in each."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "handler", "stuff"}
RARE = ("beside", "stands", "told", "whose", "says", "whoever")
POSITIONAL = {"Box", "Prediction", "Pack"}
"""Large dataclasses that users make by position, or that others extend."""


@cache
def tree_of(path: Path) -> ast.Module:
    """Parsed where a test asks, since every worker loads this file and one of them runs it."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def is_verb(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command or a route: its options are its arguments."""
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    return path.parent.name == "cli" or any(re.search(r"\.(get|post|put|delete)\b", mark) for mark in marks)


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    own = [argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
    return len([argument for argument in own if argument not in {"self", "cls"}])


def docstrings(path: Path) -> list[str]:
    return [
        node.value.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def prose(path: Path) -> list[str]:
    """The words of a file's docstrings and comments."""
    comments = re.findall(r"(?:^|\s)# (.*)", path.read_text(encoding="utf-8"))
    return words(" ".join([*docstrings(path), *comments]))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def too_frequent(counted: Counter[str]) -> dict[str, int]:
    most = 2 * sum(counted.values()) / 10_000
    return {word: counted[word] for word in RARE if counted[word] > most}


def test_no_file_is_too_long():
    lines = {name(path): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {file: count for file, count in lines.items() if count > (450 if file.startswith("methods/") else 300)} == {}


def test_no_function_is_too_long():
    lengths = {
        f"{name(path)}:{node.name}:{node.lineno}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions()
    }
    assert {function: lines for function, lines in lengths.items() if lines > 60} == {}
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= 20


def test_no_function_has_more_than_six_arguments():
    counts = {f"{name(path)}:{node.name}": arguments(node) for path, node in functions() if not is_verb(path, node)}
    assert {function: count for function, count in counts.items() if count > 6} == {}


def fields(node: ast.ClassDef) -> list[str]:
    found = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    return [ast.unparse(line.target) for line in found if not re.search(r"ClassVar|init=False", ast.unparse(line))]


def test_large_dataclasses_take_keywords_alone():
    positional = [
        f"{name(path)}:{node.name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
        and any(
            ast.unparse(mark).startswith("dataclass") and "kw_only" not in ast.unparse(mark) for mark in node.decorator_list
        )
        and len(fields(node)) >= 5
        and node.name not in POSITIONAL
    ]
    assert positional == []


def test_no_file_name_explains_nothing():
    assert [name(path) for path in FILES if path.stem in VAGUE] == []


def test_a_file_name_means_one_thing():
    rooms = Counter(path.name for path in FILES if path.parent.name != "cli" and path.stem != "__init__")
    assert sorted(file for file, count in rooms.items() if count > 1 and file not in SAME_IDEA) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_a_room_describes_what_is_in_it(folder):
    described = ast.get_docstring(tree_of(folder / "__init__.py")) or ""
    assert described, f"{name(folder)}/__init__.py has no docstring"
    if folder != SOURCE:
        assert len(described.split("\n")) <= 5 or ">>>" in described, f"{name(folder)}/__init__.py: more than five lines"
    assert len(list(folder.glob("*.py"))) <= 22, f"{name(folder)} holds too many files: divide it"


def test_the_prose_of_the_code_is_plain():
    assert too_frequent(Counter(word for path in FILES for word in prose(path))) == {}


def test_the_prose_of_the_documentation_is_plain():
    assert too_frequent(Counter(word for path in PROSE for word in words(path.read_text(encoding="utf-8")))) == {}


def test_help_texts_are_plain():
    texts = [
        node.value.value
        for path in FILES
        if path.parent.name == "cli"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant)
    ]
    assert {word: text for text in texts for word in RARE if word in words(str(text))} == {}


def test_the_code_that_decides_every_step_exists():
    """A module that moved would else silently count no more."""
    missing = [module for module in ALWAYS if not (SOURCE.parent / (module.replace(".", "/") + ".py")).is_file()]
    assert missing == []


def imported_at_once(path: Path) -> set[str]:
    """Modules of the package that a file imports at its top; names for type checkers and imports within functions come later."""
    lines = [node for node in tree_of(path).body if isinstance(node, ast.ImportFrom) and node.module]
    pairs = [(f"{node.module}.{one.name}", str(node.module)) for node in lines for one in node.names]
    return {whole if whole in MODULES else module for whole, module in pairs} & MODULES.keys()


def test_no_circle_of_files_is_imported_together():
    """Files that need nothing that is left go, until none is left; files in a circle would stay."""
    left = {module: imported_at_once(path) - {module} for module, path in MODULES.items()}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def mentions(pattern: str) -> set[str]:
    return {name(path) for path in FILES if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)}


def test_a_dataset_is_one_file_and_one_line():
    for path in (SOURCE / "datasets").glob("*.py"):
        if re.search(r"^LAYOUT = ", path.read_text(encoding="utf-8"), re.MULTILINE) and path.stem != "folder":
            users = mentions(rf"chestmap\.datasets\.{path.stem}\b")
            assert users <= {"datasets/registry.py", "cli/demo.py"}, path.stem


def test_a_method_is_one_file_and_one_line():
    shared = {"training/wrapper_settings.py", "losses.py"}  # disease masks around others; losses of papers in public
    for path in (SOURCE / "methods").glob("*.py"):
        if path.stem != "__init__":
            assert mentions(rf"chestmap\.methods\.{path.stem}\b") <= {"methods/__init__.py", *shared}, path.stem


def test_a_format_is_one_class_and_one_line():
    registry = (SOURCE / "reports" / "formats.py").read_text(encoding="utf-8")
    for module, constant in re.findall(r'"chestmap\.reports\.(\w+):(\w+)"', registry):
        users = mentions(rf"^{constant} = Format\(|chestmap\.reports\.{module} import .*\b{constant}\b")
        assert users == {f"reports/{module}.py"}, constant


def test_every_file_that_the_guide_names_exists():
    named = set(re.findall(r"`([a-z_]+/[\w/]+\.(?:py|toml))`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert len(named) > 30
    kept = {path for path in named if "NAME" not in path}
    assert {path for path in kept if not (SOURCE / path).is_file() and not (ROOT / path).is_file()} == set()


def test_a_pooling_is_one_function_and_its_name():
    """Methods that pool by name ask `pooled` or `pooled_logits`; nothing else lists the names."""
    assert mentions(r"\bPOOLINGS\b") == {"nn/pooling.py"}
    assert mentions(r"^Pooling = Literal") == {"nn/pooling.py"}
