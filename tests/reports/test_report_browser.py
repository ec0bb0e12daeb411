"""A Chromium opens the report, clicks its filters and presses its keys; skipped where there is none."""

import pytest

from chestmap.evaluation.published import find
from chestmap.evaluation.scores import Evaluation
from chestmap.reports.contact_page import Card, write_contact_page
from chestmap.reports.report import write_report
from chestmap.reports.run_facts import read_run
from serving.browsing import until


@pytest.fixture(scope="module")
def report(tmp_path_factory, metrics, pictures, run_folder):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, Evaluation.from_dict(metrics()), pictures, read_run(run_folder), [find("ham/table-4")])


@pytest.fixture(scope="module")
def tab(browser, report):
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto(report.as_uri())
    yield page, said
    page.close()


@pytest.fixture
def opened(tab, report):
    """The page at desktop width, as if opened first; whatever it writes to the console, or asks of a network, fails the test."""
    page, said = tab
    page.set_viewport_size({"width": 1300, "height": 900})
    page.emulate_media(media="screen", color_scheme="light")
    page.evaluate("localStorage.clear()")
    page.goto(report.as_uri())
    yield page
    assert said == []


def shown(page):
    return [figure.get_attribute("data-iou") for figure in page.locator(".grid figure:visible").all()]


def press(page, name):
    page.get_by_role("button", name=name).first.click()


def test_filters_by_finding_outcome_label_and_score(opened):
    assert shown(opened) == ["0.62", "0.31", "0.05", "", "0.55", ""]
    assert opened.locator("#shown").inner_text() == "6 of 6 pictures"
    press(opened, "Effusion")
    assert shown(opened) == ["0.55", ""]
    assert opened.locator("table.findings tbody tr[data-finding]:visible").count() == 1
    assert opened.locator("#roc .panel:visible").count() == 1
    press(opened, "Mass")
    assert len(shown(opened)) == 6
    press(opened, "All findings")
    press(opened, "miss")
    assert shown(opened) == ["0.05"]
    press(opened, "hit")
    assert shown(opened) == ["0.62", "0.31", "0.05", "0.55"]
    opened.locator("#limit").select_option("0.5")
    assert opened.locator("figure:visible .outcome").all_inner_texts() == ["hit", "miss", "miss", "hit"]
    opened.keyboard.press("0")
    assert len(shown(opened)) == 6
    press(opened, "labelled absent")
    assert opened.locator("#shown").inner_text() == "1 of 6 pictures"
    press(opened, "labelled absent")
    opened.locator("#low").fill("0.65")
    assert shown(opened) == ["0.62", "0.05", ""]


def test_buttons_say_whether_they_are_pressed(opened):
    button = opened.get_by_role("button", name="Mass", exact=True)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert opened.locator("#all").get_attribute("aria-pressed") == "false"


def test_failures_can_stand_first(opened):
    opened.locator("#order").select_option("iou 1")
    assert shown(opened) == ["0.05", "0.31", "0.62", "", "0.55", ""]
    opened.locator("#order").select_option("score 1")
    assert shown(opened) == ["0.31", "", "0.05", "0.62", "", "0.55"]


def test_layers_go_and_come_by_key_and_button(opened):
    first = opened.locator(".grid figure").first
    assert first.locator(".map").is_visible()
    opened.keyboard.press("m")
    assert not first.locator(".map").is_visible()
    assert opened.locator(".tools [data-layer=map]").get_attribute("aria-pressed") == "false"
    opened.keyboard.press("m")
    assert first.locator(".map").is_visible()
    opened.locator(".tools [data-layer=true]").click()
    assert not first.locator("path.true").is_visible()
    assert first.locator("path.own").is_visible()
    opened.keyboard.press("[")
    assert float(opened.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--map')")) == pytest.approx(
        0.65
    )


def test_pictures_are_walked_and_enlarged_by_keys(opened):
    opened.keyboard.press("j")
    opened.keyboard.press("j")
    opened.keyboard.press("Enter")
    until(opened, "document.querySelector('#which').innerText === 'Mass, 2 of 6'")
    opened.keyboard.press("ArrowRight")
    until(opened, "document.querySelector('#which').innerText === 'Mass, 3 of 6'")
    assert "IoU .05" in opened.locator("#stage figcaption").inner_text()
    opened.keyboard.press("Escape")
    opened.wait_for_selector("#large", state="hidden")
    until(opened, "document.activeElement.closest('figure')?.dataset.iou === '0.05'")


def test_a_sheet_lists_the_keys(opened):
    opened.keyboard.press("?")
    assert opened.locator("#help").is_visible()
    listed = set(opened.locator("#help kbd").all_inner_texts())
    assert {"j", "k", "m", "l", "o", "t", "[", "]", "/", "0", "d", "?"} <= listed
    opened.keyboard.press("Escape")
    assert not opened.locator("#help").is_visible()


def test_tabs_show_one_kind_of_curve(opened):
    assert [opened.locator(f"#{name}").is_visible() for name in ("roc", "precision-recall", "froc")] == [True, False, False]
    opened.get_by_role("tab", name="ROC", exact=True).focus()
    opened.keyboard.press("ArrowRight")
    assert [opened.locator(f"#{name}").is_visible() for name in ("roc", "precision-recall")] == [False, True]
    assert opened.get_by_role("tab", name="Precision and recall").get_attribute("aria-selected") == "true"


def test_a_chart_is_read_under_the_pointer(opened):
    plot = opened.locator("#localization .card .plot")
    plot.scroll_into_view_if_needed()
    left, top, width, height = map(float, plot.get_attribute("data-frame").split(","))
    box = plot.bounding_box()
    scale = box["width"] / 460
    opened.mouse.move(box["x"] + (left + width / 3) * scale, box["y"] + (top + height / 2) * scale)
    lines = opened.locator("#reading").inner_text().split("\n")
    assert float(lines[0].split()[-1]) == pytest.approx(0.3, abs=0.01)
    told = {line.rsplit(maxsplit=1)[0].strip(): float(line.split()[-1]) for line in lines[1:]}
    assert told["validation threshold"] == pytest.approx(0.5, abs=0.01)
    assert told["medoid box"] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("width", [1300, 390])
def test_nothing_is_wider_than_the_window(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.evaluate("for (const one of document.querySelectorAll('.folded')) one.classList.remove('folded')")
    assert opened.evaluate(CONTRAST, 4.5) == []
    assert len(opened.evaluate(CONTRAST, 22)) > 50  # no ink is that strong, so the measure looks at the text


def test_the_theme_can_be_turned(opened):
    opened.emulate_media(color_scheme="light")
    before = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.keyboard.press("d")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_print_shows_every_curve_and_no_controls(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.locator("#precision-recall").is_visible()
    assert not opened.locator("nav").is_visible()
    assert not opened.locator(".tools").is_visible()
    red = int(opened.evaluate("getComputedStyle(document.querySelector('h2')).color.match(/\\d+/)[0]"))
    assert red < 80  # dark ink whatever the screen's theme


def test_the_contact_page_filters(browser, tmp_path, pictures):
    cards = [Card(image=one.image, title=one.image_id, findings=(one.finding,), boxes=one.true) for one in pictures]
    page = browser.new_page()
    page.goto(write_contact_page(tmp_path / "contact.html", "All", {}, cards).as_uri())
    page.get_by_role("button", name="Effusion").click()
    assert page.locator("figure:visible").count() == 2
    page.close()


CONTRAST = """least => {
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const known = new Map(), canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = color => { if (known.has(color)) return known.get(color);
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    known.set(color, [...canvas.getImageData(0, 0, 1, 1).data]); return known.get(color); };
  const lightness = rgb => rgb.slice(0, 3).map(channel).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => { for (let at = element; at; at = at.parentElement) {
    const color = parse(getComputedStyle(at).backgroundColor); if (color[3] > 200) return color; } return [255, 255, 255, 255]; };
  const weak = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.textContent.trim() || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName) || !element.checkVisibility()) continue;
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const [high, low] = [lightness(ink), lightness(ground(element))].sort((a, b) => b - a);
    if ((high + .05) / (low + .05) < least) weak.add(`${element.tagName}.${element.getAttribute("class")}: ${node.textContent.trim().slice(0, 30)}`);
  }
  return [...weak];
}"""
