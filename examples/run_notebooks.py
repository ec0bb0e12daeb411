"""Runs the notebooks of this folder and keeps what they show: `python examples/run_notebooks.py [NAME ...]`.

Cells run in this process, one notebook after another, each in an empty folder; a cell that fails ends the run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

FOLDER = Path(__file__).parent / "notebooks"
LARGEST = 600_000
"""Bytes of an output that are kept in the repository."""


def run(path: Path, *, keep: bool) -> int:
    """Runs the code cells; `keep` writes their outputs into the file. Returns how many cells ran."""
    notebook = nbformat.read(path, as_version=4)
    shell, before, count = InteractiveShell.instance(), Path.cwd(), 0
    shell.reset(new_session=True)
    shell.user_ns["__spec__"] = None  # which processes that are started ask their main module for
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in notebook.cells:
                if cell.cell_type != "code":
                    continue
                count += 1
                cell.outputs, cell.execution_count = _outputs(shell, cell.source, path), count
        finally:
            os.chdir(before)
    if keep:
        nbformat.write(notebook, path)
    return count


def _outputs(shell: Any, source: str, path: Path) -> list[Any]:
    with capture_output() as captured:
        result = shell.run_cell(source, store_history=False)
    if not result.success:
        raise SystemExit(
            f"{path.name}: {result.error_in_exec or result.error_before_exec}\n{source}\n{captured.stderr[-2000:]}"
        )
    printed = captured.stdout.split("Out[0]:")[0]  # the rest is the value, which is kept as it shows itself
    found = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    shown = [one.data for one in captured.outputs]
    if result.result is not None:
        shown.append(shell.display_formatter.format(result.result)[0])
    found += [nbformat.v4.new_output("display_data", data=_kept(data), metadata={}) for data in shown]
    return found


def _kept(data: dict[str, Any]) -> dict[str, Any]:
    """A picture alone where there is one, or text and page; bytes as notebooks hold them."""
    from base64 import b64encode

    plain = {key: b64encode(value).decode() if isinstance(value, bytes) else value for key, value in data.items()}
    if "image/png" in plain:
        plain = {"image/png": plain["image/png"], "text/plain": plain["text/plain"].partition("(")[0]}
    return {key: value for key, value in plain.items() if len(str(value)) <= LARGEST}


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            sys.stderr.write(f"{path.stem}: {run(path, keep=True)} cells\n")


if __name__ == "__main__":
    main(sys.argv[1:])
