"""A study opens with no more pixels than the window shows; all of them come when they would be seen or read out."""

import numpy as np
import pytest

from serving.browsing import corner, forgotten, frames, read, row, shown, until, visit
from serving.fake_service import FakeService
from serving.small import upload

SIDE = 1024


@pytest.fixture(scope="module")
def large():
    service = FakeService(side=SIDE, studies=2)
    yield service
    service.close()


@pytest.fixture
def fresh(large):
    large.gate.set()
    return forgotten(large)


def png(levels):
    import cv2

    return cv2.imencode(".png", levels)[1].tobytes()


def by_hand(levels):
    """Half of an image by plain loops: the mean of two by two, rounded half up; the last row and column again where odd."""
    height, width = levels.shape
    out = np.zeros(((height + 1) // 2, (width + 1) // 2), int)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            four = [int(levels[min(2 * y + j, height - 1), min(2 * x + i, width - 1)]) for j in (0, 1) for i in (0, 1)]
            out[y, x] = (sum(four) + 2) // 4
    return out


def test_the_service_halves_pixels_as_far_as_a_screen_allows(client):
    levels = np.random.default_rng(3).integers(0, 65536, (301, 203), dtype=np.uint16)
    study = client.post("/v1/predict", files=upload(png(levels))).json()["studies"][0]
    place = f"/v1/studies/{study['id']}/pixels"
    whole = np.frombuffer(client.get(place).content, "<u2").reshape(301, 203)

    def of(stage, height, width):
        return np.frombuffer(client.get(place, params={"stage": stage}).content, "<u2").reshape(height, width)

    np.testing.assert_array_equal(of("200x160", 301, 203), whole)  # half of 301 is less than 160
    np.testing.assert_array_equal(of("200x150", 151, 102), by_hand(whole))
    np.testing.assert_array_equal(of("9999x75", 76, 51), by_hand(by_hand(whole)))
    np.testing.assert_array_equal(of("1x1", 76, 51), by_hand(by_hand(whole)))  # narrower than 64: not again
    for wrong in ("200", "0x9", "200x150x1", "axb", "200x", "1000000x5"):
        assert client.get(place, params={"stage": wrong}).status_code == 422


def test_a_study_opens_with_few_pixels_and_gets_all_when_they_would_be_seen(browser, fresh):
    levels = np.frombuffer(fresh.studies["s-0000"]["pixels"], "<u2").reshape(SIDE, SIDE * 7 // 8).astype(int)
    grey = np.rint(np.clip((levels - (2048 - 1800)) * 255 / 3600, 0, 255)).astype(int)
    with visit(browser, fresh.address, width=700) as page:
        page.set_viewport_size({"width": 700, "height": 441})
        read(page, fresh.address)
        asked = [one for one in fresh.requests if "s-0000/pixels" in one]
        assert asked == ["GET /v1/studies/s-0000/pixels?stage=700x441"]
        page.keyboard.press("o")
        page.keyboard.press("z")
        until(page, "() => document.querySelector('#pane-a [data-corner=zoom]').textContent === '100 %'")
        page.wait_for_timeout(300)
        assert [one for one in fresh.requests if "s-0000/pixels" in one][1:] == ["GET /v1/studies/s-0000/pixels"]
        painted = shown(page)[..., 0].astype(int)
        top, left = ((np.array(grey.shape) - painted.shape) / 2).astype(int)
        middle = grey[top + 20 : top + painted.shape[0] - 60, left + 20 : left + painted.shape[1] - 20]
        assert np.abs(painted[20 : painted.shape[0] - 60, 20 : painted.shape[1] - 20] - middle).max() <= 1
        page.keyboard.press("h")
        page.keyboard.press("f")
        frames(page)


def test_the_readout_is_that_of_the_files_own_pixel(browser, fresh):
    levels = np.frombuffer(fresh.studies["s-0000"]["pixels"], "<u2").reshape(SIDE, SIDE * 7 // 8)
    with visit(browser, fresh.address, width=700) as page:
        page.set_viewport_size({"width": 700, "height": 440})
        read(page, fresh.address)
        box = page.locator("#image-a").bounding_box()
        at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.move(*at)
        until(page, "() => document.body.dataset.screen === 'study'")
        page.wait_for_timeout(300)
        page.mouse.move(at[0] + 3, at[1])
        place, value = corner(page, "level").split(": ")
        x, y = (int(one) for one in place.split(", "))
        assert int(value) == levels[y, x]


def test_nobody_judges_a_study_before_its_image_is_there(browser, fresh):
    fresh.gate.clear()
    with visit(browser, fresh.address) as page:
        page.goto(f"{fresh.address}#/s-0000")
        row(page, "Effusion").wait_for()  # scores come first
        assert page.locator("#loading").is_visible()
        page.keyboard.press("a")
        row(page, "Effusion").locator(".accept").click(force=True)
        frames(page)
        assert page.locator("#loading").is_visible()
        fresh.gate.set()
        page.locator("#loading").wait_for(state="hidden")
        assert page.locator(".finding:not([data-said=unset])").count() == 0
        row(page, "Effusion").locator(".accept").click()
        assert row(page, "Effusion").get_attribute("data-said") == "accept"


def test_a_study_without_pixels_is_not_open(browser, fresh):
    pixels = fresh.studies["s-0001"].pop("pixels")
    try:
        with visit(browser, fresh.address, said="404") as page:
            page.goto(f"{fresh.address}#/s-0001")
            until(page, "() => document.getElementById('loading').textContent.includes('cannot be shown: no pixels')")
            page.keyboard.press("a")
            assert [one for one in fresh.requests if one.startswith("PUT")] == []
    finally:
        fresh.studies["s-0001"]["pixels"] = pixels
