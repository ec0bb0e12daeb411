"""What a user sees of the command line: the verbs are pinned, help is quick, mistakes are single lines."""

import os
import subprocess
import sys

import pytest


def chestmap(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "chestmap", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "120", **environment},
    )  # fmt: skip


def test_help_imports_neither_torch_nor_tables():
    code = "import sys, chestmap.cli; print([name for name in ('torch', 'polars', 'pydantic', 'cv2', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_image_is_predicted_without_tables_pictures_and_bars():
    """Each of them takes a tenth of the time until the first box, or more."""
    code = (
        "import sys, chestmap.cli as c; c.command('predict');"
        "import chestmap.cli.predict_printed, chestmap.prediction.without_folder, chestmap.models.predictor;"
        "print([name for name in ('torch', 'polars', 'PIL', 'rich', 'scipy', 'sklearn', 'fsspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_and_images_need_no_torch():
    code = (
        "import sys, chestmap.datasets.checks.check, chestmap.packs.build, chestmap.datasets.split, chestmap.phantom, chestmap.imaging.read,"
        "chestmap.datasets.nih, chestmap.datasets.chexpert, chestmap.datasets.vindr, chestmap.datasets.folder; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "verbs"),
    [
        (
            [],
            [
                *(
                    "init",
                    "all",
                    "train",
                    "methods",
                    "configs",
                    "predict",
                    "evaluate",
                    "compare",
                    "export",
                    "report",
                    "reproduce",
                    "demo",
                    "serve",
                ),
                *("node", "check", "data", "model"),
            ],
        ),
        (["model"], ["calibrate", "card", "faithfulness", "tune", "check", "push", "pull"]),
        (["data"], ["check", "split", "pack", "phantom", "deidentify", "from-reviews", "annotations"]),
        (["data", "annotations"], ["export", "import"]),
    ],
)
def test_the_verbs_are_these(arguments, verbs):
    shown = chestmap(*arguments, "--help").stdout
    assert [
        line.split()[1] for line in shown.split("Commands")[1].splitlines() if line.startswith("│ ") and line[2] != " "
    ] == verbs


def test_a_process_that_reads_the_program_again_does_not_run_it_again():
    code = "import runpy, sys; sys.argv = ['chestmap', 'nonsense']; runpy.run_module('chestmap', run_name='__mp_main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_imports_the_file_of_its_own_verb_alone():
    code = "import sys, chestmap.cli as c; c.command('methods'); print([n for n in sys.modules if n.startswith('chestmap.cli.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.strip("[]\n").split(", ")) == [
        f"'chestmap.cli.{one}'" for one in ("ending", "options", "train")
    ]


def test_a_mistyped_verb_offers_the_right_one():
    done = chestmap("data", "chek")
    assert done.returncode == 2
    assert "Did you mean 'check'" in done.stderr


def test_a_wrong_source_is_one_line(tmp_path):
    done = chestmap("data", "check", "nhi", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "nih" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_is_one_line(tmp_path):
    done = chestmap("data", "check", "nih", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Data_Entry_2017" in done.stderr


@pytest.mark.parametrize(
    ("load", "given", "kept"), [(9e9, {}, "passive"), (9e9, {"OMP_WAIT_POLICY": "active"}, "active"), (0.0, {}, "none")]
)
def test_threads_sleep_while_they_wait_on_a_busy_machine(load, given, kept):
    code = (
        f"import os, atexit; os.getloadavg = lambda: ({load}, 0, 0)\n"
        "atexit.register(lambda: print(os.environ.get('OMP_WAIT_POLICY', 'none'))); import chestmap.cli as c; c.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split()[-1] == kept
