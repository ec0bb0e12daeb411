"""Checks that a process that dies, hangs or grows costs one item, and that a script without a guard is refused."""

import time
from pathlib import Path

import pytest

from chestmap.errors import BadInput
from chestmap.imaging.decoders import DIED, Bounds, Decoders, Lost, check_guard
from imaging.deadly import work

CALL = "from chestmap.imaging.decoders import check_guard\n"


def results(words, count=2, ahead=4, **bounds):
    with Decoders(work, count, Bounds(**bounds) if bounds else None) as decoders:
        return [(word, str(found)) for word, found in decoders.run(words, ahead)]


def test_a_death_costs_one_item_and_the_order_stays():
    words = ["a", "b", "die", "c", "d"]
    assert results(words) == [(word, DIED if word == "die" else word.upper()) for word in words]


def test_one_that_hangs_is_ended_and_costs_one_item():
    assert results(["a", "hang", "b"], count=1, seconds=1) == [
        ("a", "A"), ("hang", "it was not read within 1 seconds"), ("b", "B"),
    ]  # fmt: skip


def test_memory_is_bounded_and_errors_come_to_the_caller():
    with Decoders(work, 1, Bounds(memory=3 << 29)) as decoders:
        with pytest.raises(MemoryError):
            decoders.ask("grow")
        with pytest.raises(BadInput, match="refused"):
            decoders.ask("refuse")
        assert decoders.ask("a") == "A"


def test_where_all_die_it_ends():
    with pytest.raises(BadInput, match="keep dying, 6 images in a row"), Decoders(work, 2) as decoders:
        list(decoders.run(["die"] * 20, 2, tries=1))


def test_a_stop_in_the_middle_leaves_no_process():
    with Decoders(work, 2) as decoders:
        found = decoders.run(["a", "hang", "hang", "b"], 4)
        assert next(found) == ("a", "A")
        running = [process.running.pid for process in decoders._begun]
        begun = time.monotonic()
        found.close()
    assert time.monotonic() - begun < 60  # not the 300 seconds that one may take
    assert running
    assert not [
        pid for pid in running if Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    ]


def test_plain_answers_are_json_and_nothing_is_printed(capfd):
    with Decoders(work, 1, plain=True) as decoders:
        assert decoders.ask("print") == "PRINT"
        with pytest.raises(Lost):
            decoders.ask("refuse")  # an error is no JSON
        assert decoders.ask("a") == "A"
    assert "a name" not in capfd.readouterr().err


def test_without_processes_a_thread_works():
    assert results(["a", "b"], count=0) == [("a", "A"), ("b", "B")]


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


def test_a_process_keeps_the_memory_that_it_freed():
    """Fresh pages for each image cost a third of reading it."""
    with Decoders(work, 1) as decoders:
        for _ in range(3):
            decoders.ask("faults")
        assert int(decoders.ask("faults")) < 50
