"""Published tables made again: what each needs, what is refused in one line, and the whole chain on a tiny phantom."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from chestmap.cli.reproduce import reproduce as verb
from chestmap.cli.score import show
from chestmap.errors import BadInput, BadSettings, Refused
from chestmap.evaluation.published import find, load_published
from chestmap.evaluation.scores import MEAN, Evaluation, Score
from chestmap.methods import METHODS
from chestmap.reproduction.published_table import OwnRow, figures_of, table_of
from chestmap.reproduction.reproduce import QuickSettings, ReproduceSettings, alike, reproduce, shrunk
from chestmap.reproduction.table_plan import CLOSED, DERIVED, FOLDS, entries, plan_of
from chestmap.settings import read_toml
from chestmap.training.config import config_of, read_config
from chestmap.types import Findings

CONFIGS = Path(__file__).parents[2] / "configs"
NAMED = sorted({row.config for table in load_published().values() for row in table.rows if row.config})


def test_every_room_of_a_published_row_is_here():
    assert {name.partition("/")[0] for name in NAMED} <= set(METHODS)


@pytest.mark.parametrize("name", [name for name in NAMED if name.partition("/")[0] in METHODS])
def test_a_config_of_a_published_row_exists(name):
    assert (CONFIGS / f"{name}.toml").is_file()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_is_valid_at_both_sizes(path, tmp_path):
    config = read_config(path, [], METHODS)
    assert config.method.name == config.settings.name
    tree = shrunk(read_toml(path), config.method, QuickSettings(), tmp_path)
    small = config_of(tree, METHODS, name=path.name)
    assert small.data.pack.width == QuickSettings().side * max(1, config.data.pack.width // 512)
    assert "imagenet" not in str(small.settings)
    assert small.data.split == config.data.split


def test_rows_that_differ_by_canvas_or_backbone_alone_differ_when_quick(tmp_path):
    def small(name):
        tree = read_toml(CONFIGS / f"{name}.toml")
        return shrunk(tree, METHODS[tree["method"]["name"]], QuickSettings(), tmp_path)

    for one, other in (
        ("ag_cnn/resnet50", "ag_cnn/densenet121"),
        ("ham/chexpert", "ham/chexpert-rn152"),
        ("attention_mining/baseline-512", "attention_mining/baseline-1024"),
    ):
        assert small(one) != small(other)


def test_a_config_trains_on_the_split_of_its_table():
    for table in load_published().values():
        for row in table.rows:
            path = CONFIGS / f"{row.config}.toml"
            if not row.config or not path.is_file() or table.split.startswith("chexpert-"):
                continue
            split = read_toml(path)["data"]["split"]
            if row.annotated == 0:
                assert split["name"] == "official-boxes"
                continue
            assert split["name"] == table.split.replace("1..5", "1")
            wanted = dict(table.split_settings) | ({} if row.annotated is None else {"annotated": row.annotated})
            assert {key: split.get(key) for key in wanted} == wanted, row.config


def test_the_list_has_every_table_and_what_it_needs():
    found = {entry.id: entry for entry in entries(CONFIGS, METHODS)}
    assert list(found) == list(load_published())
    assert (found["ham/table-3"].state, found["ham/table-3"].runs) == ("", 2)
    assert found["ham/table-5"].runs == 3 * len(FOLDS)  # Li 2018 too
    assert found["cia_net/table-3"].runs == 4 * len(FOLDS) + 2  # 0 % of the boxes needs no folds
    assert "never published" in found["ham/table-9"].state
    assert "quoted" in found["later/classification"].state
    assert "chestmap compare" in found["ham/text-p-value"].state


@pytest.mark.parametrize(
    ("table", "asked", "message"),
    [
        ("ham/table-9", {}, "its boxes were never published"),
        ("ham/text-chexpert-test", {}, "hidden test set"),
        ("later/localization", {}, "all its rows are quoted"),
        ("ham/table-3", {"row": "Liu 2019"}, r'row "Liu 2019" is quoted from Liu et al.*rows with a config: Li 2018, Ours'),
        ("ham/table-3", {"row": "Our"}, 'no row "Our".*did you mean "Ours"'),
        ("ham/table-3", {"fold": 2}, "has no folds"),
        ("ham/table-4", {"fold": 6}, "expected 1 to 5"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(table, asked, message):
    with pytest.raises((Refused, BadInput), match=message) as error:
        plan_of(find(table), CONFIGS, METHODS, **asked)
    assert "\n" not in str(error.value)


def test_a_method_that_is_not_written_is_named():
    with pytest.raises(Refused, match="ham/table-1: method patch_mil is not written yet"):
        plan_of(find("ham/table-1"), CONFIGS, {"cam": METHODS["cam"]})


def test_without_the_configs_it_says_where_they_are(tmp_path):
    with pytest.raises(BadSettings, match=r"no such folder.*--configs"):
        plan_of(find("ham/table-1"), tmp_path / "configs", METHODS)


def test_a_missing_root_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(BadInput, match="--root is missing"):
        reproduce(ReproduceSettings(table="ham/table-3", out=tmp_path / "out", configs=CONFIGS), METHODS)
    assert not (tmp_path / "out").exists()


def test_one_fold_of_five():
    plan = plan_of(find("cia_net/table-3"), CONFIGS, METHODS, fold=3)
    assert set(plan.folds.values()) == {(3,), ()}
    assert plan.runs == 6


def _evaluation(rows: list[Score]) -> Evaluation:
    return Evaluation(title="x", findings=Findings(("Atelectasis", "Mass", "Edema")), rows=tuple(rows))


def test_figures_follow_the_rule_of_the_table_and_average_what_the_row_prints():
    table = find("ham/table-3")
    ham: dict[str, Any] = {"measure": "T(IoU)", "at": 0.1, "geometry": "mask"}
    evaluation = _evaluation(
        [
            Score(**ham, finding="Atelectasis", value=0.4, rule="preset ham"),
            Score(**ham, finding="Mass", value=0.2, rule="preset ham"),
            Score(**ham, finding="Edema", value=1.0, rule="preset ham"),  # not a column
            Score(**ham, finding="Nodule", value=None, rule="preset ham"),
            Score(**ham, finding="Atelectasis", value=0.9, rule="own"),
            Score(**{**ham, "at": 0.3}, finding="Mass", value=0.7, rule="preset ham"),
        ]
    )
    found = dict(zip(table.columns, figures_of([evaluation], table, table.row("Ours", "T(IoU)@0.1")), strict=True))
    assert found["Atelectasis"] == 0.4
    assert found["Mean"] == pytest.approx(0.3)
    assert np.isnan(found["Nodule"])


def test_a_finding_fills_the_column_that_another_dataset_calls_otherwise():
    table = find("ham/table-8")
    evaluation = _evaluation(
        [Score(measure="AUC", finding="Effusion", value=0.7), Score(measure="AUC", finding=MEAN, value=0.1)]
    )
    found = dict(zip(table.columns, figures_of([evaluation], table, table.row("Ours-RN50")), strict=True))
    assert found["Pleural Effusion"] == 0.7


def test_where_only_the_mean_is_printed_it_is_that_of_all_findings():
    table = find("ham/table-6")
    evaluation = _evaluation(
        [
            Score(measure="AUC", finding="Mass", value=0.5),
            Score(measure="AUC", finding="mean", value=0.8),
            Score(measure="AUC", finding="mean", value=0.1, rule="other"),
        ]
    )
    found = figures_of([evaluation], table, table.row("RN50-8-LSE", "AUC"))
    assert found[-1] == 0.8
    assert np.isnan(found[:-1]).all()


def test_mean_and_spread_over_folds():
    row = find("ham/table-2").row("Ours")
    one = OwnRow(row, np.array([[0.1, np.nan, 0.3], [0.3, np.nan, np.nan], [0.8, np.nan, np.nan]]))
    assert one.mean[0] == pytest.approx(0.4)
    assert one.spread[0] == pytest.approx(np.std([0.1, 0.3, 0.8], ddof=1))
    assert np.isnan(one.mean[1])
    assert one.mean[2] == 0.3
    assert np.isnan(one.spread[1:]).all()


def test_the_table_prints_published_lines_as_printed_and_ours_below():
    plan = plan_of(find("ham/table-2"), CONFIGS, METHODS)
    folds = np.stack([np.full(15, 0.5), np.full(15, 0.7)])
    table = table_of(plan, [OwnRow(plan.rows[-1], folds)])
    assert table.headers == ("", "Li 2018", "Liu 2019", "Ours", "chestmap, 2 folds", "± over folds")
    assert table.rows[-1] == ("Mean", "0.806", "0.826", "0.835", "0.600", "0.141")
    plan = plan_of(find("ham/table-3"), CONFIGS, METHODS, row="Ours")
    lines = table_of(plan, [OwnRow(row, np.full((1, 9), 0.126)) for row in plan.rows]).rows
    assert [line[:3] for line in lines] == [
        ("0.1", "Ours", "0.78"), ("", "  chestmap", "0.13"), ("0.3", "Ours", "0.34"), ("", "  chestmap", "0.13"),
    ]  # fmt: skip


def test_quick_takes_the_first_folds(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr("chestmap.reproduction.reproduce.write_phantom", lambda *_, **__: None)
    monkeypatch.setattr("chestmap.reproduction.reproduce.train", lambda _, folder, *__, **___: jobs.append(folder))
    monkeypatch.setattr("chestmap.reproduction.reproduce.predict_and_score", lambda *_, **__: _evaluation([]))
    made = reproduce(
        ReproduceSettings(table="cia_net/table-3", out=tmp_path, configs=CONFIGS, quick=QuickSettings(folds=2)), METHODS
    )
    places = [folder.relative_to(tmp_path / "quick" / "cia_net").as_posix() for folder in jobs]
    assert places[:2] == ["base-80/fold-1", "base-80/fold-2"]
    assert places[-2:] == ["base-0/official-boxes", "boxes-0/official-boxes"]
    assert len(places) == 10
    assert made.path == tmp_path / "quick" / "cia_net" / "table-3.json"


def answering(monkeypatch, values: dict[str, float]) -> None:
    """Nothing is drawn or trained, and every answer has a figure of its own."""

    def scored(*given: Any, **_: Any) -> Evaluation:
        said = values[given[4].answer]
        return _evaluation(
            [
                Score(measure="AUC", finding=MEAN, value=said),
                *(Score(measure="AUC", finding=name, value=said) for name in find("ag_cnn/table-1").columns),
            ]
        )

    monkeypatch.setattr("chestmap.reproduction.reproduce.write_phantom", lambda *_, **__: None)
    monkeypatch.setattr("chestmap.reproduction.reproduce.train", lambda *_, **__: None)
    monkeypatch.setattr("chestmap.reproduction.reproduce.predict_and_score", scored)


def test_every_branch_fills_its_column_or_its_row(tmp_path, monkeypatch):
    answering(monkeypatch, {"": 0.9, "global": 0.1, "local": 0.2, "fusion": 0.3})
    made = reproduce(
        ReproduceSettings(table="ag_cnn/table-2", out=tmp_path, configs=CONFIGS, quick=QuickSettings()), METHODS
    )
    rows = json.loads(made.path.read_text())["rows"]
    assert len(rows) == 5
    assert all(row["ours"] == {"Global": 0.1, "Local": 0.2, "Fusion": 0.3} for row in rows)
    made = reproduce(
        ReproduceSettings(table="ag_cnn/table-1", out=tmp_path, configs=CONFIGS, quick=QuickSettings()), METHODS
    )
    rows = {row["row"]: row["ours"]["Mean"] for row in json.loads(made.path.read_text())["rows"]}
    wanted = {"Global": 0.1, "Local": 0.2, "AG-CNN": 0.9}
    assert rows == pytest.approx({f"{name} {net}": value for net in ("R-50", "D-121") for name, value in wanted.items()})


def test_no_own_row_of_a_table_is_left_out():
    """But for data that nobody has, and figures that no single model has."""
    for entry in entries(CONFIGS, METHODS):
        table = find(entry.id)
        if entry.state:
            assert table.split in CLOSED or "quoted" in entry.state or table.rows[-1].metric.partition("@")[0] in DERIVED
            continue
        plan = plan_of(table, CONFIGS, METHODS)
        missing = [row for row in table.rows if row.config and row not in plan.rows]
        assert all(row.metric.partition("@")[0] in DERIVED for row in missing), (entry.id, missing)


def test_rows_that_give_the_same_maps_are_named(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        place = tmp_path / name / "predictions" / "part-00000"
        place.mkdir(parents=True)
        np.save(place / "maps.npy", np.full(3, value))
    (tmp_path / "d").mkdir()
    assert alike({name: tmp_path / name for name in "abcd"}) == ["c gives the same maps as a"]


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    """One folder for all tables, so that a config of several is trained once."""
    return tmp_path_factory.mktemp("quick")


@pytest.mark.slow
@pytest.mark.parametrize("table", [entry.id for entry in entries(CONFIGS, METHODS) if not entry.state])
def test_quick_fills_every_own_cell_of_a_table_and_its_rows_differ(table, quick_runs):
    """Of one fold: each figure that the paper prints for a row of its own has ours, and no two runs give the same maps."""
    order = ReproduceSettings(table=table, out=quick_runs, configs=CONFIGS, quick=QuickSettings(folds=1))
    made = reproduce(order, METHODS, progress=False)
    rows = json.loads(made.path.read_text())["rows"]
    assert len(rows) == len(plan_of(find(table), CONFIGS, METHODS).rows)
    assert not [note for note in made.table.notes if "the same maps" in note]
    assert not [(row["row"], row["score"], name) for row in rows for name in row["published"] if row["ours"][name] is None]


def test_a_slash_in_a_row_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("chestmap.reproduction.reproduce.write_phantom", lambda *_, **__: None)
    monkeypatch.setattr("chestmap.reproduction.reproduce.train", lambda *_, **__: None)
    monkeypatch.setattr("chestmap.reproduction.reproduce.predict_and_score", lambda *_, **__: _evaluation([]))
    made = reproduce(
        ReproduceSettings(
            table="attention_mining/table-3", row="w/o KP", out=tmp_path, configs=CONFIGS, quick=QuickSettings()
        ),
        METHODS,
    )
    assert made.path == tmp_path / "quick" / "attention_mining" / "table-3-w-o KP.json"


def test_quick_goes_from_nothing_to_a_table_and_is_not_done_twice(tmp_path):
    quick = QuickSettings(images=48, side=64)
    asked = {"row": "Ours-MSE", "fold": 2, "overrides": ("method.width=8", "method.attend.select=last")}
    order = ReproduceSettings(table="ham/table-7", out=tmp_path, configs=CONFIGS, quick=quick, **asked)
    said: list[str] = []
    made = reproduce(order, METHODS, said.append, progress=False)
    assert "mean nothing" in said[0]
    assert said[1] == "1/1  ham/boxes-mse, fold-2"
    assert "mean nothing" in made.table.notes[-1]
    assert made.path.name == "table-7-Ours-MSE-fold-2.json"
    written = json.loads(made.path.read_text())
    assert [(row["row"], row["score"]) for row in written["rows"]] == [
        ("Ours-MSE", "T(IoU)@0.1"),
        ("Ours-MSE", "T(IoU)@0.3"),
    ]
    assert written["rows"][0]["published"]["Mean"] == 0.76
    assert all(value is None or 0 <= value <= 1 for value in written["rows"][0]["ours"].values())
    run = tmp_path / "quick" / "ham" / "boxes-mse" / "fold-2"
    config = read_toml(run / "config.toml")
    assert (config["data"]["split"]["name"], config["method"]["box_loss"]) == ("fold-2", "mse")
    kept = [run / "1-attend" / "weights.safetensors", run / "predictions" / "part-00000" / "maps.npy"]
    before = [path.stat().st_mtime_ns for path in kept]
    again = reproduce(order, METHODS, progress=False)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert again.table == made.table


def test_the_verb_lists_tables(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    verb(configs=CONFIGS)
    shown = capsys.readouterr().out
    assert all(table in shown for table in load_published())


@pytest.mark.parametrize(("terminal", "width"), [(True, 80), (False, 10_000)])
def test_a_table_prints_whole_figures_in_a_terminal_and_in_a_pipe(terminal, width, capsys, monkeypatch):
    """CIA-Net's table of four rows for each share of boxes, with every figure of its own."""
    plan = plan_of(find("cia_net/table-3"), CONFIGS, METHODS)
    rows = [OwnRow(row, np.full((2, len(plan.table.columns)), 0.125 + 0.01 * place)) for place, row in enumerate(plan.rows)]
    monkeypatch.setattr("chestmap.cli.score.console", lambda: Console(force_terminal=terminal, width=width, no_color=True))
    show(table_of(plan, rows))
    shown = capsys.readouterr().out
    assert "…" not in shown
    for one, row in zip(rows, plan.rows, strict=True):
        digits = max(len(str(figure).partition(".")[2]) for figure in row.values if figure == figure)
        assert shown.count(f"{one.mean[0]:.{digits}f}") >= len(plan.table.columns)
    figures = [str(figure) for row in plan.shown for figure in row.values if figure == figure]
    assert all(figure in shown for figure in figures)
