"""Writes the README.md of an export folder.

The card holds a program of fewer than twenty lines that runs the export without chestmap. A test runs this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREPARE = {
    "letterbox": """\
scale = min(width / image.shape[1], height / image.shape[0])  # keeps the aspect; the rest is black
w, h = round(image.shape[1] * scale), round(image.shape[0] * scale)""",
    "squash": """\
w, h = width, height  # fills the canvas""",
}
LOAD = {
    "onnx": """\
session = onnxruntime.InferenceSession("network.onnx")""",
    "openvino": """\
compiled = openvino.Core().compile_model("network.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})""",
    "pt2": """\
network = torch.export.load("network.pt2").module()""",
}
CALL = {
    "onnx": """\
scores, maps = session.run(["scores", "maps"], {"pixels": pixels})""",
    "openvino": """\
found = compiled({"pixels": pixels})
scores, maps = found["scores"], found["maps"]""",
    "pt2": """\
scores, maps = (value.detach().numpy() for value in network(torch.from_numpy(pixels)))""",
}
NEEDS = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch"}


def program(name: str, fit: str) -> str:
    """Prints each finding's score for one 8-bit picture."""
    return f"""\
import json, sys
import cv2, numpy as np, {NEEDS[name]}
about = json.load(open("export.json", encoding="utf-8"))
{LOAD[name]}
width, height = about["canvas"]["width"], about["canvas"]["height"]
image = cv2.imread(sys.argv[1], cv2.IMREAD_GRAYSCALE).astype(np.float32)
{PREPARE[fit]}
left, top, shrinks = (width - w) // 2, (height - h) // 2, w <= image.shape[1] and h <= image.shape[0]
pixels = np.zeros((1, 1, height, width), np.uint8)
small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
pixels[0, 0, top : top + h, left : left + w] = np.rint(small)
{CALL[name]}
for finding, score in zip(about["findings"], scores[0]):
    print(f"{{finding}}\\t{{score:.6f}}")
"""


def first_of(about: Mapping[str, Any]) -> str:
    """The format that the program reads, where there are several."""
    return next(iter(about["scores_differ_from_torch"]))


def card(about: Mapping[str, Any]) -> str:
    """From the contents of export.json."""
    first = first_of(about)
    canvas, rule = about["canvas"], about["own_rule"]
    scaled = "scaled to 0 … 1 by its least and greatest value" if rule["normalize"] else "as it is"
    maps, scores = about["outputs"]["maps"]["shape"], about["outputs"]["scores"]
    return f"""# {about["title"]}, exported: {len(about["findings"])} chest X-ray findings and where they are

**Research use only. Not a medical device; not for diagnosis or treatment.**

- From the model with weights {about["model_sha256"]}: {about["paper"]} (`{about["method"]}` of chestmap {about["chestmap"]})
- Findings, in the order of the outputs: {", ".join(about["findings"])}
- Input `pixels`: uint8 [batch, 1, {canvas["height"]}, {canvas["width"]}], gray in 0 … 255, white is dense (MONOCHROME1 inverted,
  look-up tables and window applied, as a viewer shows it); batches of 1 … {about["input"]["most"]}. Nothing is to be subtracted or divided.
- Onto the canvas: {_fit(canvas)}; averaged over areas where it shrinks, bilinear where it grows
- Output `scores`: float32 [batch, {scores["shape"][1]}], probabilities, {"" if scores["calibrated"] else "not "}calibrated
- Output `maps`: float32 [batch, {maps[1]}, {maps[2]}, {maps[3]}], raw and non-negative; cell i covers its share of the canvas, [i, i + 1)
- From map to mask by the method's own rule: the map, enlarged bilinearly and {scaled}, at least {rule["threshold"]:.4g}; a map without
  any range marks nothing. Own thresholds of findings, if any, are `thresholds` in export.json, of the scaled map.
- Scores differ from torch's by at most {max(about["scores_differ_from_torch"].values()):.1g} in fp32, on the three images tried when this was
  written. OpenVINO computes in bf16 on processors that know it unless told otherwise; the program tells it.

## Use

`pip install numpy opencv-python-headless {NEEDS[first]}`; torch is {"" if first == "pt2" else "not "}needed. In this folder, `python program.py film.png` runs:

```python
{program(first, canvas["fit"])}```
"""


def _fit(canvas: Mapping[str, Any]) -> str:
    if canvas["fit"] == "squash":
        return "stretched to fill it"
    return "as large as it fits with its aspect kept, sizes rounded to whole pixels, centered (odd rests right and below), black around"
