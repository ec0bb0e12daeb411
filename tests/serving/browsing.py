"""How the tests of the review page open it, look at it and work with it."""

import re
import time
from base64 import b64decode
from contextlib import contextmanager

import cv2
import numpy as np

STATE = """(() => { const one = selector => document.querySelector(selector), chosen = one('.finding.chosen'), count = s => document.querySelectorAll(s).length;
  const corner = name => one(`#pane-a [data-corner=${name}]`).textContent, on = id => one(id).getAttribute('aria-pressed') === 'true';
  return { chosen: chosen?.dataset.finding, said: chosen?.dataset.said, visible: count('.eye[aria-pressed=true]'), left: one('#left').textContent,
    chips: count('.chip'), taken: one('.chip[aria-pressed=true]')?.dataset.box ?? '', told: one('#said').textContent, window: corner('window'),
    zoom: corner('zoom'), preset: one('#preset').value, maps: on('#maps-button'), boxes: on('#boxes-button'), opacity: one('#opacity').value,
    tool: one('[data-tool][aria-pressed=true]').dataset.tool, model: one('#model-heads [aria-pressed=true]')?.dataset.model, compare: one('#compare').value,
    focus: document.activeElement.id || document.activeElement.closest('li[data-id]')?.dataset.id || '', help: one('#help').open, history: one('#history').open, hash: location.hash,
    theme: document.documentElement.dataset.theme, flip: on('#flip-button'), more: one('#more-filters').open, tab: one('[data-reviewed][aria-pressed=true]').dataset.reviewed }; })()"""


def forgotten(fake):
    for study in fake.studies.values():
        del study["versions"][1:]
    fake.fail, fake.lost = 0, False
    fake.requests.clear()
    return fake


@contextmanager
def visit(browser, address, name="Ana", said=None, width=1000):
    """A browser of its own; whatever it writes to the console, or asks of another host, fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 680}, locale="en-GB", reduced_motion="reduce")
    context.add_init_script(
        f"localStorage.getItem('chestmap.reviewer') ?? localStorage.setItem('chestmap.reviewer', '{name}')"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)  # a busy machine is not a failure
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if not request.url.startswith((address, "blob:")) else None)
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    yield page
    context.close()
    assert [line for line in heard if said is None or not re.search(said, line)] == []


def read(page, address, study="s-0000"):
    page.goto(f"{address}#/{study}")
    page.locator("#loading").wait_for(state="hidden")
    page.locator("#findings li").first.wait_for()
    frames(page)
    return page.locator("#image-a")


def until(page, question, given=None, seconds=60):
    """Asks again until the page answers yes; `wait_for_function` asks inside the page, whose policy forbids `eval`."""
    end = time.monotonic() + seconds
    while not page.evaluate(question, given):
        assert time.monotonic() < end, f"still not so: {question}"
        page.wait_for_timeout(20)


def frames(page):
    """Two frames later: what was asked for is painted."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page, pane="#pane-a"):
    """The pixels of the stage, [height, width, RGB]."""
    frames(page)
    url = page.evaluate("pane => document.querySelector(pane + ' canvas.stage').toDataURL()", pane)
    return cv2.imdecode(np.frombuffer(b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def corner(page, name, pane="#pane-a"):
    frames(page)
    return page.locator(f"{pane} [data-corner={name}]").text_content()


def place(page, x, y):
    """Where an image point lies in the window, from the page's own view, which the geometry test checks."""
    box = page.locator("#image-a").bounding_box()
    image = {"width": 224, "height": 256}
    zoom = min(box["width"] / image["width"], box["height"] / image["height"])
    left = box["x"] + (box["width"] - image["width"] * zoom) / 2
    top = box["y"] + (box["height"] - image["height"] * zoom) / 2
    return left + x * zoom, top + y * zoom


def drag(page, start, end, button="left"):
    page.mouse.move(*start)
    page.mouse.down(button=button)
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up(button=button)


def saved(page):
    """Waits for what was changed before: the state leaves "saved" within the change itself."""
    page.locator("#status[data-state=saved]").wait_for()


def last(service, study="s-0000"):
    return service.studies[study]["versions"][-1]


def row(page, finding):
    return page.locator(f".finding[data-finding='{finding}']")


def pressed(page, selector):
    return page.locator(selector).get_attribute("aria-pressed") == "true"


def press(page, key, what, wanted):
    """Presses a key, waits until the state says so, and returns it."""
    before = page.evaluate(STATE)
    page.keyboard.press(key)
    for _ in range(100):
        after = page.evaluate(STATE)
        if after[what] != before[what]:
            break
        frames(page)
    assert after[what] != before[what], (key, what, after)
    assert wanted is None or after[what] == (wanted.format(**after) if isinstance(wanted, str) else wanted), (key, what)
    return after


def last_of(store, study_id):
    """The newest version of a review in a real store."""
    from chestmap.serving.store import reviews

    return reviews.current(store, study_id)
