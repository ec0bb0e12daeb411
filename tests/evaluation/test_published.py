"""The typed-in tables: complete, well-formed, and in agreement with themselves and each other wherever the papers are."""

import math
import re
from pathlib import Path

import pytest

from chestmap.datasets.split_rules import SplitSettings
from chestmap.errors import BadTable, UnknownFinding
from chestmap.evaluation.published import METRICS, Figure, Row, Table, find, load_published, read_published
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14, CHESTXRAY14, VOCABULARIES

TABLES_OF = {"ham": 10, "attention_mining": 5, "disease_masks": 4, "ag_cnn": 3, "cia_net": 6}
"""How many numbered tables each paper has, supplements included."""

NOT_OURS = {"chexpert-boxes", "chexpert-test"}
"""Splits of HAM's CheXpert tables: images that the paper does not list, and a hidden test set."""

ROWS = [(table, row) for table in load_published().values() for row in table.rows]

SPOTS = """
    ham/table-1             | Ours                    | AUC                 | Hernia              | 0.91
    ham/table-2             | Liu 2019                | AUC                 | Emphysema           | 0.93
    ham/table-3             | Ours                    | T(IoU)@0.1          | Pneumonia           | 0.76
    ham/table-4             | Li 2018                 | T(IoU)@0.7          | Cardiomegaly        | 0.52
    ham/table-4             | Ours                    | T(IoU)@0.5          | Mean                | 0.33
    ham/table-5             | Ours + SR               | T(IoR)@0.75         | Mass                | 0.51
    ham/table-6             | RN50-8-LSE              | T(IoU)@0.1          | Mean                | 0.44
    ham/table-6             | RN50-8-LSE+FAB+PA+ABU   | T(IoU)@0.1          | Infiltration        | 0.89
    ham/table-6             | RN50-8-LSE+FAB          | AUC                 | Mean                | 0.818
    ham/table-7             | Ours-MSE                | T(IoU)@0.3          | Nodule              | 0.34
    ham/table-8             | Ours-RN152              | AUC                 | Mean                | 0.9166
    ham/table-9             | Ours extra              | T(IoU)@0.5          | Enlarged Cardiomediastinum | 0.81
    ham/table-10            | DRN50                   | T(IoR)@0.75         | Pleural Effusion    | 0.17
    attention_mining/table-1 | 1024-deconv            | T(IoU)@0.3          | Nodule              | 0.01
    attention_mining/table-2 | Ours - Wang 2017       | T(IoU) difference@0.1 | Infiltration      | -0.19
    attention_mining/table-2 | Ours - Wang 2017       | AFP difference@0.2  | Cardiomegaly        | -0.44
    attention_mining/table-3 | w/o KP                 | T(IoU)@0.3          | Effusion            | 0.11
    attention_mining/table-4 | Ours ResNet-MSA        | AUC                 | Hernia              | 0.53
    attention_mining/table-5 | Ours                   | AFP@0.6             | Cardiomegaly        | 0.76
    attention_mining/table-5 | Baseline               | T(IoU)@0.2          | Pneumothorax        | 0.36
    disease_masks/table-1   | ResNet-50+Alignment+DM  | T(IoU)@0.3          | Mean                | 0.47
    disease_masks/table-2   | Base+PDM                | T(IoU)@0.7          | Pneumothorax        | 0.12
    disease_masks/table-3   | Ours                    | AUC                 | Fibrosis            | 0.84
    disease_masks/table-4   | ResNet-50               | AUC                 | Nodule              | 0.78
    ag_cnn/table-1          | AG-CNN R-50             | AUC                 | Mean                | 0.868
    ag_cnn/table-1          | CheXNet                 | AUC                 | Hernia              | 0.939
    ag_cnn/table-2          | G_L_F*                  | AUC                 | Fusion              | 0.854
    ag_cnn/table-3          | L2                      | AUC                 | Local               | 0.8213
    cia_net/table-1         | Ours                    | T(IoU)@0.7          | Infiltration        | 0.41
    cia_net/table-2         | Base                    | T(IoU)@0.5          | Nodule              | 0.01
    cia_net/table-3         | Ours 40 %               | T(IoU)@0.7          | Atelectasis         | 0.19
    cia_net/table-4         | Ours                    | AUC                 | Consolidation       | 0.79
    cia_net/table-5         | Ours+Canon              | T(IoU)@0.7          | Pneumothorax        | 0.20
    cia_net/table-6         | CIA                     | T(IoU)@0.7          | Atelectasis         | 0.06
    ham/text-p-value        | RN50-8-LSE+FAB+PA+ABU   | p                   | Mean                | 4.31e-5
"""

WRONG_MEANS = {  # printed, and what the printed columns give; rounding cannot explain these
    ("ham/table-3", "Liu 2019", "T(IoU)@0.1"): ("0.60", "0.57"),
    ("ham/table-4", "Li 2018", "T(IoU)@0.4"): ("0.42", "0.37"),
    ("ham/table-10", "Ours extra", "T(IoR)@0.75"): ("0.54", "0.49"),
    ("cia_net/table-2", "Ours", "T(IoU)@0.1"): ("0.60", "0.57"),
}

SAME = """
    ham/table-3           | Liu 2019               | cia_net/table-2          | Ours            | T(IoU)@0.1 T(IoU)@0.3
    ham/table-4           | Liu 2019               | cia_net/table-1          | Ours            | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    ham/table-4           | Li 2018                | cia_net/table-1          | Li 2018         | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    ham/table-4           | Ours                   | ham/table-7              | Ours            | T(IoU)@0.1 T(IoU)@0.3
    ham/table-4           | Wang 2017              | attention_mining/table-5 | Wang 2017       | T(IoU)@0.1 T(IoU)@0.2 T(IoU)@0.5 T(IoU)@0.6 T(IoU)@0.7
    attention_mining/table-3 | t=3                 | attention_mining/table-3 | KP              | T(IoU)@0.1 T(IoU)@0.3
    disease_masks/table-1 | Cai 2018               | attention_mining/table-5 | Ours            | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    disease_masks/table-1 | Wang 2017              | attention_mining/table-5 | Wang 2017       | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    disease_masks/table-1 | Wang 2017              | cia_net/table-1          | Wang 2017       | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    disease_masks/table-1 | Liu 2019               | cia_net/table-2          | Ours            | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    disease_masks/table-1 | ResNet-50+Alignment+DM | disease_masks/table-2    | Base+DM         | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    cia_net/table-2       | Base                   | cia_net/table-3          | Base 0 %        | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    cia_net/table-2       | Ours                   | cia_net/table-3          | Ours 0 %        | T(IoU)@0.3 T(IoU)@0.5 T(IoU)@0.7
    cia_net/table-3       | Ours 80 %              | cia_net/table-5          | Ours+Sim        | T(IoU)@0.7
    disease_masks/table-3 | Cai 2018               | attention_mining/table-4 | Ours ResNet-MSA | AUC
    disease_masks/table-3 | Liu 2019               | cia_net/table-4          | Ours            | AUC
"""  # the same experiment, printed twice


def cells(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.split("|")] for line in text.strip().splitlines()]


def digit(figure: Figure) -> float:
    """The last printed place, e.g. 0.01."""
    return 10.0 ** -len(str(figure).partition(".")[2])


def test_every_table_of_every_paper_is_there():
    tables = set(load_published())
    expected = {f"{room}/table-{number}" for room, count in TABLES_OF.items() for number in range(1, count + 1)}
    assert expected <= tables
    assert all(re.fullmatch(r"\w+/text-[a-z-]+|later/\w+", table_id) for table_id in tables - expected)
    assert len(ROWS) == 334
    assert sum(len(table.figures(row)) + len(row.low) + len(row.high) for table, row in ROWS) == 2797


def test_papers_count_their_tables_without_a_gap():
    for room, count in TABLES_OF.items():
        assert f"{room}/table-{count + 1}" not in load_published()


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table.id}, {row.name}, {row.metric}" for table, row in ROWS])
def test_a_row_is_well_formed(table: Table, row: Row):
    name, _, at = row.metric.partition("@")
    assert name in METRICS
    assert not at or 0 < float(at) < 1
    assert len(row.values) == len(table.columns)
    if table.split not in NOT_OURS:
        assert SplitSettings(name=table.split.replace("1..5", "1"), **table.split_settings)
    figures = table.figures(row)
    assert figures
    low, high = {"AFP": (0, 2), "T(IoU) difference": (-1, 1), "AFP difference": (-1, 1)}.get(name, (0, 1))
    assert all(low <= value <= high for value in figures.values())
    for value, bottom, top in zip(row.values, row.low, row.high, strict=True) if row.low else ():
        assert bottom <= value <= top
    if table.across == "findings":
        assert all(column == "Mean" or column in VOCABULARIES[table.dataset].names for column in table.columns)
    if row.source or table.paper == "later":
        assert row.source
        assert not row.config or (row.name, row.config.partition("/")[0]) == ("Li 2018", "patch_mil")
    else:
        assert row.config.startswith(table.paper + "/")


@pytest.mark.parametrize(("table_id", "row", "metric", "column", "printed"), cells(SPOTS))
def test_a_figure_is_the_printed_one(table_id: str, row: str, metric: str, column: str, printed: str):
    table = find(table_id)
    figure = table.figures(table.row(row, metric))[column]
    assert str(figure) == f"{figure}" == printed
    assert figure == float(printed)


def test_intervals_and_spreads():
    ours = find("ham/table-1").row("Ours")
    assert (str(ours.low[-1]), str(ours.high[-1])) == ("0.815", "0.823")
    assert (str(ours.low[6]), str(ours.high[6])) == ("0.70", "0.75")
    assert str(find("ham/table-2").row("Ours").spread[-1]) == "0.007"
    assert math.isnan(find("ham/table-2").row("Li 2018").spread[-1])


def test_printed_means_are_those_of_the_columns_but_for_four():
    wrong, checked = {}, 0
    for table, row in ROWS:
        figures = table.figures(row)
        if "Mean" not in figures or len(figures) < 3:
            continue
        mean = figures.pop("Mean")
        found = sum(figures.values()) / len(figures)
        rounding = sum(map(digit, figures.values())) / len(figures) / 2 + digit(mean) / 2
        checked += 1
        if abs(found - mean) > rounding + 1e-9:
            wrong[table.id, row.name, row.metric] = (str(mean), f"{found:.2f}")
            assert row.note
    assert wrong == WRONG_MEANS
    assert checked == 194


@pytest.mark.parametrize(("one", "its", "other", "theirs", "metrics"), cells(SAME))
def test_a_quoted_row_is_the_source_s_own(one: str, its: str, other: str, theirs: str, metrics: str):
    for metric in metrics.split():
        left, right = find(one), find(other)
        a, b = left.figures(left.row(its, metric)), right.figures(right.row(theirs, metric))
        shared = set(a) & set(b) & set(CHESTXRAY14)
        assert shared >= set(BOXED_IN_CHESTXRAY14)
        assert {column: a[column] for column in shared} == {column: b[column] for column in shared}


def test_a_higher_threshold_never_helps():
    odd = set()
    for table, row in ROWS:
        for _, later in ((t, r) for t, r in ROWS if t.id == table.id and r.name == row.name):
            (name, _, at), (other, _, above) = row.metric.partition("@"), later.metric.partition("@")
            if name != other or name not in ("T(IoU)", "T(IoR)", "AFP") or not at or float(above) <= float(at):
                continue
            sign = -1 if name == "AFP" else 1
            a, b = table.figures(row), table.figures(later)
            odd |= {(table.id, row.name, row.metric, column) for column in a if sign * b[column] > sign * a[column]}
    names = ("Wang 2017", "Baseline", "Ours")
    assert odd == {("attention_mining/table-5", name, "AFP@0.3", "Atelectasis") for name in names}


def test_the_gain_over_wang_follows_from_the_two_rows():
    gains, both = find("attention_mining/table-2"), find("attention_mining/table-5")
    for tenths in range(1, 8):
        for metric in ("T(IoU)", "AFP"):
            ours = both.figures(both.row("Ours", f"{metric}@0.{tenths}"))
            theirs = both.figures(both.row("Wang 2017", f"{metric}@0.{tenths}"))
            gain = gains.figures(gains.row("Ours - Wang 2017", f"{metric} difference@0.{tenths}"))
            assert all(abs(ours[column] - theirs[column] - gain[column]) < 0.0151 for column in gain)


def test_what_was_filled_in_says_so():
    uncertain = [(table.id, row.name, row.metric) for table, row in ROWS if row.uncertain]
    assert uncertain == [("cia_net/table-3", "Ours 0 %", "T(IoU)@0.5")]


def test_a_table_says_how_it_was_scored():
    table = find("ham/table-4")
    assert table.rule.preset == "ham"
    assert "0.999" in table.rule.threshold
    assert table.split_settings == {"unannotated": 0.5, "annotated": 0.8}
    assert find("ham/table-2").split_settings["test_on"] == "all"
    assert "TMI" in table.citation or "Transactions on Medical Imaging" in table.citation
    assert find("cia_net/table-3").row("Ours 40 %", "T(IoU)@0.5").annotated == 0.4


def test_a_name_that_is_not_there():
    with pytest.raises(BadTable, match=r'"ham/tabel-3" is none of the .* did you mean "ham/table-3"'):
        find("ham/tabel-3")
    with pytest.raises(BadTable, match=r"give one of T\(IoU\)@0.1, T\(IoU\)@0.3"):
        find("ham/table-3").row("Ours")
    with pytest.raises(BadTable, match=r'no row "Li 2019"; rows: .* did you mean .*"Li 2018"'):
        find("ham/table-3").row("Li 2019")


GOOD = """
[papers]
x = "X et al."
[sources]
[rules]
own = { geometry = "box", threshold = "0.5" }
[table."x/table-1"]
title = "one"
split = "official"
metric = "T(IoU)"
rule = "own"
columns = ["Mass", "Mean"]
configs = { "Ours" = "x/ours" }
rows = [
  { at = 0.1, name = "Ours", values = [0.50, 0.50] },
]
"""


def test_a_small_file_is_read():
    table = read_published(GOOD)["x/table-1"]
    assert str(table.row("Ours").values[0]) == "0.50"
    assert table.citation == "X et al."
    assert table.row("Ours").config == "x/ours"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.50, 0.50]", "[0.50]", "expected 2 figures"),
        ("[0.50, 0.50]", "[0.50, 1]", "with a decimal point"),
        ("[0.50, 0.50]", "{ Edema = 0.5 }", "expected 2 figures"),
        ("at = 0.1, ", "", "expected T in"),
        ("at = 0.1", "at = 1.5", "expected T in"),
        ('"T(IoU)"', '"T(Iou)"', 'did you mean "T.IoU.'),
        ('"T(IoU)"', '"AUC"', "expected no T"),
        ('"Mass"', '"Mas"', 'did you mean "Mass"'),
        ('"Ours" = ', '"Hers" = ', "configs for Hers: no such row"),
        ("rows = [\n", 'rows = [\n  { at = 0.1, name = "Ours", values = [0.1, 0.2] },\n', "two rows have the same name"),
    ],
)
def test_a_mistake_in_the_file_is_named(old: str, new: str, message: str):
    assert old in GOOD
    with pytest.raises((BadTable, UnknownFinding), match=message):
        read_published(GOOD.replace(old, new))


def test_the_docs_list_every_table():
    docs = Path(__file__).parents[2] / "docs" / "papers"
    listed = (docs / "README.md").read_text(encoding="utf-8")
    for table_id in load_published():
        assert f"`{table_id}`" in listed
    for room in TABLES_OF:
        page = (docs / f"{room}.md").read_text(encoding="utf-8")
        named = set(re.findall(rf"`({room}/(?:table|text)-[\w-]+)`", page))
        assert page.startswith("# ")
        assert "## What the paper claims" in page
        assert {f"{room}/table-{number}" for number in range(1, TABLES_OF[room] + 1)} <= named <= set(load_published())
