"""A Chromium reads: blind first, then with results; measures, turns, writes a text, filters, and decides between two readers."""

import re
from threading import Thread
from time import sleep

import numpy as np
import pytest

from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.access import Access
from chestmap.serving.http.app import create_app
from chestmap.serving.http.server import ListenAddress, server_of
from chestmap.serving.store.store import Store
from serving.browsing import corner, drag, forgotten, frames, last, place, pressed, read, row, saved, shown, until, visit
from serving.fake_service import MODELS, FakeService
from serving.small import picture, served_of, upload, write_small_model


@pytest.fixture(scope="module")
def fake():
    service = FakeService(side=256)
    yield service
    service.close()


@pytest.fixture
def fresh(fake):
    """With nobody's review in it."""
    for study in fake.studies.values():
        study["image"].pop("values", None)
        study["image"]["window"] = {"center": 2048, "width": 3600}
    return forgotten(fake)


def test_the_window_has_the_files_numbers(browser, fresh):
    """A file of rescaled values whose window was written as 1700.5 with a width of 3400."""
    image = fresh.studies["s-0000"]["image"]
    image["values"], image["window"] = {"zero": 200.0, "step": 1.0, "linear": True}, {"center": 1500.0, "width": 3399.0}
    with visit(browser, fresh.address) as page:
        read(page, fresh.address)
        assert corner(page, "window") == "W 3400  L 1700.5"
        image["values"], image["window"] = {"zero": 4.0, "step": -0.001, "linear": False}, {"center": 1500, "width": 3000}
        page.reload()
        page.locator("#loading").wait_for(state="hidden")
        assert corner(page, "window") == "W 3  L 2.5"


def test_a_turned_and_mirrored_image_keeps_its_boxes(browser, fresh):
    levels = np.frombuffer(fresh.studies["s-0000"]["pixels"], "<u2").reshape(256, 224).astype(int)
    grey = np.rint(np.clip((levels - (2048 - 1800)) * 255 / 3600, 0, 255)).astype(int)
    with visit(browser, fresh.address) as page:
        read(page, fresh.address)
        page.keyboard.press("o")
        expected = {0: grey}
        for turn in (1, 2, 3):
            page.keyboard.press("q")
            expected[turn] = np.rot90(grey, -turn)
            page.keyboard.press("z")
            painted = shown(page)[..., 0].astype(int)
            top, left = (int((painted.shape[i] - expected[turn].shape[i]) / 2) for i in (0, 1))
            part = painted[top + 40 : top + 180, left + 40 : left + 180]
            assert np.abs(part - expected[turn][40:180, 40:180]).max() <= 1, turn
        page.keyboard.press("q")
        page.keyboard.press("Shift+Q")
        page.keyboard.press("z")
        painted = shown(page)[..., 0].astype(int)
        top, left = (int((painted.shape[i] - grey.shape[i]) / 2) for i in (0, 1))
        assert np.abs(painted[top + 40 : top + 180, left + 40 : left + 180] - grey[:, ::-1][40:180, 40:180]).max() <= 1
        page.keyboard.press("o")
        page.keyboard.press("f")
        row(page, "Hernia").locator(".name").click()
        page.keyboard.press("b")
        drag(page, place(page, 20, 30), place(page, 60, 90))
        page.keyboard.press("b")
        page.keyboard.press("ArrowRight")  # on the screen; the image is mirrored
        saved(page)
        (box,) = last(fresh)["findings"]["Hernia"]["boxes"]
        assert np.allclose([box[key] for key in ("x0", "y0", "x1", "y1")], (224 - 60 - 1, 30, 224 - 20 - 1, 90), atol=1)


def test_lines_measure_millimeters_angles_and_ratios(browser, fresh):
    with visit(browser, fresh.address) as page:
        read(page, fresh.address)
        found = page.evaluate(
            "import('/page/measures.js').then(({ told, lengthOf }) => { const line = (x0, y0, x1, y1) => ({ a: { x: x0, y: y0 }, b: { x: x1, y: y1 } });"
            "return [told({ kind: 'ruler', lines: [line(0, 0, 30, 40)] }, [0.5, 0.5]), told({ kind: 'ruler', lines: [line(0, 0, 30, 40)] }, null),"
            "told({ kind: 'angle', lines: [line(0, 0, 10, 0), line(0, 0, 10, 10)] }, [1, 1]), told({ kind: 'ctr', lines: [line(0, 0, 12, 0), line(0, 0, 25, 0)] }, null),"
            "lengthOf(line(0, 0, 3, 4), [2, 1])]; })"
        )
        assert found == ["25.0 mm", "50.0 px", "45.0°", "CTR 0.48", pytest.approx(8.544, abs=1e-3)]
        page.keyboard.press("o")
        before = shown(page)
        page.keyboard.press("g")
        drag(page, place(page, 40, 60), place(page, 140, 60))
        assert (shown(page) != before).any()
        page.keyboard.press("g")
        page.keyboard.press("Delete")
        assert (shown(page) == before).all()
        page.keyboard.press("Shift+R")
        drag(page, place(page, 40, 60), place(page, 140, 60))
        page.keyboard.press("Escape")  # a ratio that lacks its second line goes first, then the tool
        assert (shown(page) == before).all()
        assert pressed(page, "[data-tool=ctr]")
        page.keyboard.press("Escape")
        assert pressed(page, "[data-tool=window]")


def test_measures_and_the_key_image_are_saved_and_shown_again(browser, fresh):
    with visit(browser, fresh.address) as page:
        read(page, fresh.address)
        page.keyboard.press("o")
        before = shown(page)
        page.keyboard.press("g")
        drag(page, place(page, 40, 60), place(page, 140, 60))
        saved(page)
        (ruler,) = last(fresh)["measures"]
        assert (ruler["kind"], last(fresh)["state"]) == ("ruler", "part")
        assert np.allclose([ruler["lines"][0][key] for key in ("x0", "y0", "x1", "y1")], (40, 60, 140, 60), atol=1)
        page.keyboard.press("Shift+R")
        drag(page, place(page, 40, 90), place(page, 100, 90))
        drag(page, place(page, 20, 120), place(page, 140, 120))
        saved(page)
        assert [one["kind"] for one in last(fresh)["measures"]] == ["ruler", "ctr"]
        page.keyboard.press("Shift+K")
        saved(page)
        assert last(fresh)["key"] is True
        assert "Measured: " in page.locator("#report-text").input_value()
        drawn = shown(page)
        page.keyboard.press("r")  # the view, and nothing of the review
        page.reload()
        page.locator("#loading").wait_for(state="hidden")
        page.keyboard.press("o")
        assert pressed(page, "#key-button")
        assert (shown(page) == drawn).all()
        page.locator("#image-a").focus()
        page.keyboard.press("Delete")
        page.keyboard.press("Delete")
        saved(page)
        assert last(fresh)["measures"] == []
        assert (shown(page) == before).all()
        page.keyboard.press("Control+z")
        saved(page)
        assert [one["kind"] for one in last(fresh)["measures"]] == ["ruler"]


def test_a_box_of_a_finding_that_the_model_does_not_call_is_told_apart(browser, fresh):
    found = next(one for one in fresh.studies["s-0000"]["results"][0]["findings"] if one["boxes"])
    before = dict(found)
    found |= {"score": 0.31, "over": False}
    try:
        with visit(browser, fresh.address) as page:
            read(page, fresh.address)
            row(page, found["name"]).locator(".name").click()
            assert row(page, found["name"]).locator(".chip").first.inner_text().startswith("model's box, not called, 1:")
            drawn = page.evaluate(
                "import('/page/scene.js').then(({ Scene }) => { const scene = new Scene(() => ({ colors: { css: () => '' } }));"
                "return [{ own: true, score: .3, called: false }, { score: .9, called: true }, { score: .3, called: false }]"
                ".map(one => scene.look('Mass', {}, one)).map(({ line, label }) => [line, label]); })"
            )
            assert drawn == [["solid", "Mass"], ["dashed", "Mass .90"], ["dotted", "Mass .30, not called"]]
    finally:
        found |= before


def test_the_verdicts_make_a_text(browser, fresh):
    with visit(browser, fresh.address) as page:
        read(page, fresh.address)
        made = lambda: page.locator("#report-text").input_value().splitlines()  # noqa: E731
        assert made() == ["Not judged: 14 findings.", "Read by Ana. For research."]  # and not that nothing is present
        row(page, "Hernia").locator(".reject").click()
        assert made()[:2] == ["Present: none of the findings that were judged.", "Absent: Hernia."]
        row(page, "Effusion").locator(".accept").click()
        page.keyboard.press("Shift+T")
        text = page.locator("#report-text").input_value()
        count = len(last(fresh)["findings"].get("Effusion", {}).get("boxes", [])) or 1
        assert text.splitlines() == [
            f"Present: Effusion ({count} region{'' if count == 1 else 's'}).", "Absent: Hernia.", "Not judged: 12 findings.",
            "Read by Ana. For research.",
        ]  # fmt: skip
        page.locator("#report-text").fill("All as before.")
        page.keyboard.press("Escape")
        row(page, "Mass").locator(".reject").click()
        assert page.locator("#report-text").input_value() == "All as before."
        page.locator("#report-note").click()
        saved(page)
        assert last(fresh)["note"] == "All as before."
        page.locator("#report-again").click()
        assert "Absent: Mass; Hernia." in page.locator("#report-text").input_value()  # in the order of the rows, by score


def test_a_blind_first_read_hides_results_until_it_is_committed(browser, fresh):
    with visit(browser, fresh.address) as page:
        page.locator("#blind").click()
        page.locator("#rows li[data-id]").nth(2).wait_for()
        assert page.locator("#rows .tags").first.is_hidden()
        asked = lambda: [one for one in fresh.requests if "/v1/studies?" in one][-3:]  # noqa: E731
        for _ in range(600):  # until the list was asked for anew
            if all("order=received" in one for one in asked()):
                break
            frames(page)
        assert all("order=received" in one for one in asked())
        read(page, fresh.address)
        assert page.locator("#findings .score").first.is_hidden()
        assert page.locator("#finding-head").is_hidden()
        assert "suspicion" not in page.locator("#study-facts").inner_text()
        names = page.locator(".finding .name > span:first-child").all_inner_texts()
        assert names == sorted(names)
        assert not [request for request in fresh.requests if "/maps/" in request]
        page.keyboard.press("Shift+A")  # there is nothing to agree with
        row(page, "Mass").locator(".reject").click()
        saved(page)
        said = last(fresh)
        assert (said["stage"], said["findings"]["Mass"]["seen"], said["findings"]["Mass"]["how"]) == (
            "blind",
            "",
            "considered",
        )
        page.keyboard.press("Shift+C")
        page.locator("#finding-head").wait_for()
        assert row(page, "Mass").get_attribute("data-said") == "reject"
        assert [one["stage"] for one in fresh.studies["s-0000"]["versions"][1:]] == ["blind", "open"]
        row(page, "Effusion").locator(".accept").click()
        saved(page)
        assert (last(fresh)["stage"], last(fresh)["findings"]["Effusion"]["seen"]) == ("open", MODELS[0])
        page.locator("#study [data-act=escape]").click()
        page.locator("#blind").click()
        page.locator("#rows .tags").first.wait_for()


def test_filters_ask_the_service_and_are_kept_under_a_name(browser, fresh):
    with visit(browser, fresh.address) as page:
        page.locator("#rows li[data-id]").nth(2).wait_for()
        page.keyboard.press("Shift+F")
        page.locator("#since").fill("2031-03-01")
        page.locator("#view").select_option("PA")
        page.locator("#least").fill("0.5")
        page.locator("#least").blur()
        page.locator("#mine").check()
        page.locator("#filters-told", has_text="(4 set)").wait_for()
        frames(page)
        asked = [one for one in fresh.requests if "mine=1" in one][-1]
        for part in ("since=2031-03-01", "view=PA", "least=0.5"):
            assert part in asked
        page.locator("#save-filters").click()
        page.reload()
        page.locator("body[data-ready]").wait_for()
        page.locator("#clear").click() if page.locator("#clear").is_visible() else None
        page.keyboard.press("Shift+F")
        page.locator("#saved").select_option(index=1)
        page.locator("#filters-told", has_text="(4 set)").wait_for()
        page.locator("#density").click()
        assert page.locator("#rows .thumb").first.bounding_box()["height"] < 40


@pytest.fixture(scope="module")
def real(model_folder, tmp_path_factory):
    """The service itself, with two models of random weights."""
    room = tmp_path_factory.mktemp("reads")
    served = [served_of(model_folder), served_of(write_small_model(room / "other", seed=4))]
    settings = ServeSettings(readers=1)
    service = Service(served, Store(room / "store"), settings)
    server = server_of(create_app(service, Access()), ListenAddress("127.0.0.1", 0), settings)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        sleep(0.02)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", service
    server.should_exit = True
    thread.join(20)


def test_two_readers_read_apart_and_a_third_decides(browser, real, tmp_path):
    """Blind, then with results; then each sees the other's, the readers' agreement, and one review is made of both."""
    address, service = real
    film = tmp_path / "film.png"
    film.write_bytes(picture(9, 224, 256))
    with visit(browser, address, "Chief") as chief:
        chief.locator("#files").set_input_files(film)
        study = chief.locator("#rows li[data-id]:has(a[href])").get_attribute("data-id")
        read(chief, address, study)
        chief.locator("#assign summary").click()
        chief.locator("#readers").fill("Ana, Bo")
        chief.locator("#readers-form button").click()
        chief.locator("#readers-who", has_text="Ana: to read · Bo: to read").wait_for()
    for name, effusion in (("Ana", "correct"), ("Bo", "reject")):
        with visit(browser, address, name) as page:
            page.locator("#blind").click()
            read(page, address, study)
            assert "Independent read" in page.locator("#independent").inner_text()
            assert page.locator("#reads").is_hidden()
            row(page, "Effusion").locator(f".{effusion}").click()
            if effusion == "correct":
                row(page, "Effusion").locator(".name").click()
                page.keyboard.press("Shift+B")  # a box, which the one who decides sees
            row(page, "Mass").locator(".reject").click()
            saved(page)
            page.keyboard.press("Shift+C")
            page.locator("#finding-head").wait_for()
            assert row(page, "Effusion").get_attribute("data-said") == effusion
            page.locator("#done").click()
            page.locator("#rows").wait_for()
            until(page, "document.body.dataset.screen === 'list'")
    with visit(browser, address, "Chief") as chief:
        read(chief, address, study)
        assert chief.locator("#reads-told").inner_text() == "1 finding to decide: the readers differ."
        assert chief.locator("#reads-rows tr.clash th").all_inner_texts() == ["Effusion"]
        assert chief.locator("#reads-rows canvas.preview").count() == 1
        chief.locator("#take-agreed").click()
        assert row(chief, "Mass").get_attribute("data-said") == "reject"
        chief.get_by_role("button", name="Take Bo's: Effusion absent").click()
        saved(chief)
        chief.locator("#done").click()
        until(chief, "document.body.dataset.screen === 'list'")
        chief.locator("#agreement-button").click()
        chief.locator("#agreement[open]").wait_for()
        assert "1 study with finished independent reads" in chief.locator("#agreement-told").inner_text()
        lines = chief.locator("#agreement-rows tr").all_inner_texts()
        assert any(re.match(r"Mass\tall\t1\t–\t1\.00", line) for line in lines)
    found, _ = service.store.study(study)
    assert (found.review_state, found.review_by, found.disagreement & 4) == ("done", "Chief", 4)


def test_nothing_is_hidden_from_who_was_not_asked(client):
    (study,) = client.post("/v1/predict", files=upload(picture(78))).json()["studies"]
    assert study["independent"] is False
    assert study["reads"] == []
