"""axe-core finds nothing serious on any page or dialog, and a whole review is made by keys alone, in which Esc undoes nothing."""

import pytest

from serving.browsing import forgotten, frames, last, read, saved, until, visit
from serving.fake_service import FakeService

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is absent: pip install axe-playwright-python")
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def fake():
    service = FakeService(side=256)
    yield service
    service.close()


@pytest.fixture
def service(fake):
    return forgotten(fake)


def violations(page):
    """Rules that are broken seriously, and where."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return {one["id"]: [node["html"][:120] for node in one["nodes"]][:4] for one in found if one["impact"] in SERIOUS}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(browser, service, theme):
    study = service.studies["s-0000"]
    said = {"Mass": {"verdict": "reject", "boxes": []}}
    reads = [
        {"reader": name, "findings": said if name == "Ana" else {"Mass": {"verdict": "accept", "boxes": []}}}
        for name in ("Ana", "Bo")
    ]
    with visit(browser, service.address) as page:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        page.locator("#more-filters summary").click()
        found = {"worklist": violations(page)}
        page.keyboard.press("?")
        found["keys"] = violations(page)
        page.keyboard.press("Escape")
        page.evaluate("document.getElementById('who').showModal()")
        found["who"] = violations(page)
        page.evaluate("document.getElementById('who').close(); document.getElementById('sign-in').showModal()")
        found["sign in"] = violations(page)
        page.evaluate("document.getElementById('sign-in').close()")
        study["reads"], study["readers"] = (
            reads,
            [{"reader": one["reader"], "done": "2031-03-28T09:00:00Z"} for one in reads],
        )
        read(page, service.address)
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        for one in page.locator("aside details").all():
            one.evaluate("panel => { panel.open = true; }")
        page.keyboard.press("p")
        frames(page)
        found["study"] = violations(page)
        page.evaluate("localStorage.setItem('chestmap.blind', '1')")
        read(page, service.address, "s-0001")
        found["blind"] = violations(page)
        page.evaluate("localStorage.removeItem('chestmap.blind')")
        page.evaluate("document.getElementById('agreement').showModal()")
        found["agreement"] = violations(page)
    study.pop("reads")
    study.pop("readers")
    assert found == {place: {} for place in found}


def test_a_whole_review_by_keys_alone(browser, service):
    """From the worklist to the next study, without a pointer; Esc leaves every field, box and tool, and loses no verdict."""
    with visit(browser, service.address) as page:
        page.locator("#rows li[data-id]").nth(2).wait_for()
        keys = page.keyboard
        for _ in range(3):
            keys.press("j")
        while page.evaluate("document.activeElement.closest('li[data-id]')?.dataset.id") != "s-0000":
            keys.press("k")
            frames(page)
            if page.evaluate("document.activeElement.closest('li[data-id]')?.previousElementSibling?.dataset.id") is None:
                break
        study = page.evaluate("document.activeElement.closest('li[data-id]').dataset.id")
        keys.press("Enter")
        page.locator("#loading").wait_for(state="hidden")
        page.locator("#findings li").first.wait_for()
        frames(page)
        keys.press("a")
        keys.press("j")
        keys.press("Shift+B")
        keys.press("ArrowRight")
        keys.press("Escape")  # lets go of the box; the box stays
        keys.press("g")
        keys.press("Escape")  # leaves the tool
        keys.press("t")
        page.locator("#note:focus").wait_for()
        keys.type("seen by keys")
        keys.press("Escape")  # leaves the note; its words stay
        keys.press("Shift+A")
        saved(page)
        said = last(service, study)
        assert said["note"] == "seen by keys"
        assert len(said["findings"]) == 14
        assert sum(one["how"] == "considered" for one in said["findings"].values()) == 2
        assert any(box["origin"] in {"drawn", "moved"} for one in said["findings"].values() for box in one["boxes"])
        before = len(service.studies[study]["versions"])
        keys.press("Shift+Enter")
        until(page, "study => !location.hash.endsWith(study)", study)
        assert last(service, study)["state"] == "done"
        assert len(service.studies[study]["versions"]) == before + 1
        page.locator("#loading").wait_for(state="hidden")
        frames(page)
        keys.press("x")  # not saved yet: Esc leaves the study, and what was said is sent
        other = page.evaluate("location.hash.slice(2)")
        keys.press("Escape")
        until(page, "document.body.dataset.screen === 'list'")
        until(page, "Object.keys(localStorage).every(key => !key.startsWith('chestmap.draft'))")
        assert "reject" in [one["verdict"] for one in last(service, other)["findings"].values()]
