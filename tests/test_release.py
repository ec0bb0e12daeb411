"""What a release consists of: one version, files that say the same, images whose commands exist, a package that an index takes."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import chestmap
from chestmap.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMAND = typer.main.get_command(app)


def test_the_version_is_written_once():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/chestmap/version.py"
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited
    assert cited[1] == chestmap.__version__


def test_the_extras_are_those_that_verbs_name():
    from chestmap.extras import EXTRAS

    optional = PROJECT["project"]["optional-dependencies"]
    assert set(EXTRAS) - {"train"} <= set(optional)
    names = {
        "python_multipart": "python-multipart",
        "prometheus_client": "prometheus-client",
        "huggingface_hub": "huggingface-hub",
    }
    names |= {
        "lightning_fabric": "lightning-fabric",
        "dicomanonymizer": "dicom-anonymizer",
        "dicomweb_client": "dicomweb-client",
        "jpeg_ls": "pyjpegls",
    }
    for extra in set(EXTRAS) & set(optional):
        wanted = packages(extra)
        assert {names.get(module, module) for module in EXTRAS[extra]} <= wanted, extra


def packages(extra):
    """Of an extra, and of the extras that it takes in."""
    found = set()
    for line in PROJECT["project"]["optional-dependencies"][extra]:
        if inner := re.match(r"chestmap\[([\w,]+)\]", line):
            found |= set().union(*map(packages, inner[1].split(",")))
        found.add(re.split(r"[\[>=<~! ]", line)[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_an_image_runs_as_a_user_and_its_verbs_exist(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    assert set(words) <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert re.match(r"FROM [\w/-]+:[\w.-]+$", lines[0]), "the base image has a tag"
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
            assert {f"!{Path(name)}" for name in line.split()[1:-1]} <= set((ROOT / ".dockerignore").read_text().split()), (
                line
            )
    locked = re.search(r"^(uv==\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    assert f" {locked[1]} && uv pip install --system --no-cache --constraint requirements.lock " in path.read_text()
    extras = re.search(r'"\.\[([\w,]+)\]"', path.read_text())
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    for line in re.findall(r"^# docker run.*? chestmap-\w+ (.*)$", path.read_text(), re.MULTILINE):
        verb, *rest = shlex.split(line)
        COMMAND.commands[verb].make_context(verb, rest)


def test_the_forge_calls_the_gate_and_files_that_exist():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in text
    for name in re.findall(r"tests/[\w/]+(?:\.py)?", text):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = re.findall(r"run: make ([a-z-]+)", text)
    assert {"lowest", "images"} <= set(called) <= set(targets)
    for extras in re.findall(r"""["']\.\[([\w,]+)\]["']""", text + (ROOT / "Makefile").read_text()):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_what_builds_a_release_is_locked_with_hashes():
    entries = re.findall(
        r"^([\w.-]+)(?:\[.*?\])?==(.*?)(?=^[\w#]|\Z)", (ROOT / "requirements.lock").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(entries) > 200
    assert [name for name, rest in entries if "--hash=sha256:" not in rest] == []
    backends = {re.split(r"[^\w.-]", one)[0] for one in PROJECT["build-system"]["requires"]}
    assert {"uv", *backends} <= {name for name, _ in entries}
    made = {target: commands_of(target) for target in ("setup", "dist", "sbom")}
    assert "--require-hashes --no-deps -r .venv/uv.txt" in made["setup"]
    assert "--build-constraint requirements.lock --require-hashes" in made["dist"]
    assert re.search(r"cyclonedx-bom==[\d.]+ cyclonedx-py requirements requirements.lock .*-o dist/sbom.json", made["sbom"])


def commands_of(target):
    """What make would run, in one line; also where nothing is left to be made."""
    done = subprocess.run(["make", "-nB", target], cwd=ROOT, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.replace("\\\n", " ").split())


@pytest.mark.slow
def test_the_wheel_holds_configs_passes_the_index_checks_and_is_the_same_again(tmp_path):
    """Built as `make dist` does; its tool is fetched from a package index."""
    made = []
    for out in (tmp_path / "again", tmp_path):
        build = [Path(sys.executable).with_name("uv"), "build", "--quiet", "--python", sys.executable, "--out-dir", out]
        build += ["--build-constraint", "requirements.lock", "--require-hashes"]
        epoch = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}  # `make dist` takes that of the commit
        done = subprocess.run(build, env=epoch, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        made.append({path.name: path.read_bytes() for path in out.glob("chestmap*")})
    assert made[0] == made[1]
    assert sorted(Path(name).suffix for name in made[0]) == [".gz", ".whl"]
    files = [str(tmp_path / name) for name in sorted(made[1])]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "chestmap/configs/ham/image-labels.toml" in names
    assert "chestmap/py.typed" in names
