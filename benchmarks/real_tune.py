"""Scores settings on the tuning patients of a fold: `python benchmarks/real_tune.py FILMS WORK ROW ...`.

What is printed is of films of 15 % of the boxed training patients, whom the network did not see; no test film is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from real import FOLDS, films_of
from real_table import HEAD, cell

from chestmap.evaluation.evaluate import EvaluationSettings, evaluate
from chestmap.evaluation.truth import truth_of
from chestmap.predictions.folder import open_predictions


def main(root: str, work: str, *names: str) -> None:
    films = films_of(Path(root), Path(work), 256)
    print("| row | fold | boxes | .1 | .3 | .5 | without Cardiomegaly | oracle | AFP |\n" + "|---" * 9 + "|")
    for name in names:
        place = films.work / "predictions" / "tuning" / name
        for fold in [one for one in range(FOLDS) if (place / f"part-{one:05d}").is_dir()]:
            truth = truth_of(films.source, films.tuning_ids(fold))
            found = evaluate(open_predictions(place), truth, EvaluationSettings(resamples=20, workers=1), title=name)

            def three(rule: str, finding: str = "mean", found: object = found) -> str:
                cells = [cell(found, "T(IoU)", finding, at=at, rule=rule, geometry="mask")[0] for at in HEAD]
                return " ".join(f"{one:.3f}" for one in cells)

            main, rest, best = three("validation"), three("validation", "mean without Cardiomegaly"), three("oracle")
            afp = cell(found, "AFP", "mean", rule="validation")[0]
            columns = [*main.split(), rest, best, f"{afp or 0:.2f}"]
            print(f"| {name} | {fold + 1} | {found.about['boxes']} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
