"""Scores predictions under the protocol.

`evaluate` is public; the verb calls the same functions. Both take a run folder, which knows its dataset and split, or a
predictions folder and a dataset. Images that trained the model are refused, unless the split says that it scores elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chestmap.api.subject import DatasetNames, split_of, subject_of
from chestmap.datasets.source import UNKNOWN
from chestmap.errors import BadInput

if TYPE_CHECKING:
    from chestmap.datasets.source import Source
    from chestmap.datasets.split import Split
    from chestmap.evaluation.scores import Evaluation
    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.predictions.folder import Predictions


def evaluate(
    predictions: str | Path,
    source: Source | None = None,
    split: Split | str | None = None,
    *,
    part: str = "test",
    **settings: Any,
) -> Evaluation:
    """Scores a predictions folder, or a run folder, which is predicted first where it has no predictions yet.

    Source and split are those of the run unless they are given. Settings are those of `chestmap evaluate --score-set`, such as
    `resamples=200` or `presets=("ham",)`.

    Examples:
        >>> import chestmap
        >>> scores = chestmap.evaluate("runs/own", part="validation", resamples=10)
        >>> 0 <= scores.only_score("AUC", finding="mean").value <= 1
        True
    """
    from chestmap.evaluation.settings import EvaluationSettings
    from chestmap.predictions.folder import open_predictions
    from chestmap.settings import checked

    folder, how = Path(predictions), checked(EvaluationSettings, dict(settings), name="evaluate")
    if source is None:
        subject = subject_of(folder, DatasetNames(split=split if isinstance(split, str) else None))
        folder, source = subject.predict(part), subject.source
        named = subject.split if split is None or isinstance(split, str) else split
    else:
        named = split_of(source, split) if isinstance(split, str) else split
    return score(open_predictions(folder), source, named, part, how)[0]


def score(
    predictions: Predictions,
    source: Source,
    split: Split | None,
    part: str,
    how: EvaluationSettings,
    only: tuple[str, ...] | None = None,
) -> tuple[Evaluation, Sequence[str]]:
    """Scores the images of the part that were predicted, of `only` where it is given; also what was noticed of leaks."""
    from chestmap.evaluation.evaluated_set import ids_of_part
    from chestmap.models.leakage import check_predictions
    from chestmap.reproduction.score_run import ScoredPart, score_split

    if split is not None:
        ids_of_part(split, part)
    notes = check_predictions(predictions, source, split, part)
    check_labels(predictions, source, split, part)
    return score_split(
        predictions, source, split, how, ScoredPart(part=part, title=predictions.folder.name, only=only)
    ), notes


def check_labels(predictions: Predictions, source: Source, split: Split | None, part: str) -> None:
    """Refuses images without a single known label or box of a finding that was predicted."""
    predicted = set(predictions.image_ids)
    wanted = source.ids if split is None else split.parts.get(part, ())
    ids = [image_id for image_id in wanted if image_id in predicted and image_id in source.row_of]
    if not ids:
        return
    common = [name for name in predictions.header.findings if name in source.findings]
    columns = [source.findings.index(name) for name in common]
    known = source.labels[source.rows(ids)][:, columns] != UNKNOWN
    boxed = any(box.finding in common for image_id in ids for box in source.boxes.get(image_id, ()))
    if not known.any() and not boxed:
        ours, theirs = ", ".join(predictions.header.findings), ", ".join(source.findings)
        raise BadInput(
            f"{predictions.folder}: none of the {len(ids):,} images has a known label or box of a predicted finding ({ours}); "
            f"the dataset has {theirs}; name its table with --set labels=FILE and --set boxes=FILE, or give --run RUN"
        )
