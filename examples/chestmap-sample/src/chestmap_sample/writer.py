"""An output format: results.md, one heading for each image."""

from contextlib import ExitStack
from pathlib import Path

from chestmap.reports.formats import Facts, Format
from chestmap.reports.result_tables import written
from chestmap.types import Prediction


class MarkdownWriter(ExitStack):
    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__()
        self._facts, self._file = facts, self.enter_context(written(folder / "results.md"))

    def write(self, prediction: Prediction) -> None:
        scores = zip(prediction.findings, prediction.scores, strict=True)
        lines = "".join(f"- {name}: {score:.3f}\n" for name, score in scores)
        self._file.write(f"## {self._facts.file(prediction.image_id)}\n\n{lines}\n")


MARKDOWN = Format("markdown", "results.md, a heading for each image", MarkdownWriter)
