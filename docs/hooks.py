# ruff: noqa: INP001
"""Makes the reference pages from the program itself, and unlinks what lies outside docs/, when mkdocs builds the site."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+(?:benchmarks|configs|examples|src|tests)[^)]*\)|\[([^\]]+)\]\((?:\.\./)*(?:CONTRIBUTING|README|CHANGELOG|LICENSE)[^)]*\)"
)
NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"
FOLDERS = re.compile(r"\[([^\]]+)\]\(((?:scale|decisions|papers)/?|[\w./-]+\.(?:sh|yaml|py))\)")


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    files.append(File.generated(config, "reference/registries.md", content=registries()))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files that the site does not hold become plain text."""
    if page.file.src_uri.startswith("papers/"):
        markdown = re.sub(r"\[([^\]]+)\]\(\.\./\.\./[^)]*\)", r"\1", markdown)
    text = OUTSIDE.sub(lambda found: found[1] or found[2], markdown)
    return FOLDERS.sub(r"\1", text)


def command_line() -> str:
    """Every verb with its arguments and options, from the program."""
    import typer

    from chestmap.cli import app

    lines = ["# Command line", "", "Made from the program; `chestmap VERB --help` prints the same.", ""]
    for path, command in verbs(typer.main.get_command(app), "chestmap"):
        text = re.sub(r"^Example: `(.+)`$", r"```sh\n\1\n```", (command.help or "").replace("\f", ""), flags=re.MULTILINE)
        lines += [f"## {path}", "", text.strip(), "", "| argument or option | what it is | default |", "|---|---|---|"]
        for parameter in command.params:
            name = (
                (parameter.metavar or parameter.name)
                if parameter.param_type_name == "argument"
                else ", ".join(parameter.opts)
            )
            told = " ".join(str(getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
            lines.append(f"| `{name}` | {told} | {_default(parameter)} |")
        lines.append("")
    return "\n".join(lines)


def _default(parameter: Any) -> str:
    """The default as it is typed; nothing where there is none or it is a switch that is off."""
    value = getattr(parameter, "default", None)
    if value in (None, False, (), [], "") or callable(value) or type(value).__name__ == "Sentinel":
        return "required" if getattr(parameter, "required", False) else ""
    return f"`{value}`"


def verbs(command: Any, path: str) -> list[tuple[str, Any]]:
    """Path and command of every verb, groups opened."""
    found = []
    for name, child in command.commands.items():
        below = f"{path} {name}"
        found += verbs(child, below) if hasattr(child, "commands") else [(below, child)]
    return found


def notebook(path: Path) -> str:
    """The cells of a notebook with what they showed."""
    lines = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        lines += [source, ""] if cell["cell_type"] == "markdown" else ["```python", source, "```", ""]
        for output in cell.get("outputs", ()):
            lines += [*_shown(output.get("data", {"text/plain": output.get("text", "")})), ""]
    return "\n".join([*lines, f"This page is `examples/notebooks/{path.name}`; `make notebooks` runs it again.", ""])


def _shown(data: dict[str, Any]) -> list[str]:
    """What a cell showed: its picture, its table, or its text."""
    kinds = {kind: "".join(value) for kind, value in data.items()}
    if "image/png" in kinds:
        return [f'<img alt="what the cell shows" src="data:image/png;base64,{kinds["image/png"].strip()}">']
    if "text/html" in kinds:
        table = re.sub(r"<style>.*?</style>", "", kinds["text/html"], flags=re.DOTALL)
        plain = re.sub(
            r"<table[^>]*>", "<table>", table
        )  # one without a class gets the theme's style, and scrolls on a phone
        return [re.sub(r"\s*\n\s*", "", plain)]
    return ["```text", kinds["text/plain"].rstrip(), "```"]


def registries() -> str:
    """What the registries hold: the tables that `chestmap methods` and the help texts read."""
    from chestmap.datasets import SOURCES
    from chestmap.methods import METHODS, described
    from chestmap.named_configs import config_names, config_path, first_comment
    from chestmap.reports.formats import WRITERS

    lines = ["# Methods, datasets, formats, configs", "", "Made from the registries of this version.", "", "## Methods", ""]
    lines += ["| name | title | paper |", "|---|---|---|"]
    lines += [f"| `{name}` | {title} | {paper} |" for name in METHODS for title, paper in [described(name)]]
    lines += ["", "## Datasets", "", "| name | reads |", "|---|---|"]
    lines += [f"| `{name}` | {SOURCES[name].title} |" for name in SOURCES]
    lines += ["", "## Output formats", "", "| `--write` | writes |", "|---|---|"]
    lines += [f"| `{name}` | {WRITERS[name].title} |" for name in WRITERS]
    lines += ["", "## Configs", "", "| name | what |", "|---|---|"]
    lines += [f"| `{name}` | {first_comment(config_path(name))} |".replace("\n", " ") for name in config_names()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path("cli.md").write_text(command_line(), encoding="utf-8")
