"""The service's interface without the service: phantom studies, made-up scores, no network, no torch.

It starts in a second and can be told to fail, which the real one cannot.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np

import chestmap
from chestmap.phantom import Case, draw
from chestmap.vocabulary import CHESTXRAY14

PAGE = Path(chestmap.__file__).parent / "serving" / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CSP = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
MODELS = ("ham-1a2b3c4d5e6f", "cam-0f9e8d7c6b5a")
FINDINGS = list(CHESTXRAY14.names)
CASES = (("Effusion", "Nodule"), ("Cardiomegaly",), ("Mass", "Pneumothorax", "Effusion"))


class FakeService:
    """`fail` is a status that every PUT gets, `lost` drops the answer of the next one after it was carried out.

    `counted` is the largest total that the worklist tells; pixels wait while `gate` is not set.
    """

    def __init__(self, side: int = 512, studies: int = 3) -> None:
        self.fail, self.lost, self.requests, self.counted = 0, False, [], 5_000
        self.gate = threading.Event()
        self.gate.set()
        drawings = [
            draw(
                Case(seed=7, patient=i, follow_up=0, sex="FM"[i % 2], age=61, view="AP" if i == 1 else "PA", findings=case),
                side,
            )
            for i, case in enumerate(CASES)
        ]
        self.studies = {f"s-{i:04d}": _study(i, drawings[i % 3], studies) for i in range(studies)}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Requests,), {"service": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _study(number: int, drawing: Any, studies: int) -> dict[str, Any]:
    grey = drawing.pixels[:, : drawing.pixels.shape[1] * 7 // 8]  # not square, so that a swapped axis shows
    height, width = grey.shape
    noise = np.random.default_rng(number).integers(0, 16, grey.shape, dtype=np.uint16)
    pixels = (grey.astype(np.uint16) * 16 + noise).astype("<u2")
    results, maps = zip(*(_result(model, drawing, number, (width, height)) for model in MODELS), strict=True)
    best = max(found["score"] for found in results[0]["findings"])
    name = "<img src=x onerror=alert(1)> & a long accession label" if number == 2 else f"phantom {number:03d}"
    top = sorted(results[0]["findings"], key=lambda found: -found["score"])[:3]
    return {
        "id": f"s-{number:04d}", "received": f"2031-03-{28 - number % 28:02d}T09:{number % 60:02d}:00Z", "name": name, "patient": f"p-{number // 2:04d}",
        "view": "AP" if number % 3 == 1 else "PA", "state": "done", "error": None, "suspicion": best,
        "top": [{"finding": found["name"], "score": found["score"], "over": found["over"]} for found in top],
        "image": {
            "width": width, "height": height, "bits": 12, "low": 0, "high": 4095, "window": {"center": 2048, "width": 3600}, "source": "dicom",
            "spacing": [360 / height, 360 / height],
        },
        "results": list(results), "versions": [_review(0, "no", "", {})],
        "prior": f"s-{number + 1:04d}" if number % 2 == 0 and number + 1 < studies else None,
        "priors": [f"s-{number + 1:04d}"] if number % 2 == 0 and number + 1 < studies else [],
        "pixels": pixels.tobytes(), "maps": dict(zip(MODELS, maps, strict=True)), "thumbnail": _png(grey),
    }  # fmt: skip


def _result(model: str, drawing: Any, number: int, size: tuple[int, int]) -> tuple[dict[str, Any], bytes]:
    """The first model letterboxes the image to 32 cells, the second stretches it to 16; boxes are the true ones, roughly."""
    width, height = size
    drawn = [
        (box.finding, *(float(side) * height / 1024 for side in (box.x0, box.y0, box.x1, box.y1))) for box in drawing.boxes
    ]
    drawn = [(name, x0, y0, min(x1, width), y1) for name, x0, y0, x1, y1 in drawn if x0 < width - 4]
    cells, random = (32, np.random.default_rng(number)) if model == MODELS[0] else (16, np.random.default_rng(number + 99))
    scale = cells / max(width, height)
    matrix = [scale, 0, (cells - width * scale) / 2, 0, scale, (cells - height * scale) / 2]
    if model == MODELS[1]:
        matrix = [cells / width, 0, 0, 0, cells / height, 0]
    inverse = cv2.invertAffineTransform(np.array(matrix).reshape(2, 3))
    maps, found = [], []
    for name in FINDINGS:
        true = [corners for known, *corners in drawn if known == name]
        score = round(float(random.uniform(0.6, 0.95) if true else random.uniform(0.02, 0.45)), 3)
        shift = 0 if model == MODELS[0] else width / 40
        boxes = [
            {"x0": x0 + shift, "y0": y0, "x1": min(x1 + shift, width), "y1": y1, "score": score} for x0, y0, x1, y1 in true
        ]
        found.append({"name": name, "score": score, "threshold": 0.5, "over": score >= 0.5, "boxes": boxes})
        y, x = np.mgrid[0:cells, 0:cells] + 0.5
        px, py = inverse[0, 0] * x + inverse[0, 2], inverse[1, 1] * y + inverse[1, 2]
        grown = np.zeros((cells, cells))
        for x0, y0, x1, y1 in true or [drawn[0][1:]]:
            across, down = (px - (x0 + x1) / 2) / (x1 - x0), (py - (y0 + y1) / 2) / (y1 - y0)
            grown = np.maximum(grown, np.exp(-(across**2 + down**2) * 3))
        maps.append(np.round(255 * grown / grown.max()).astype(np.uint8))
    info = {"width": cells, "height": cells, "order": FINDINGS, "matrix": matrix}
    return {"model": model, "findings": found, "maps": info}, np.stack(maps).tobytes()


def _review(
    version: int, state: str, by: str, findings: dict[str, Any], note: str = "", stage: str = "open", **more: Any
) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "version": version,
        "state": state,
        "by": by,
        "at": at,
        "findings": findings,
        "note": note,
        "stage": stage,
        **more,
    }


def _halved(study: dict[str, Any], stage: str) -> bytes:
    """As often as leaves a pixel for each of the screen's, as the service does."""
    levels = np.frombuffer(study["pixels"], "<u2").reshape(study["image"]["height"], study["image"]["width"])
    wide, high = (int(side) for side in stage.split("x")) if stage else levels.shape[::-1]
    while min(wide / levels.shape[1], high / levels.shape[0]) <= 0.5 and not any(side % 2 for side in levels.shape):
        four = levels.astype(np.uint32)
        levels = ((four[::2, ::2] + four[1::2, ::2] + four[::2, 1::2] + four[1::2, 1::2] + 2) >> 2).astype("<u2")
    return levels.tobytes()


def _png(grey: np.ndarray) -> bytes:
    times = 256 / max(grey.shape)
    return cv2.imencode(".png", cv2.resize(grey, None, fx=times, fy=times, interpolation=cv2.INTER_AREA))[1].tobytes()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: FakeService

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def answer(self, body: Any, kind: str = "application/json", status: int = 200) -> None:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.service.requests.append(f"GET {self.path}")
        if path == "/" or path.startswith("/page/"):
            file = PAGE / ("index.html" if path == "/" else Path(path).name)
            self.answer(file.read_bytes(), TYPES[file.suffix]) if file.is_file() else self.answer(
                {"error": "no"}, status=404
            )
        elif path == "/v1/models":
            titles = {"ham": "HAM", "cam": "CAM"}
            self.answer({"models": [
                {"id": one, "method": one[:3], "title": titles[one[:3]], "paper": "", "findings": FINDINGS, "canvas": [512, 512],
                 "operating_points": None, "sha256": one[4:] * 5} for one in MODELS]})  # fmt: skip
        elif path == "/v1/studies":
            self.list(query)
        else:
            self.one(path.split("/")[3:], query)

    def list(self, query: dict[str, str]) -> None:
        rows = [_row(study) for study in self.service.studies.values()]
        wanted = query.get("reviewed")
        rows = [row for row in rows if not wanted or row["review"]["state"] == wanted]
        rows = [row for row in rows if query.get("search", "").lower() in f"{row['name']} {row['patient']}".lower()]
        rows = [
            row for row in rows if not query.get("finding") or query["finding"] in [top["finding"] for top in row["top"]]
        ]
        rows = [row for row in rows if not query.get("state") or query["state"] == row["state"]]
        rows.sort(key=lambda row: -row["suspicion"])
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 50))
        total = min(len(rows), self.service.counted)
        self.answer({"total": total, "exact": total == len(rows), "studies": rows[offset : offset + limit]})

    def one(self, parts: list[str], query: dict[str, str]) -> None:
        study = self.service.studies.get(parts[0]) if parts else None
        if study is None:
            self.answer({"error": "no such study"}, status=404)
        elif len(parts) == 1 or parts[1] == "blind":
            whole = {key: study[key] for key in ("image", "results", "prior", "priors", "readers", "reads") if key in study}
            hidden = self.path.endswith(("/blind", "?blind=1")) and not any(
                one["stage"] == "open" for one in study["versions"][1:]
            )
            whole |= {"review": study["versions"][-1], "withheld": hidden, "findings": FINDINGS}
            self.answer(_row(study) | whole | ({"results": [], "suspicion": None, "top": []} if hidden else {}))
        elif parts[1] == "history":
            self.answer({"versions": study["versions"]})
        elif parts[1] == "maps":
            self.answer(study["maps"][parts[2]], "application/octet-stream")
        elif parts[1] not in study:
            self.answer({"error": f"no {parts[1]}"}, status=404)
        elif parts[1] == "pixels":
            self.service.gate.wait(120)
            self.answer(_halved(study, query.get("stage", "")), "application/octet-stream")
        else:
            self.answer(study[parts[1]], "image/png" if parts[1] == "thumbnail" else "application/octet-stream")

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        study, service = self.service.studies[self.path.split("/")[3]], self.service
        service.requests.append(f"PUT {self.path}")
        if service.fail or self.headers.get("X-Chestmap") != "1":
            self.answer({"error": "told to fail"}, status=service.fail or 403)
            return
        if self.path.endswith("/blind"):
            self.one(self.path.split("/")[3:], {})
            return
        current = study["versions"][-1]
        if body["base"] != current["version"]:
            self.answer({"error": "another version was saved", "current": current}, status=409)
            return
        new = _review(
            current["version"] + 1,
            body["state"],
            unquote(self.headers["X-Reviewer"]),
            body["findings"],
            body["note"],
            body.get("stage", "open"),
            measures=body.get("measures", []),
            key=body.get("key", False),
        )
        study["versions"].append(new)
        if service.lost:
            service.lost = False
            self.close_connection = True
            self.connection.close()
            return
        self.answer(new)


def _row(study: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "received", "name", "patient", "view", "state", "error", "suspicion", "top")
    review = study["versions"][-1]
    names += tuple(name for name in ("accession", "indication", "position") if name in study)
    return copy.deepcopy({name: study[name] for name in names}) | {
        "review": {name: review[name] for name in ("version", "state", "by", "at")}
    }
