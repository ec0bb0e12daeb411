"""How quick the review page is: from click to first pixel, and frames while the window is dragged.

    python benchmarks/page.py [--model starter] [--side 3000] [--studies 6] [--drags 5]

Serves made-up radiographs of SIDE x SIDE pixels, 12 bits, on loopback, opens them in a headless Chromium of 1920 x 1080, and prints
Markdown for benchmarks/page.md. A first pixel is there when the page has painted the image and two frames have passed. Processor
time of the page is that of its main thread, which other work on the machine does not change much; times of the clock it does.
"""

import argparse
import io
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import cv2
import httpx
import numpy as np
from playwright.sync_api import Page, sync_playwright

from chestmap.models.hub import known_model
from chestmap.serving.engine.open_service import open_service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.access import Access
from chestmap.serving.http.app import create_app
from chestmap.serving.http.server import ListenAddress, server_of

OPEN = """async id => {
  const loading = document.getElementById('loading'), link = document.querySelector(`#rows li[data-id="${id}"] a`);
  const start = performance.now();
  link.click();
  while (document.body.dataset.screen !== 'study' || !loading.hidden || !document.querySelector('#findings li')) {
    if (performance.now() - start > 60000) throw new Error(`not open after a minute: ${loading.textContent}`);
    await new Promise(done => requestAnimationFrame(done));
  }
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""
RECORD = """() => { window.frames_ = []; window.recording_ = true;
  const step = at => { window.frames_.push(at); if (window.recording_) requestAnimationFrame(step); }; requestAnimationFrame(step); }"""
STOP = "() => { window.recording_ = false; return window.frames_; }"


ROWS = {
    "click": "click to painted image", "pixels": "of it: pixels to arrive", "first": "of that: before the first byte",
    "thread": "click, main thread", "frame": "frame while dragging", "drawing": "frame, main thread",
}  # fmt: skip


def film(seed: int, side: int) -> bytes:
    random = np.random.default_rng(seed)
    smooth = cv2.resize(random.random((24, 24), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    levels = np.clip(smooth * 3500 + random.normal(0, 40, (side, side)), 0, 4095).astype(np.uint16)
    done, coded = cv2.imencode(".png", levels << 4, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return coded.tobytes()


def tasks(session: Any) -> float:
    """Seconds of the page's main thread so far."""
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return found["TaskDuration"]


def opened(page: Page, session: Any, address: str, study: str) -> dict[str, float]:
    """Milliseconds from the worklist to a painted study, as a reader opens it."""
    page.goto(f"{address}#/")
    page.locator(f"#rows li[data-id='{study}'] a").wait_for()
    page.wait_for_timeout(1500)
    timings: list[dict[str, float]] = []

    def fetched(request: Any) -> None:
        if f"{study}/pixels" in request.url:
            timings.append(request.timing)

    page.on("requestfinished", fetched)
    before = tasks(session)
    click = page.evaluate(OPEN, study)
    thread = 1000 * (tasks(session) - before)
    page.remove_listener("requestfinished", fetched)
    ends = {name: max([0.0, *(one[name] for one in timings)]) for name in ("responseEnd", "responseStart")}
    return {"click": click, "pixels": ends["responseEnd"], "first": ends["responseStart"], "thread": thread}


def dragged(page: Page, session: Any, moves: int = 90) -> tuple[list[float], float]:
    """Milliseconds between frames of one drag, and milliseconds of the main thread for each frame."""
    box = page.locator("#image-a").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(RECORD)
    before = tasks(session)
    for step in range(moves):
        page.mouse.move(x + 2 * step - moves, y + step % 40)
    spent = tasks(session) - before
    frames = page.evaluate(STOP)
    page.mouse.up()
    return list(np.diff(frames)), 1000 * spent / max(1, len(frames))


def measured(address: str, studies: list[str], drags: int) -> dict[str, list[float]]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.add_init_script("localStorage.setItem('chestmap.reviewer', 'Ana')")
        page.goto(address)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.locator("body[data-ready]").wait_for()
        found: dict[str, list[float]] = {name: [] for name in ROWS.values()}
        for study in studies:
            for name, value in opened(page, session, address, study).items():
                found[ROWS[name]].append(value)
        for _ in range(drags):
            frames, own = dragged(page, session)
            found[ROWS["frame"]] += frames
            found[ROWS["drawing"]].append(own)
        browser.close()
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="starter")
    asked.add_argument("--side", type=int, default=3000)
    asked.add_argument("--studies", type=int, default=6)
    asked.add_argument("--drags", type=int, default=5)
    wanted = asked.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(readers=1)
        service = open_service([known_model(wanted.model) or Path(wanted.model)], Path(folder) / "store", settings)
        server = server_of(create_app(service, Access()), ListenAddress("127.0.0.1", 0), settings)
        thread = Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        studies = []
        for seed in range(wanted.studies):
            files = [("files", (f"{seed}.png", io.BytesIO(film(seed, wanted.side)), "image/png"))]
            answer = httpx.post(f"{address}v1/predict", files=files, headers={"X-Chestmap": "1"}, timeout=300)
            studies.append(answer.json()["studies"][0]["id"])
        found = measured(address, studies, wanted.drags)
        server.should_exit = True
        thread.join(30)
    print("| ms | median | p95 | least | number |\n|---|---:|---:|---:|---:|")
    for name, values in found.items():
        worst = float(np.percentile(values, 95))
        print(f"| {name} | {statistics.median(values):.1f} | {worst:.1f} | {min(values):.1f} | {len(values)} |")


if __name__ == "__main__":
    main()
