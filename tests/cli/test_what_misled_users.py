"""Faults that users met and that stopped or misled them; other such faults have their tests where their code is tested."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

import chestmap
from chestmap.api.scoring import check_labels
from chestmap.cli import app
from chestmap.cli.options import console
from chestmap.datasets.source import UNKNOWN
from chestmap.errors import BadInput
from chestmap.imaging.read import radiograph_of
from chestmap.types import Findings
from datasets.toys import source_in, write_png
from imaging.dicom_samples import as_bytes, radiograph

PRINTS = re.compile(r"\bprint_rows\(|\bconsole\(\)|\bshow\(")
"""How a verb prints a table to stdout."""


def verbs() -> Iterator[tuple[str, click.Command]]:
    def walk(found: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        if not hasattr(found, "commands"):
            yield " ".join(words), found
        for name, one in getattr(found, "commands", {}).items():
            yield from walk(one, (*words, name))

    return walk(typer.main.get_command(app), ())


def predicted(folder, *findings):
    header = SimpleNamespace(findings=Findings(findings))
    return SimpleNamespace(image_ids=("00000", "00001"), header=header, folder=folder)


def test_a_forgotten_table_of_labels_is_one_line(tmp_path):
    """It was a traceback of numpy: "zero-size array to reduction operation"."""
    source = source_in(tmp_path, 2)
    unknown = replace(source, labels=np.full_like(source.labels, UNKNOWN))
    for dataset, findings in ((unknown, ("Mass",)), (source, ("Effusion",))):
        with pytest.raises(BadInput, match=r"none of the 2 images has a known label .* --set labels=FILE"):
            check_labels(predicted(tmp_path, *findings), dataset, None, "test")
    check_labels(predicted(tmp_path, "Mass"), source, None, "test")


def test_a_header_that_lies_about_black_and_white_is_noted():
    rows, columns = np.mgrid[-1:1:96j, -1:1:96j]
    film = (3000 * np.exp(-(rows**2 + columns**2))).astype(np.uint16)  # dark at the border, as films are
    for kind, noted in (("MONOCHROME2", False), ("MONOCHROME1", True)):
        content = as_bytes(radiograph(film, PhotometricInterpretation=kind))
        done = radiograph_of(content, "film.dcm").done
        assert any("the header may be wrong" in line for line in done) == noted, (kind, done)


def test_a_graph_holds_what_a_program_needs_that_finds_it_alone():
    path = Path(chestmap.__file__).parent / "models" / "starter" / "graph.onnx"
    about = {one.key: one.value for one in onnx.load(path, load_external_data=False).metadata_props}
    assert {"findings", "canvas", "weights_sha256", "license", "use"} <= set(about)
    assert "Nodule" in about["findings"]


def test_every_verb_that_prints_a_table_prints_json():
    printing = {verb: found for verb, found in verbs() if PRINTS.search(inspect.getsource(found.callback))}
    assert {"methods", "evaluate", "compare", "data check", "model tune"} <= set(printing)
    options = {verb: {name for option in found.params for name in option.opts} for verb, found in printing.items()}
    assert {verb for verb, names in options.items() if "--json" not in names} == set()


@pytest.mark.parametrize("verb", ["methods", "configs"])
def test_a_list_comes_at_once_as_nothing_loads_torch_for_it(verb):
    """`methods` took 5 to 12 s until its first word."""
    code = f"import sys; from chestmap.cli import call; call([{verb!r}]); sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ham" in done.stdout


def test_tables_lose_no_figure_in_a_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width >= 1000
    assert console(stderr=True).width >= 1000


def test_a_folder_is_split_by_patient_where_no_split_is_named(tmp_path):
    films = tmp_path / "films"
    for number in range(40):
        write_png(films / f"{number}.png", number, (16, 16))
    rows = "".join(f"{number}.png,{number // 2},{number % 2}\n" for number in range(40))
    (films / "labels.csv").write_text(f"image,patient_id,Mass\n{rows}")
    done = CliRunner().invoke(
        app, ["data", "split", "folder", str(films), "--set", "labels=labels.csv", "--out", str(tmp_path / "split")]
    )
    assert done.exit_code == 0, done.output
    assert "train" in done.output
