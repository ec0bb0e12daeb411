"""The report stands alone, escapes what it is given, and its numbers are those of metrics.json."""

import base64
import json
import re
from hashlib import sha256
from xml.etree import ElementTree

import pytest

from chestmap.errors import BadInput
from chestmap.evaluation.published import find
from chestmap.evaluation.scores import Evaluation
from chestmap.reports.figure_files import write_figures
from chestmap.reports.number_format import interval, number, short
from chestmap.reports.pictures import Picture
from chestmap.reports.report import write_report
from chestmap.reports.run_facts import RunFacts, means, read_log, read_run


def test_numbers_read_as_in_papers():
    assert [number(0.8124), number(1.0), number(0.0), number(-0.0304), number(-0.0001), number(None)] == [
        ".812", "1.000", ".000", "−.030", ".000", "n/a",
    ]  # fmt: skip
    assert interval(0.7, 0.85) == "[.700, .850]"
    assert interval(None, 0.9) == ""
    assert [short(0.3), short(0.125), short(1.0), short(12.0)] == [".3", ".125", "1", "12"]


def test_every_number_of_the_table_is_that_of_metrics_json(tmp_path, metrics, page):
    tree = metrics()
    shown = page(write_report(tmp_path / "report.html", Evaluation.from_dict(tree)).read_text())
    values = {(row["measure"], row["finding"], row.get("at"), row.get("rule", "")): row for row in tree["scores"]}
    for name in ("Mass", "Effusion", "mean"):
        row = shown.row("findings", name)
        assert row[1] == "{} [{}, {}]".format(
            *(number(values["AUC", name, None, ""][key]) for key in ("value", "low", "high"))
        )
        for column, limit in ((6, 0.1), (7, 0.3), (8, 0.5)):
            scored, floor = (values["T(IoU)", name, limit, rule] for rule in ("validation", "floor medoid"))
            around = interval(scored["low"], scored["high"])
            assert row[column] == f"{number(scored['value'])} {around} floor {number(floor['value'])}"
    limits = shown.row("limits", "own threshold")
    assert [cell.split()[0] for cell in limits[1:]] == [
        number(values["T(IoU)", "mean", limit, "own"]["value"]) for limit in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ]


def test_a_finding_that_cannot_be_scored_is_not_a_number(tmp_path, metrics, page):
    shown = page(write_report(tmp_path / "report.html", Evaluation.from_dict(metrics())).read_text())
    row = shown.row("findings", "Hernia")
    assert row[1] == "n/a"
    assert row[6:9] == ["n/a", "n/a", "n/a"]


def test_the_file_stands_alone(tmp_path, metrics, pictures, run_folder):
    text = write_report(
        tmp_path / "report.html", Evaluation.from_dict(metrics()), pictures, read_run(run_folder), [find("ham/table-4")]
    ).read_text()
    assert not re.search(r'(src|href|action|data)="(?!data:image/|#)', text)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_the_policy_admits_this_script_alone(tmp_path, metrics):
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(metrics())).read_text()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    allowed = base64.b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in text
    assert not re.search(r'<[^>]* on\w+="', text)


def test_nothing_that_is_given_becomes_markup(tmp_path, metrics, run_folder):
    evil = "\"><b>&'$hash"
    tree = json.loads(json.dumps(metrics()).replace("Mass", json.dumps(evil)[1:-1]))
    tree |= {"title": evil, "notes": [evil]}
    tree["about"]["source"] = evil
    shown = [Picture(finding=evil, image_id=evil, image=picture_pixels(), label="present", score=0.5)]
    run = read_run(run_folder, {evil: evil})
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(tree), shown, run).read_text()
    assert '"><b>' not in text
    assert "# <b>" not in text
    assert "&quot;&gt;&lt;b&gt;&amp;&#x27;$hash" in text


def picture_pixels():
    import numpy as np

    return np.zeros((8, 8), dtype=np.uint8)


def test_what_was_not_measured_has_no_section(tmp_path, metrics):
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(metrics(localized=False))).read_text()
    for part in ("localization", "published", "pictures", "training"):
        assert f'<section id="{part}"' not in text
    assert '<section id="curves"' in text
    assert "T(IoU)" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)


def test_a_leak_is_a_warning(tmp_path, metrics):
    tree = metrics() | {"notes": ["split ham-fold-1 leaks: 12 images and 9 patients are also in training", "a remark"]}
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(tree)).read_text()
    assert "<li class=warn>split ham-fold-1 leaks" in text
    assert "<li>a remark" in text


def test_the_published_rows_stand_as_printed_beside_ours(tmp_path, metrics, page):
    table = find("ham/table-4")
    shown = page(write_report(tmp_path / "report.html", Evaluation.from_dict(metrics()), published=[table]).read_text())
    printed = shown.row("published", "Wang 2017 quoted")
    assert [cell.lstrip("0") for cell in map(str, table.row("Wang 2017", "T(IoU)@0.1").values)] == printed[1:]
    ours = shown.row("published", "chestmap, preset ham")
    place = 1 + table.columns.index("Mass")
    assert ours[place].split()[0] == number(0.67)
    assert ours[-1] == "n/a"  # the paper averages eight findings, two of which were scored here
    assert shown.row("published", "class-medoid box")[place].split()[0] == number(0.42)


def test_metrics_of_another_kind_are_told(tmp_path):
    with pytest.raises(BadInput, match=r"expected a metrics\.json"):
        write_report(tmp_path / "report.html", Evaluation.from_dict({"title": "x"}))
    assert not list(tmp_path.iterdir())


def test_pictures_say_hit_or_miss_and_keep_their_boxes(tmp_path, metrics, pictures, page):
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(metrics()), pictures).read_text()
    figures = [given for tag, given in page(text).tags if tag == "figure" and "data-iou" in given]
    assert [figure["data-iou"] for figure in figures] == ["0.62", "0.31", "0.05", "", "0.55", ""]
    assert [figure["data-outcome"] for figure in figures] == ["hit", "hit", "miss", "no box", "hit", "no box"]
    assert text.count('<path class="true" d="M18,8H38V28H18Z"/>') == 4
    assert text.count('<path class="own" d="M20,10H40V30H20Z"/>') == 6


def test_a_run_tells_what_was_trained_on_what(tmp_path, metrics, run_folder):
    run = read_run(run_folder, {"Patients of test also in train": "none of 61"})
    text = write_report(tmp_path / "report.html", Evaluation.from_dict(metrics()), run=run).read_text()
    for told in ("1,234 (fingerprint aaaa)", "Ouyang 2021", "torch 2.15", "none of 61", "cccccccccccc", "ffffffffffffffff…"):
        assert told in text
    assert text.count('<section class="step">') == 1
    assert "Best validation AUC" in text


def test_a_log_that_is_still_written_is_read_as_far_as_it_goes(run_folder):
    series = {one.name: one for one in read_log(run_folder / "log.csv")}
    assert list(series) == ["bound", "union", "loss", "images_per_second", "validation_auc"]
    assert len(series["loss"].value) == 400
    assert series["validation_auc"].update == (99, 199, 299, 399)


def test_long_logs_are_averaged_in_pieces():
    assert means([1, 2, 3, 4], 2) == [1.5, 3.5]
    assert means([5.0], 160) == [5.0]
    assert len(means(list(range(1000)), 160)) == 160


def test_no_run_folder_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"no config\.toml"):
        read_run(tmp_path)
    assert RunFacts().series == ()


def test_charts_come_as_svg_files_that_carry_their_style(tmp_path, metrics):
    written = write_figures(tmp_path / "figures", Evaluation.from_dict(metrics()))
    assert [path.name for path in written] == [
        "roc.svg", "precision-recall.svg", "reliability.svg", "froc.svg", "accuracy.svg",
    ]  # fmt: skip
    for path in written:
        root = ElementTree.fromstring(path.read_text())
        (style,) = root.iter("{http://www.w3.org/2000/svg}style")
        assert not {"var(", "light-dark("} & set(re.findall(r"[\w-]+\(", style.text)), (
            "a program that makes a PDF knows neither"
        )
        names = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
        assert "Mass" in names
    assert "AUC .812 [.762, .852]" in (tmp_path / "figures" / "roc.svg").read_text()
