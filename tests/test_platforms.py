"""Nothing needs fcntl, resource or fork: import, train, predict, evaluate and report run without them, as on Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from training.small import small_tree

TESTS = Path(__file__).parent
BLOCKED = """
import multiprocessing, sys, warnings
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn", force=True)
import os
if hasattr(os, "fork"):
    del os.fork
"""


def run(folder, code):
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    script = folder / "script.py"
    script.write_text(BLOCKED + code)
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.slow
def test_a_model_is_trained_used_and_reported_without_them(dataset, tmp_path):
    tree = small_tree(dataset)
    tree["run"]["workers"] = 1
    (tmp_path / "own.toml").write_text(tomli_w.dumps(tree))
    code = f"""
if __name__ == "__main__":
    import chestmap
    from training.small import SMALL
    chestmap.METHODS["small"] = SMALL
    chestmap.train("own.toml", out="run", progress=False)
    assert chestmap.predict("run", {str(dataset / "003.png")!r}).image_id == "003"
    assert chestmap.evaluate("run", part="validation", resamples=5)
    assert chestmap.report("run", part="validation", pictures=2).is_file()
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("module", ["fcntl", "resource"])
def test_no_module_imports_it_at_the_top(module):
    source = TESTS.parent / "src" / "chestmap"
    found = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if any(line.startswith((f"import {module}", f"from {module}")) for line in path.read_text().splitlines())
    ]
    assert set(found) <= {"prediction/stream.py"}  # whose locks come from `storage` with its next version
