"""What can be known of the page without a browser: contrast, nothing inline, nothing from elsewhere, small files."""

import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

import chestmap

PAGE = Path(chestmap.__file__).parent / "serving" / "page"
VARIABLES = dict(re.findall(r"--([\w-]+): light-dark\(([^)]+)\)", (PAGE / "page.css").read_text()))
GROUNDS = ("ground", "panel", "raised")
TEXTS = [
    *product(("text", "soft", "bad", "good", "fix", "accent"), GROUNDS),
    ("text", "warn"),
    ("fix", "warn"),
    ("on-accent", "accent"),
]
TEXTS += [("panel", mark) for mark in ("good", "bad", "fix")]  # the sign on a pressed verdict
TEXTS += [("ground", "text")]  # the notes at the foot
EDGES = list(product(("edge", "accent"), GROUNDS))  # borders of controls, ticks, the ring of the focus


def lightness(color: str) -> float:
    """WCAG 2.2's relative luminance."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb(color)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def rgb(color: str) -> list[float]:
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def contrast(one: str, other: str) -> float:
    low, high = sorted((lightness(one), lightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_right():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_controls_have_contrast(theme):
    colors = {name: pair.split(",")[theme].strip() for name, pair in VARIABLES.items()}
    weak = {pair: contrast(colors[pair[0]], colors[pair[1]]) for pair in TEXTS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    weak = {pair: contrast(colors[pair[0]], colors[pair[1]]) for pair in EDGES}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 3} == {}


def test_colors_come_from_the_variables_alone():
    """Or the contrast above would say nothing. Black, white and shadows lie on the image."""
    for sheet in ("worklist.css", "study.css"):
        said = re.findall(r"#[0-9a-f]{3,8}\b", (PAGE / sheet).read_text())
        assert set(said) <= {"#000", "#f2f5f7", "#0008"}, sheet


class Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids, self.wrong, self.files = [], [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.wrong += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        self.wrong += [tag] if tag == "style" or (tag == "script" and not given.get("src")) else []
        self.files += [given[name] for name in ("src", "href") if given.get(name) and not given[name].startswith("#")]


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    markup = Markup()
    markup.feed((PAGE / "index.html").read_text())
    assert markup.wrong == []
    assert len(markup.ids) == len(set(markup.ids))
    assert all((PAGE.parent / file).is_file() for file in markup.files)
    for path in PAGE.iterdir():
        said = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", said), (
            path.name
        )


def test_ids_that_the_modules_ask_for_are_in_the_page():
    markup = Markup()
    markup.feed((PAGE / "index.html").read_text())
    asked = {name for path in PAGE.glob("*.js") for name in re.findall(r'\bone\("([\w-]+)"\)', path.read_text())}
    assert asked - set(markup.ids) == set()


def test_modules_are_small_and_imports_exist():
    for path in [*PAGE.glob("*.js"), *PAGE.glob("*.css")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path.name
        for name in re.findall(r'from "\./([\w.]+)"', text):
            assert (PAGE / name).is_file(), f"{path.name} imports {name}"
        for names, module in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', text):
            for name in (part.split(" as ")[0].strip() for part in names.split(",") if part.strip()):
                exported = rf"export (?:async )?(?:function|const|class|let) {name}\b"
                assert re.search(exported, (PAGE / module).read_text()), f"{path.name}: {name} of {module}"
