"""A script that packs outside of its main guard is refused in one line; everything that can be read again safely is not."""

import pytest

from chestmap.errors import BadInput
from chestmap.imaging.worker_pool import check_guard

CALL = "from chestmap.imaging.worker_pool import check_guard\n"


def run_as_script(tmp_path, source: str, name: str = "__main__", file: str | None = None) -> None:
    path = tmp_path / "script.py"
    path.write_text(CALL + source)
    exec(compile(CALL + source, str(path), "exec"), {"__name__": name, "__file__": file or str(path)})


def test_a_call_outside_of_the_guard_is_refused(tmp_path):
    with pytest.raises(
        BadInput, match=r'script\.py, line 3: .* under `if __name__ == "__main__":`; put it there, or pack first'
    ):
        run_as_script(tmp_path, "\ncheck_guard()\n")
    with pytest.raises(BadInput, match="line 4"):
        run_as_script(tmp_path, "def work():\n    check_guard()\nwork()\n")
    with pytest.raises(BadInput, match="line 3"):
        run_as_script(tmp_path, "if True:\n    check_guard()\n")


def test_a_call_under_the_guard_from_a_module_or_without_a_file_is_not(tmp_path):
    run_as_script(tmp_path, 'def work():\n    check_guard()\nif __name__ == "__main__":\n    work()\n')
    run_as_script(tmp_path, "check_guard()\n", name="some_module")
    run_as_script(tmp_path, "check_guard()\n", file="<stdin>")
    check_guard()
