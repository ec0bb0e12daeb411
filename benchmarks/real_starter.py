"""The starter model as it is shipped: `python benchmarks/real_starter.py FILMS WORK MODEL OUT`.

MODEL is the model folder that configs/starter.toml trained on all films. Calibration, operating points, thresholds and the figures
of its card are of the row `combined-tuned` of benchmarks/real.py: the same recipe, each film read by a network that knew neither it nor
its patient. Weights are written in half precision.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from real import FOLDS, Films, films_of
from real_table import folds_of

from chestmap.evaluation.classification import Classifying, calibration_rows, images_of, ranking_rows
from chestmap.evaluation.evaluated_set import matched
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.subgroups import group_scores, groups_of
from chestmap.evaluation.truth import Truth, truth_of
from chestmap.methods import METHODS
from chestmap.models.calibrate import CalibratedModel, CalibrateSettings, _decided, recalibrated
from chestmap.models.cards.card import FORMAT, chosen_in, write_card
from chestmap.models.export import add_graph
from chestmap.models.folder import open_model, read_about, write_about
from chestmap.models.performance_figures import FigureSettings, _box_rates, _curves, _present
from chestmap.predictions.folder import Predictions, open_predictions
from chestmap.storage.manifest import seal
from chestmap.training.optimization.checkpoint import read_weights
from chestmap.version import __version__

ROW = "combined-tuned"
THANKS = """
## Data and thanks

The films are those of ChestX-ray14, provided by the NIH Clinical Center (https://nihcc.app.box.com/v/ChestXray-NIHCC): 2,746 of its
112,120 frontal films, of one hospital, 711 of them with boxes that a radiologist drew. Please cite Wang X, Peng Y, Lu L, Lu Z, Bagheri
M, Summers RM. ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of
Common Thorax Diseases. IEEE CVPR 2017.

The stages up to stride 8 are those of `efficientnet-lite0` as ImageNet left them (Apache-2.0). No figure here is of this network
itself, which saw all films: they are of networks of the same recipe (5 epochs where it has 8), each scored on films of patients that it
did not see: {folds} of benchmarks/real.py, {images} films of {patients} patients. Rate and frozen stages were chosen on 15 % of the
training patients of fold 1; parts of the recipe before that while figures of fold 1 were seen.
"""


def shipped(films: Films, model: Path, out: Path) -> None:
    """Fills `out`; a folder that is there is written over."""
    out.mkdir(parents=True, exist_ok=True)
    about = dict(read_about(model))
    weights = read_weights(model / "weights.safetensors", about["sha256"])
    content = safetensors.torch.save({key: _half(value) for key, value in weights.items()})
    (out / "weights.safetensors").write_bytes(content)
    about["sha256"] = sha256(content).hexdigest()
    about["settings"]["backbone"]["weights"] = "none"  # they are here
    (out / "config.toml").write_bytes((model / "config.toml").read_bytes())
    predictions = open_predictions(films.work / "predictions" / ROW)
    truth = truth_of(films.source, [one for one in films.source.ids if one in set(predictions.image_ids)])
    found = matched(predictions, truth)
    settings = CalibrateSettings()
    decided = _decided(found.predictions, found.truth, settings)
    about |= CalibratedModel(tuple(decided), _on(films, truth) | settings.model_dump()).as_json()
    write_about(out, about)
    write_card(out, about, _figures(films, predictions, truth, about))
    with (out / "README.md").open("a", encoding="utf-8") as file:
        on = _on(films, truth)
        file.write(THANKS.format(folds=_folds(films), images=on["images"], patients=on["patients"]))
    seal(out)
    add_graph(open_model(out, METHODS))


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()


def _folds(films: Films) -> str:
    found = [str(fold + 1) for fold in folds_of(films, ROW)]
    return f"fold{'s' * (len(found) > 1)} {' and '.join([', '.join(found[:-1]), found[-1]][len(found) == 1 :])} of {FOLDS}"


def _on(films: Films, truth: Truth) -> dict[str, Any]:
    return {
        "source": films.source.name, "fingerprint": films.source.fingerprint, "split": f"{_folds(films)} of benchmarks/real.py",
        "split_fingerprint": "", "part": "test", "images": len(truth), "patients": int(np.unique(truth.patient).size),
        "notes": ["Each film was read by a network of the same recipe that saw neither it nor its patient"],
    }  # fmt: skip


def _figures(films: Films, predictions: Predictions, truth: Truth, about: dict[str, Any]) -> dict[str, Any]:
    """What `chestmap model card` measures, of the folds' networks."""
    settings, how = FigureSettings(), Resampling(1000)
    found = matched(recalibrated(predictions, about), truth)
    predictions, truth, alignment = found.predictions, found.truth, found.alignment
    columns = predictions.scores[alignment.rows][:, alignment.predicted], truth.labels[:, alignment.known]
    images = images_of(alignment.findings.names, *columns, truth.patient)
    rows = [*ranking_rows(images, Classifying(), how), *calibration_rows(images, Classifying()), *_present(images, about)]
    training = truth_of(films.source, films.train_ids(0))
    rows += _box_rates(predictions, truth, alignment, about, how, training)
    scores = group_scores(images, groups_of(films.source.images[films.source.rows(truth.ids)]), settings.least, how)
    on = _on(films, truth)
    return {
        "format": FORMAT, "chestmap": __version__, "sha256": about["sha256"], "chosen": chosen_in(about),
        "on": {key: on[key] for key in ("source", "fingerprint", "split", "part", "images", "patients")}
        | {"predictions": predictions.header.data, **settings.model_dump()},
        "notes": [*on["notes"], "calibration, operating points and thresholds were chosen on the same films"],
        "scores": [row.as_dict() for row in rows],
        "groups": [one.as_dict() for one in scores],
        "reliability": list(_curves(images)),
    }  # fmt: skip


if __name__ == "__main__":
    shipped(films_of(Path(sys.argv[1]), Path(sys.argv[2]), 256), Path(sys.argv[3]), Path(sys.argv[4]))
