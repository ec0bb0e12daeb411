"""A Chromium reviews studies: by mouse, by every key of the help sheet, by two people at once, and with the service gone.

Most of it drives a stand-in for the service, which can fail on demand; the last tests drive the real one.
"""

import re
from threading import Thread
from time import sleep

import numpy as np
import pytest

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.access import Access
from chestmap.serving.http.app import create_app
from chestmap.serving.http.server import ListenAddress, server_of
from chestmap.serving.store.export_reviews import read_reviews, write_reviewed
from chestmap.serving.store.store import Store
from serving.browsing import (
    STATE,
    corner,
    drag,
    forgotten,
    frames,
    last,
    place,
    press,
    pressed,
    read,
    row,
    saved,
    shown,
    until,
    visit,
)
from serving.fake_service import MODELS, FakeService
from serving.small import picture, served_of, write_small_model


@pytest.fixture(scope="module")
def fake():
    service = FakeService(side=256)
    yield service
    service.close()


@pytest.fixture
def service(fake):
    """With nobody's review in it."""
    return forgotten(fake)


@pytest.fixture(scope="module")
def visited(browser, fake):
    """One page for all tests that need no second one."""
    with visit(browser, fake.address) as page:
        yield page


@pytest.fixture
def page(visited, fake):
    """At the first study, as if it were opened for the first time."""
    forgotten(fake)
    visited.evaluate("document.querySelector('dialog[open]')?.close(); location.hash = '#/'")
    visited.locator("#rows li[data-id]").nth(2).wait_for()
    until(visited, "document.querySelectorAll('#rows .group h2').length < 2")  # in the order of unread ones
    read(visited, fake.address)
    for button in ("#maps-button", "#boxes-button", "[data-tool=window]"):
        if not pressed(visited, button):
            visited.locator(button).click()
    visited.evaluate("document.getElementById('history').open = false")
    visited.locator("#image-a").focus()
    return visited


def test_the_worklist_shows_unread_first_and_filters(browser, service):
    service.studies["s-0001"]["versions"].append({**last(service, "s-0001"), "version": 1, "state": "done", "by": "Bo"})
    with visit(browser, service.address) as page:
        names = page.locator("#rows .who b").all_inner_texts()
        assert names[-1] == "phantom 001"
        assert "<img src=x onerror=alert(1)> & a long accession label" in names  # text, never markup
        assert page.locator("#rows .group h2").all_inner_texts() == ["Unread", "Done"]
        assert page.locator("#rows li[data-id='s-0001'] .reviewed").inner_text().startswith("done · Bo")
        page.locator("#search").fill("phantom 000")
        page.locator("#rows li[data-id]").nth(1).wait_for(state="detached")
        assert page.locator("#rows .who b").all_inner_texts() == ["phantom 000"]
        page.locator("#search").fill("nobody")
        page.get_by_text("No study fits these filters.").wait_for()
        page.get_by_role("button", name="Clear the filters").click()
        page.locator("#rows li[data-id]").nth(2).wait_for()
        page.locator("#finding").select_option("Cardiomegaly")
        page.locator("#rows li[data-id]").nth(2).wait_for(state="detached")
        wanted = [request for request in service.requests if "finding=Cardiomegaly" in request]
        assert len(wanted) == 3  # filtered by the service, group by group
        assert all("order=suspicion" in request for request in wanted)


def test_a_plus_sign_marks_a_total_that_was_not_counted_to_the_end(browser, service):
    service.counted = 2
    with visit(browser, service.address) as page:
        assert page.locator("#rows .group span").first.inner_text() == "2+ studies"
        assert page.locator("[data-reviewed=no] small").inner_text() == "2+"
        assert page.locator("[data-reviewed=done] small").inner_text() == "0"


def test_the_image_is_windowed_at_full_depth(page, fake):
    """Each painted pixel against the window's formula in numpy, at 1:1."""
    study = fake.studies["s-0000"]
    levels = np.frombuffer(study["pixels"], "<u2").reshape(256, 224).astype(int)
    page.keyboard.press("o")
    page.keyboard.press("z")
    painted = shown(page)
    height, width = painted.shape[:2]
    top, left = (height - 256) / 2, (width - 224) / 2
    assert top == int(top)
    assert left == int(left)
    part = painted[int(top) + 40 : int(top) + 200, int(left) + 40 : int(left) + 180, 0]
    expected = np.clip((levels[40:200, 40:180] - (2048 - 1800)) * 255 / 3600, 0, 255)
    assert np.abs(part - expected).max() <= 0.51
    before = corner(page, "window")
    drag(page, place(page, 60, 60), place(page, 110, 90))
    assert corner(page, "window") != before
    assert (shown(page) != painted).any()
    wide, center = map(float, re.findall(r"[\d.]+", corner(page, "window")))
    assert wide > 3600
    assert center > 2048
    page.keyboard.press("i")
    inverted = shown(page)[int(top) + 40 : int(top) + 200, int(left) + 40 : int(left) + 180, 0]
    expected = 255 - np.clip((levels[40:200, 40:180] - (center - wide / 2)) * 255 / wide, 0, 255)
    assert np.abs(inverted - expected).max() <= 1.5  # the corner's numbers are rounded


def test_wheel_zooms_about_the_pointer_and_drags_pan(page):
    page.keyboard.press("o")
    point = place(page, 60, 200)
    page.mouse.move(*point)
    under = corner(page, "level").split(":")[0]
    page.mouse.wheel(0, -240)
    page.mouse.wheel(0, -240)
    page.mouse.move(point[0] + 0.2, point[1])
    after = corner(page, "level").split(":")[0]
    assert [abs(int(a) - int(b)) <= 1 for a, b in zip(under.split(", "), after.split(", "), strict=True)] == [True, True]
    zoomed = int(corner(page, "zoom").split()[0])
    page.keyboard.press("f")
    assert zoomed > 1.8 * int(corner(page, "zoom").split()[0])
    window, still = corner(page, "window"), shown(page)
    drag(page, point, (point[0] + 50, point[1] - 30), "middle")
    moved = shown(page)
    assert (moved[100:200, 450:600] == still[130:230, 400:550]).mean() > 0.99
    page.keyboard.down("Shift")
    drag(page, point, (point[0] - 50, point[1] + 30))
    page.keyboard.up("Shift")
    assert (shown(page) == still).mean() > 0.99
    assert corner(page, "window") == window


def test_boxes_and_maps_lie_where_the_service_says(page, fake):
    """The box's edge is painted at its corner; the map is brightest in the middle of the box, for both geometries."""
    page.keyboard.press("r")
    result = {one["name"]: one for one in fake.studies["s-0000"]["results"][0]["findings"]}
    name = next(one for one in ("Nodule", "Effusion") if result[one]["boxes"])
    box = result[name]["boxes"][0]
    for other in page.evaluate(
        "[...document.querySelectorAll('.finding:has(.eye[aria-pressed=true])')].map(e => e.dataset.finding)"
    ):
        row(page, other).locator(".eye").click()
    bare = shown(page).astype(int)
    row(page, name).locator(".eye").click()
    page.keyboard.press("m")
    edge = np.abs(shown(page).astype(int) - bare).sum(2) > 60
    canvas = page.locator("#image-a").bounding_box()
    x, y = place(page, box["x0"], (box["y0"] + box["y1"]) / 2)
    at = edge[int(y - canvas["y"]) - 20 : int(y - canvas["y"]) + 20, :]
    columns = np.flatnonzero(at.mean(0) > 0.4)
    assert abs(columns.min() + 1.5 - (x - canvas["x"])) <= 2.5
    page.locator("#boxes-button").click()
    for model in MODELS:
        page.locator("#maps-button").click() if not pressed(page, "#maps-button") else None
        page.locator(f"[data-model='{model}']").first.click()
        page.wait_for_timeout(100)
        tint = np.abs(shown(page).astype(int)[..., 0] - shown(page).astype(int)[..., 2])
        y, x = np.unravel_index(tint.argmax(), tint.shape)
        found = place(page, (box["x0"] + box["x1"]) / 2, (box["y0"] + box["y1"]) / 2)
        shift = 224 / 40 if model == MODELS[1] else 0
        assert abs(x + canvas["x"] - found[0]) < 224 / 16 * 3 + shift
        assert abs(y + canvas["y"] - found[1]) < 256 / 16 * 3


def corners(box):
    return [box[key] for key in ("x0", "y0", "x1", "y1")]


def test_where_verdicts_and_boxes_come_from_is_sent_along(page, fake):
    """A box drawn on a finding that the model does not call takes no box of the model along; bulk verdicts say so."""
    results = {one["name"]: one for one in fake.studies["s-0000"]["results"][0]["findings"]}
    uncalled = next(name for name, one in results.items() if not one["over"])
    results[uncalled]["boxes"] = [{"x0": 1, "y0": 1, "x1": 30, "y1": 30, "score": 0.1}]
    page.reload()
    row(page, uncalled).locator(".name").click()
    page.keyboard.press("Shift+B")
    saved(page)
    (box,) = last(fake)["findings"][uncalled]["boxes"]
    assert (box["origin"], box["model"]) == ("drawn", "")
    assert last(fake)["findings"][uncalled]["seen"] == MODELS[0]
    page.keyboard.press("o")
    row(page, "Mass").locator(".reject").click()
    saved(page)
    assert last(fake)["findings"]["Mass"]["seen"] == ""
    page.keyboard.press("Shift+A")
    saved(page)
    bulk = {name: one["how"] for name, one in last(fake)["findings"].items()}
    assert bulk.pop(uncalled) == bulk.pop("Mass") == "considered"
    assert set(bulk.values()) == {"bulk"}
    row(page, "Effusion").locator(".accept").click()  # looked at after all
    saved(page)


def test_boxes_by_mouse_and_keyboard_stay_after_a_reload(page, fake):
    page.locator("#boxes-button").click()
    page.locator("#boxes-button").click()
    row(page, "Hernia").locator(".name").click()
    page.keyboard.press("b")
    drag(page, place(page, 20, 30), place(page, 60, 90))
    page.keyboard.press("b")
    saved(page)
    drawn = last(fake)["findings"]["Hernia"]
    assert drawn["verdict"] == "correct"
    assert np.allclose(corners(drawn["boxes"][0]), (20, 30, 60, 90), atol=1)
    drag(page, place(page, 40, 60), place(page, 50, 80))
    drag(page, place(page, 70, 110), place(page, 90, 130))
    saved(page)
    assert np.allclose(corners(last(fake)["findings"]["Hernia"]["boxes"][0]), (30, 50, 90, 130), atol=1.5)
    before = last(fake)["findings"]["Hernia"]["boxes"][0]
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    saved(page)
    after = last(fake)["findings"]["Hernia"]["boxes"][0]
    assert [round(after[one] - before[one], 3) for one in ("x0", "y0", "x1", "y1")] == [2, -1, 1, 0]
    page.reload()
    page.locator(".finding[data-finding=Hernia] .correct[aria-pressed=true]").wait_for()
    page.locator("#history summary").click()
    page.locator("#versions li").nth(1).wait_for()
    told = page.locator("#versions li").all_inner_texts()
    assert "Hernia: corrected, 1 box" in told[-1]
    assert all("Hernia: boxes changed" in one for one in told[:-1])
    assert all("Ana" in one for one in told)
    row(page, "Hernia").locator(".name").click()
    page.locator("[data-box='Hernia 0']").click()
    page.locator("#image-a").focus()
    page.keyboard.press("Delete")
    saved(page)
    said = last(fake)["findings"]["Hernia"]
    assert (said["verdict"], said["boxes"], said["how"]) == ("correct", [], "considered")
    page.keyboard.press("Control+z")
    saved(page)
    assert last(fake)["findings"]["Hernia"]["boxes"] == [after]


def test_a_drag_over_a_box_that_is_not_taken_changes_the_window(page, fake):
    box = next(one for one in fake.studies["s-0000"]["results"][0]["findings"] if one["name"] == "Effusion")["boxes"][0]
    middle = place(page, (box["x0"] + box["x1"]) / 2, (box["y0"] + box["y1"]) / 2)
    before = corner(page, "window")
    drag(page, middle, (middle[0] + 30, middle[1]))
    assert corner(page, "window") != before
    assert page.locator("#undo").is_disabled()
    page.mouse.click(*middle)
    drag(page, middle, (middle[0] + 30, middle[1]))
    assert page.locator("#undo").is_enabled()
    assert row(page, "Effusion").get_attribute("data-said") == "correct"


def test_two_reviewers_never_overwrite_each_other(browser, service):
    conflict = "409 \\(Conflict\\)"
    with visit(browser, service.address, "Ana", conflict) as ana, visit(browser, service.address, "Bo", conflict) as bo:
        read(ana, service.address), read(bo, service.address)
        row(ana, "Effusion").locator(".accept").click()
        row(ana, "Mass").locator(".accept").click()
        saved(ana)
        row(bo, "Effusion").locator(".reject").click()
        row(bo, "Hernia").locator(".reject").click()
        bo.locator("#conflict[open]").wait_for()
        assert "Ana saved this study" in bo.locator("#conflict h2").inner_text()
        assert bo.locator("#conflict-rows th").all_inner_texts() == ["Effusion\nboth", "Hernia", "Mass"]
        assert bo.locator("#conflict-save").is_disabled()
        bo.locator("#conflict-later").click()
        assert bo.locator("#status").inner_text() == "Ana saved another version"
        row(bo, "Fibrosis").locator(".reject").click()
        assert last(service)["by"] == "Ana"
        bo.locator("#resolve").click()
        bo.locator("#conflict-rows tr.clash input[value=theirs]").check()
        bo.locator("#conflict-save").click()
        saved(bo)
        said = {name: one["verdict"] for name, one in last(service)["findings"].items()}
        assert said == {"Effusion": "accept", "Mass": "accept", "Hernia": "reject", "Fibrosis": "reject"}
        assert last(service)["by"] == "Bo"
        row(ana, "Nodule").locator(".reject").click()
        ana.locator("#conflict[open]").wait_for()
        assert ana.locator("#conflict-save").is_enabled()  # different things: nothing to choose
        ana.locator("#conflict-save").click()
        saved(ana)
        assert len(last(service)["findings"]) == 5
        writers = [one["by"] for one in service.studies["s-0000"]["versions"][1:]]
        assert [name for i, name in enumerate(writers) if writers[i - 1 : i] != [name]] == ["Ana", "Bo", "Ana"]


def test_work_survives_a_service_that_is_gone(browser, service):
    with visit(browser, service.address, said="503|ERR_EMPTY_RESPONSE|409") as page:
        read(page, service.address)
        service.fail = 503
        row(page, "Mass").locator(".accept").click()
        page.locator("#status[data-state=offline]").wait_for()
        read(page, service.address, "s-0001")
        page.reload()
        page.locator("#findings li").first.wait_for()
        service.fail = 0
        read(page, service.address)
        saved(page)
        assert last(service)["findings"]["Mass"]["verdict"] == "accept"
        service.lost = True  # carried out, but the answer never came: not a conflict with oneself
        row(page, "Hernia").locator(".reject").click()
        saved(page)
        assert [one["by"] for one in service.studies["s-0000"]["versions"][1:]] == ["Ana", "Ana"]
        assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('chestmap.draft'))") == []


def test_compare_follows_and_shows_the_prior_or_another_model(page, fake):
    page.keyboard.press("p")
    page.locator("#pane-b [data-corner=zoom]", has_text="%").wait_for()
    assert corner(page, "name", "#pane-b") == "Prior · AP"
    page.mouse.move(
        *[sum(pair) for pair in zip(page.locator("#image-a").bounding_box().values(), (200, 200), strict=False)][:2]
    )
    page.mouse.wheel(0, -300)
    assert corner(page, "zoom") == corner(page, "zoom", "#pane-b")
    page.keyboard.press("p")
    assert page.locator("#pane-b").is_hidden()
    page.locator("#compare").select_option(f"model {MODELS[1]}")
    page.locator("#pane-b [data-corner=model]", has_text=MODELS[1]).wait_for()
    assert MODELS[0] in corner(page, "model")


def test_nothing_is_wider_than_the_window(page):
    nameless = (
        "[...document.querySelectorAll('button, input, select, textarea, canvas[tabindex]')].filter(e => e.checkVisibility()"
        " && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    )
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        for key in ("p", "p", "Escape"):  # beside the prior, alone, the worklist
            page.keyboard.press(key)
            frames(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(nameless) == []
            assert page.locator(".disclaimer").inner_text().startswith("Research use only")
            assert MODELS[0] in page.locator("#models").inner_text()
        page.go_back()
        page.locator("#loading").wait_for(state="hidden")
    page.set_viewport_size({"width": 1000, "height": 680})


STUDY_KEYS = [  # act, key, what changes, and to what where it matters
    ("nextFinding", "j", "chosen", None), ("previousFinding", "k", "chosen", None), ("toggle", "2", "visible", None),
    ("toggle", "2", "visible", None), ("alone", "v", "visible", 1), ("alone", "v", "visible", None), ("accept", "a", "said", "accept"),
    ("reject", "x", "said", "reject"), ("unset", "u", "said", "unset"), ("correct", "c", "said", "correct"), ("escape", "Escape", "taken", ""),
    ("agree", "Shift+A", "left", "Every finding has a verdict"), ("undo", "Control+z", "left", "13 findings without a verdict"),
    ("redo", "Control+y", "left", None), ("undo", "Control+z", "left", None), ("redo", "Control+Shift+Z", "left", None),
    ("drawTool", "b", "tool", "box"), ("drawTool", "b", "tool", "window"), ("addBox", "Shift+B", "chips", 2), ("escape", "Escape", "taken", ""),
    ("editBox", "e", "taken", "{chosen} 0"), ("nextBox", "Tab", "taken", "{chosen} 1"), ("previousBox", "Shift+Tab", "taken", "{chosen} 0"),
    ("nudge", "ArrowLeft", "told", None), ("nudge", "ArrowDown", "told", None), ("stretch", "Shift+ArrowRight", "told", None),
    ("stretch", "Shift+ArrowUp", "told", None), ("deleteBox", "Delete", "chips", 1), ("deleteBox", "Backspace", "chips", 0),
    ("darker", "d", "window", None), ("lighter", "l", "window", None), ("harder", "h", "window", None), ("softer", "s", "window", None),
    ("preset", "w", "preset", "stored"), ("preset", "w", "preset", "auto"), ("invert", "i", "window", None), ("turn", "q", "zoom", None), ("mirror", "Shift+Q", "flip", True), ("reset", "r", "flip", False),
    ("zoomIn", "+", "zoom", None), ("zoomOut", "-", "zoom", None), ("actual", "z", "zoom", "100 %"), ("fit", "f", "zoom", None),
    ("maps", "m", "maps", False), ("overlay", "o", "boxes", False), ("overlay", "o", "maps", True), ("fainter", "[", "opacity", "35"),
    ("stronger", "]", "opacity", "45"), ("nextModel", "Shift+M", "model", MODELS[1]), ("nextModel", "Shift+M", "model", MODELS[0]),
    ("rulerTool", "g", "tool", "ruler"), ("rulerTool", "g", "tool", "window"), ("angleTool", "Shift+G", "tool", "angle"),
    ("escape", "Escape", "tool", "window"), ("ratioTool", "Shift+R", "tool", "ctr"), ("escape", "Escape", "tool", "window"),
    ("report", "Shift+T", "focus", "report-text"), ("escape", "Escape", "focus", ""),
    ("prior", "p", "compare", "study s-0001"), ("prior", "p", "compare", ""), ("compareModel", "y", "compare", f"model {MODELS[1]}"),
    ("compareModel", "y", "compare", ""), ("noteField", "t", "focus", "note"), ("escape", "Escape", "focus", ""),
    ("history", "Shift+H", "history", True), ("history", "Shift+H", "history", False), ("theme", "Shift+D", "theme", "light"),
    ("theme", "Shift+D", "theme", "dark"), ("help", "?", "help", True), ("help", "Escape", "help", False),
    ("nextStudy", "n", "hash", None), ("previousStudy", "Shift+N", "hash", "#/s-0000"), ("done", "Shift+Enter", "hash", None),
    ("escape", "Escape", "hash", "#/"),
]  # fmt: skip
LIST_KEYS = [
    ("nextRow", "j", "focus", None), ("nextRow", "ArrowDown", "focus", None), ("previousRow", "k", "focus", None),
    ("filters", "Shift+F", "more", True), ("filters", "Shift+F", "more", False), ("search", "/", "focus", "search"), ("escape", "Escape", "focus", ""), ("tabs", "u", "tab", "no"), ("tabs", "u", "tab", "part"),
    ("tabs", "u", "tab", "done"), ("tabs", "u", "tab", ""), ("openRow", "Enter", "hash", None),
]  # fmt: skip


def settled_study(page):
    page.locator("#loading").wait_for(state="hidden")
    frames(page)


def test_every_key_of_the_help_sheet_does_what_it_says(page, fake):
    listed = set(page.evaluate("[...document.querySelectorAll('#keys [data-act]')].map(line => line.dataset.act)"))
    assert listed == {act for act, *_ in STUDY_KEYS + LIST_KEYS} | {"commit", "keyImage"}  # which have tests of their own
    for _, key, what, wanted in STUDY_KEYS:
        press(page, key, what, wanted)
        settled_study(page)
    assert last(fake)["state"] == "done"
    page.locator("#rows li[data-id]").nth(2).wait_for()
    page.locator("#rows a:focus").wait_for()  # where one was
    page.locator("#rows a").first.focus()
    for _, key, what, wanted in LIST_KEYS:
        press(page, key, what, wanted)


def test_keys_of_one_character_can_be_turned_off(page):
    page.locator("#help-button").click()
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    before = page.evaluate(STATE)
    for key in ("a", "i", "j", "2"):
        page.keyboard.press(key)
    after = page.evaluate(STATE)
    assert after == before | {"focus": after["focus"]}
    page.keyboard.press("?")
    page.locator("#single-keys").check()
    page.keyboard.press("Escape")


def test_a_big_image_is_windowed_within_a_frame(page):
    """3.6 megapixels at full size. A bound ten times what it takes here: a busy machine is not a failure."""
    took = page.evaluate(
        "import('/page/levels.js').then(({ Raster, windowTable }) => { const w = 2000, h = 1800;"
        "const raster = new Raster(Uint16Array.from({ length: w * h }, (_, i) => i % 4096), w, h), times = [];"
        "for (let i = 0; i < 7; i++) { raster.canvas(0, windowTable({ center: 2000 + i, width: 3000 }, false), String(i));"
        "times.push(raster.took); } return times.sort((a, b) => a - b)[3]; })"
    )
    assert took < 160


@pytest.fixture(scope="module")
def real(model_folder, tmp_path_factory):
    """The service itself, with two models of random weights."""
    room = tmp_path_factory.mktemp("review")
    served = [served_of(model_folder), served_of(write_small_model(room / "other", seed=4))]
    settings = ServeSettings(readers=1)
    service = Service(served, Store(room / "store"), settings)
    server = server_of(create_app(service, Access()), ListenAddress("127.0.0.1", 0), settings)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        sleep(0.02)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", room / "store"
    server.should_exit = True
    thread.join(20)


def review_of(page, study):
    return page.evaluate("study => fetch(`v1/studies/${study}`).then(answer => answer.json())", study)["review"]


def test_the_real_service_is_reviewed(browser, real, tmp_path):
    """From the upload of a file to two reviewers' corrections, by mouse and by keyboard, and on to what a method learns from."""
    real, store = real
    film = tmp_path / "film.png"
    film.write_bytes(picture(3, 224, 256))
    with visit(browser, real, "Ana", "409") as ana, visit(browser, real, "Bo", "409") as bo:
        ana.locator("#files").set_input_files(film)
        study = ana.locator("#rows li[data-id]:has(a[href])").get_attribute("data-id")
        assert ana.locator("#rows .who b").inner_text() == "film.png"
        for page in (ana, bo):
            read(page, real, study)
            page.keyboard.press("o")
        assert ana.locator("#model-heads button").count() == 2
        before, window = shown(ana), corner(ana, "window")
        drag(ana, place(ana, 100, 100), place(ana, 130, 120))
        assert corner(ana, "window") != window
        assert (shown(ana) != before).mean() > 0.3
        ana.keyboard.press("o")
        plain = shown(ana)
        for key in "123":
            ana.keyboard.press(key)
        assert (shown(ana) != plain).any()
        row(ana, "Mass").locator(".name").click()
        ana.keyboard.press("u")
        count = len(ana.locator("[data-box]").all())
        ana.locator("#image-a").focus()
        ana.keyboard.press("b")
        drag(ana, place(ana, 20, 30), place(ana, 60, 90))
        for key in ("b", "ArrowRight", "Shift+ArrowDown"):
            ana.keyboard.press(key)
        saved(ana)
        box = review_of(ana, study)["findings"]["Mass"]["boxes"][-1]
        assert np.allclose([box[name] for name in ("x0", "y0", "x1", "y1")], (21, 30, 61, 91), atol=1)
        ana.reload()
        row(ana, "Mass").locator(".correct[aria-pressed=true]").wait_for()
        row(ana, "Mass").locator(".name").click()
        assert ana.locator("[data-box]").count() == count + 1
        row(bo, "Mass").locator(".reject").click()
        bo.locator("#conflict[open]").wait_for()
        assert bo.locator("#conflict-rows tr.clash th").inner_text() == "Mass\nboth"
        bo.locator("#conflict-all-theirs").click()
        bo.locator("#conflict-save").click()
        saved(bo)
        row(bo, "Nodule").locator(".accept").click()
        saved(bo)
        review = review_of(bo, study)
        assert (review["by"], review["state"]) == ("Bo", "part")
        assert review["findings"]["Mass"]["boxes"][-1] == box
        bo.locator("#history summary").click()
        bo.get_by_text("Nodule: accepted").wait_for()
    write_reviewed(tmp_path / "reviewed", *read_reviews(store))
    source = read_folder(FolderSettings(root=tmp_path / "reviewed", labels="labels.csv", boxes="boxes.json"))
    assert source.path(0).read_bytes() == film.read_bytes()
    said = dict(zip(source.findings, source.labels[0].tolist(), strict=True))
    assert said == {"Effusion": -1, "Mass": 1, "Nodule": 1}  # nobody looked at the effusion
    drawn = [one for one in source.boxes[source.ids[0]] if one.finding == "Mass"][-1]
    assert np.allclose(drawn.corners, [box[name] for name in ("x0", "y0", "x1", "y1")])
