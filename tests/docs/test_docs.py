"""What the documentation shows works: Python blocks run, command lines are understood, links lead somewhere, the site builds."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from chestmap.cli import app
from chestmap.evaluation.published import load_published
from chestmap.methods import METHODS
from chestmap.training.wrapper_settings import TINY, AroundSettings, refusals

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [ROOT / "docs" / "tutorial" / "own-folder.md", ROOT / "docs" / "how-to" / "python.md"]
COMMAND = typer.main.get_command(app)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines():
    """Lines that begin with `chestmap` in shell and indented blocks, and the examples of the help texts."""
    for page in PAGES:
        text = "\n".join(
            [*blocks(page, "sh"), *re.findall(r"^ {4}(chestmap .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)]
        )
        for line in text.replace("\\\n", " ").splitlines():
            yield from ((page.name, one) for one in commands_in(line))
    for group in (COMMAND, *(one for one in COMMAND.commands.values() if hasattr(one, "commands"))):
        for name, verb in group.commands.items():
            for example in re.findall(r"Example: `([^`]+)`", verb.help or ""):
                yield from ((f"{name} --help", one) for one in commands_in(example))


def commands_in(line):
    plain = line.split("  #")[0].split(" # ")[0].strip()
    return [part.strip() for part in plain.split("&&") if part.strip().startswith("chestmap ")]


LINES = sorted({line: place for place, line in command_lines() if "…" not in line and "VERB" not in line}.items())


@pytest.mark.parametrize(("line", "place"), LINES, ids=[line[:60] for line, _ in LINES])
def test_a_command_line_of_the_docs_is_understood(line, place):
    words = shlex.split(re.sub(r"\$\w+", "1", line))[1:]
    group, path = COMMAND, "chestmap"
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        assert words[0] in group.commands, f"{place}: {line}"
        group, path = group.commands[words[0]], f"{path} {words[0]}"
        words = words[1:]
    if {"--help", "--version"} & set(words):
        return
    group.make_context(path, words)  # raises where an option is unknown or an argument is missing


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, run_folder, dataset, tmp_path, monkeypatch):
    import chestmap
    from training.small import METHODS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(chestmap.METHODS, "small", METHODS["small"])
    shutil.copytree(run_folder, tmp_path / "runs" / "own")
    shutil.copytree(dataset, tmp_path / "films")
    shutil.copy(dataset / "003.png", tmp_path / "film.png")
    found = blocks(page, "python")
    assert found
    for block in found:
        exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_every_page_is_python(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")) or target in {
            "reference/cli.md",
            "reference/registries.md",
        }:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {target}"


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


def table(page, *columns):
    """The rows of the table that begins with these column names, as lists of cells."""
    head = "| " + " | ".join(columns) + " |"
    lines = page.read_text(encoding="utf-8").split(head + "\n", 1)[1].splitlines()[1:]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda one: one.startswith("|"), lines)
    ]


def test_the_quotations_of_li_2018_are_all_listed():
    """Each table that quotes them, under the config that repeats the row; disease masks name no config for a quoted row."""
    quoted = {name: row for name, one in load_published().items() for row in one.rows if row.name == "Li 2018"}
    rows = table(ROOT / "docs" / "papers" / "README.md", "config", 'row "Li 2018" of')
    listed = {name: config.strip("`") for config, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert set(listed) == set(quoted)
    configs = {name: row.config.partition("/")[2] for name, row in quoted.items() if row.config}
    assert {name: config for name, config in configs.items() if listed[name] != config} == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_a_page_with_figures_that_the_site_shows(method):
    page = ROOT / "docs" / "papers" / f"{method}.md"
    assert re.search(r"^\|.*\[\.\d+, \.\d+\]", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"papers/{method}.md" in (ROOT / "mkdocs.yml").read_text()


def test_the_page_of_wrappers_lists_what_each_method_takes():
    names = ("alignment", "masks", "erasing")
    shown = {row[0].strip("`"): row[1:] for row in table(ROOT / "docs" / "around.md", "method", *names)}
    assert set(shown) == set(METHODS)
    for name, cells in shown.items():
        settings = METHODS[name].settings.model_validate({"name": name, **METHODS[name].tiny})
        for kind, cell in zip(names, cells, strict=True):
            refused = bool(refusals(METHODS[name], settings, AroundSettings.model_validate({kind: TINY[kind]})))
            assert cell.startswith("no:" if refused else "yes"), (name, kind)


@pytest.mark.slow
def test_the_site_builds_without_a_network(tmp_path):
    pytest.importorskip("mkdocstrings", reason="mkdocs is not installed; it is in the docs extra")
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse; sys.argv = ['mkdocs', 'build', '-q', '-d', sys.argv[1]]\n"
        "from mkdocs.__main__ import cli; cli()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    assert "Opens a model" in page
    assert "https://fonts" not in page
