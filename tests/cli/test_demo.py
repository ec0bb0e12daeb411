"""The demo needs nothing but a folder."""

import subprocess
import sys
from pathlib import Path

import pytest


def demo(folder, *arguments):
    """Paths of the files to open."""
    command = [sys.executable, "-m", "chestmap", "demo", "--out", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def test_without_training_it_ends_with_a_page_of_images(tmp_path):
    pages = demo(tmp_path, "--images", "16", "--side", "64", "--no-train")
    assert pages == [(tmp_path / "contact.html").resolve()]
    assert "<html" in pages[0].read_text(encoding="utf-8")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_it_ends_with_the_report_of_a_model_and_the_boxes_of_the_starter(tmp_path):
    pages = demo(tmp_path, "--images", "160", "--side", "64", "--epochs", "1")
    assert [page.relative_to(tmp_path.resolve()).as_posix() for page in pages] == [
        "runs/combined/report.html", "contact.html",
    ]  # fmt: skip
    assert all("<html" in page.read_text(encoding="utf-8") for page in pages)
    assert 'class="found"' in pages[1].read_text(encoding="utf-8")
    assert (tmp_path / "runs" / "combined" / "predictions" / "metrics.json").is_file()
