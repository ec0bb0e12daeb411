"""The contact page holds every picture, box and label, and nothing that a name could inject."""

import re

import numpy as np
import pytest

from chestmap.errors import BadInput
from chestmap.reports.contact_page import Card, write_contact_page
from chestmap.types import Box


def test_the_page_stands_alone_and_shows_boxes_in_picture_pixels(tmp_path):
    image = np.full((40, 60), 90, np.uint8)
    cards = [
        Card(image=image, title="a_000", findings=("Mass",), boxes=(Box("Mass", 10, 5, 30, 25),), notes="PA"),
        Card(image=image, title="b_000", findings=()),
    ]
    text = write_contact_page(tmp_path / "page.html", "Phantom", {"images": "2"}, cards).read_text()
    assert text.count("<figure") == 2
    assert 'viewBox="0 0 60 40"' in text
    assert '<rect x="10.0" y="5.0" width="20.0" height="20.0"' in text
    assert 'data-finding="Mass"' in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def test_boxes_of_a_model_are_dashed_and_named(tmp_path):
    boxes = Box("Mass", 10, 5, 30, 25), Box("Mass", 12, 5, 30, 25, score=0.456)
    card = Card(image=np.full((40, 60), 90, np.uint8), title="a", findings=("Mass",), boxes=boxes)
    text = write_contact_page(tmp_path / "page.html", "Phantom", {}, [card]).read_text()
    assert text.count('<rect class="found" x="12.0"') == 1
    assert text.count("<rect x=") == 1
    assert "<title>Mass, a model's box, score 0.46</title>" in text
    assert ".found { stroke-dasharray" in text


def test_a_legend_explains_solid_and_dashed_boxes_where_both_are(tmp_path):
    image, true, said = np.full((40, 60), 90, np.uint8), Box("Mass", 10, 5, 30, 25), Box("Mass", 12, 5, 30, 25, score=0.4)
    both = [
        Card(image=image, title="a", findings=("Mass",), boxes=(true,)),
        Card(image=image, title="b", findings=(), boxes=(said,)),
    ]
    text = write_contact_page(tmp_path / "both.html", "Phantom", {}, both).read_text()
    legend = re.search(r'<p id="legend">.*?</p>', text)
    assert legend is not None
    assert text.index("<main>") > legend.start(), "above the pictures"
    assert re.sub(r"<.*?>", "", legend[0]).split(", ") == ["solid: the true box", "dashed: a model's box"]
    assert legend[0].count("<line") == 2
    assert legend[0].count('class="found"') == 1
    assert 'id="legend"' not in write_contact_page(tmp_path / "true.html", "Phantom", {}, both[:1]).read_text()


def test_names_are_escaped(tmp_path):
    card = Card(image=np.zeros((8, 8), np.uint8), title="<script>x</script>", findings=('"><b>',))
    text = write_contact_page(tmp_path / "page.html", "<title>", {"<k>": "<v>"}, [card]).read_text()
    assert "<script>x" not in text
    assert "<b>" not in text.replace("<b>&lt;script", "")
    assert "<k>" not in text


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no images to show"):
        write_contact_page(tmp_path / "page.html", "x", {}, [])
