"""The scripts of docs/scale: their syntax, what schedulers would refuse, and options that chestmap knows."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from chestmap.cli import app

PLACE = Path(__file__).parents[2] / "docs" / "scale"
SLURM = sorted(PLACE.glob("*.slurm.sh"))
KUBERNETES = sorted(PLACE.glob("*.kubernetes.yaml"))


def flags(verb: str) -> set[str]:
    return {name for option in typer.main.get_command(app).commands[verb].params for name in option.opts}


def assert_known(words: list[str]) -> None:
    """`words` are a whole command: chestmap, verb, arguments and options."""
    verb = words[words.index("chestmap") + 1]
    used = [word for word in words if word.startswith("--") and word != "--kill-on-bad-exit=1"]
    assert used
    assert set(used) <= flags(verb), verb


def test_there_are_scripts_to_train_and_to_predict():
    assert [path.name.partition(".")[0] for path in SLURM] == ["predict", "train"]
    assert [path.name.partition(".")[0] for path in KUBERNETES] == ["predict", "train"]


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_a_slurm_script_is_bash_and_asks_for_what_chestmap_has(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [line for line in lines if line.startswith("#SBATCH ")]
    assert asked == [
        line for line in lines[:first] if line.startswith("#SBATCH ")
    ]  # sbatch reads none after the first command
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in asked)
    command = next(line for line in path.read_text().replace("\\\n", " ").splitlines() if line.startswith("srun "))
    assert_known(shlex.split(command.partition(" || ")[0]))


def test_the_slurm_script_goes_on_after_its_time_limit_and_passes_on_other_failures(tmp_path):
    """Run with stand-ins for srun and scontrol, which write down what they were called with."""
    for name, text in {"srun": 'echo "$@" > srun.txt; exit $CODE', "scontrol": 'echo "$@" > scontrol.txt'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    for code, requeued in (("0", False), ("1", False), ("130", True)):
        (tmp_path / "scontrol.txt").unlink(missing_ok=True)
        environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": code}
        command = ["bash", PLACE / "train.slurm.sh", "a.toml", "/shared/run", "--set", "run.seed=3"]
        assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == int(code)
        assert (tmp_path / "scontrol.txt").exists() == requeued
    said = (tmp_path / "srun.txt").read_text()
    assert "chestmap train a.toml --out /shared/run --devices 4 --nodes 2" in said
    assert said.strip().endswith("--set run.seed=3")


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_a_manifest_is_an_indexed_job_whose_parts_fit_together(path):
    documents = list(yaml.safe_load_all(path.read_text()))
    (job,) = [one for one in documents if one["kind"] == "Job"]
    assert job["apiVersion"] == "batch/v1"
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert 1 <= spec["parallelism"] <= spec["completions"]
    assert pod["restartPolicy"] in {"Never", "OnFailure"}  # what a Job allows
    if "backoffLimitPerIndex" in spec:
        assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    words = [*container["command"], *container.get("args", [])]
    assert all(isinstance(word, str) for word in words)
    command = shlex.split(words[2]) if words[:2] == ["/bin/sh", "-c"] else words
    assert_known(command)
    if "--shard" in command:
        assert command[command.index("--shard") + 1] == f"$JOB_COMPLETION_INDEX/{spec['completions']}"
        return
    assert command[command.index("--nodes") + 1] == str(spec["completions"]) == str(spec["parallelism"])
    assert command[command.index("--devices") + 1] == container["resources"]["limits"]["nvidia.com/gpu"]
    (service,) = [one for one in documents if one["kind"] == "Service"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    meeting = command[command.index("--rendezvous") + 1]
    assert meeting.partition(":")[0] == f"{name}-0.{service['metadata']['name']}"
