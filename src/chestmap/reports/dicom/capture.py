"""Draws boxes and maps as a Secondary Capture, the one result that every viewer shows.

Made for viewers that show no presentation states. It repeats the pixels, so it is the only result that cannot be switched
off over the image.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from highdicom import sc
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from chestmap.reports.dicom.finding_marks import Mark, MarkedResult, printable
from chestmap.reports.dicom.provenance import PRODUCT, series_of
from chestmap.reports.dicom.source_header import pixels_of
from chestmap.reports.dicom.sr import NOT_FOR_DIAGNOSIS, equipment
from chestmap.reports.map_layers import OWN_COLOR, colored, grey_picture, picture_size, scaled

LONGEST, GAP, FOOT = 1024, 16, 76
GROUND, TEXT = (0, 0, 0), (232, 236, 239)


def capture(result: MarkedResult) -> Dataset:
    """Holds no more of the patient than the radiograph itself: no name, id or date is drawn."""
    return describe_capture(build_capture(result, drawn(result)), result.reference)


def build_capture(result: MarkedResult, pixels: UInt8[np.ndarray, "h w 3"]) -> Dataset:
    """Makes a Secondary Capture of drawn pixels (RGB, 8 bit) that joins the study of the image."""
    reference = result.reference
    orientation = reference.get("PatientOrientation") or ("L", "F")
    made = sc.SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=(orientation[0], orientation[1]),
        study_instance_uid=reference.StudyInstanceUID,
        patient_id=reference.PatientID,
        patient_name=reference.PatientName,
        patient_birth_date=reference.PatientBirthDate or None,
        patient_sex=reference.PatientSex or None,
        accession_number=reference.AccessionNumber,
        study_id=reference.StudyID,
        study_date=reference.StudyDate or None,
        study_time=reference.StudyTime or None,
        referring_physician_name=reference.ReferringPhysicianName,
        contributing_equipment=[equipment(result.about)],
        **series_of("sc", "picture", result.about, reference.SOPInstanceUID),
    )
    made.copy_patient_and_study_information(reference)
    return made


def describe_capture(made: Dataset, reference: Dataset) -> Dataset:
    """Adds what highdicom leaves out: type, body part, time, and whether names are burned in."""
    made.ImageType, made.ConversionType, made.BodyPartExamined = ["DERIVED", "SECONDARY"], "WSD", "CHEST"
    now = datetime.now().astimezone()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    if not reference.get("PatientOrientation"):
        made.PatientOrientation = None
    if "BurnedInAnnotation" in reference:
        made.BurnedInAnnotation = reference.BurnedInAnnotation
    return made


def drawn(result: MarkedResult) -> UInt8[np.ndarray, "h w 3"]:
    """The image with all boxes; and next to it the map of the finding with the highest score, where one is shown."""
    pixels = pixels_of(result.source)  # square, whatever the stored ones are
    size = picture_size((float(pixels.shape[1]), float(pixels.shape[0])), LONGEST)
    grey = Image.fromarray(grey_picture(pixels, size)).convert("RGB")
    panels = [_with_boxes(grey.copy(), result, result.marks)]
    if result.marks and (values := result.map_of(result.marks[0].finding, size)) is not None:
        heat = grey.convert("RGBA")
        heat.alpha_composite(Image.fromarray(colored(values)))
        top = [mark for mark in result.marks if mark.finding == result.marks[0].finding]
        panels.append(_with_boxes(heat.convert("RGB"), result, top))
    sheet = Image.new("RGB", (len(panels) * (size[0] + GAP) - GAP, size[1] + FOOT), GROUND)
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place * (size[0] + GAP), 0))
    _write_foot(ImageDraw.Draw(sheet), result, sheet.width, size[1])
    return np.asarray(sheet).copy()


def _with_boxes(panel: Image.Image, result: MarkedResult, marks: tuple[Mark, ...] | list[Mark]) -> Image.Image:
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(18)
    image = float(result.size[0]), float(result.size[1])
    boxes = scaled([mark.box for mark in marks], image, panel.size)
    for box in boxes:
        draw.rectangle(
            (box.x0, box.y0, max(box.x1 - 1, box.x0 + 1), max(box.y1 - 1, box.y0 + 1)), outline=OWN_COLOR, width=3
        )
    taken: list[tuple[float, float, float, float]] = []
    for mark, box in zip(marks, boxes, strict=True):
        width = draw.textlength(mark.label, font)
        place = _free(taken, (min(box.x0, panel.width - width - 8), max(box.y0 - 26, 0), width + 8), panel.height)
        draw.rectangle(place, fill=GROUND)
        draw.text((place[0] + 4, place[1] + 2), mark.label, OWN_COLOR, font)
        taken.append(place)
    return panel


def _free(
    taken: list[tuple[float, float, float, float]], wished: tuple[float, float, float], height: int
) -> tuple[float, float, float, float]:
    """Moves a label (x, y, width) down until it covers no other; the last place is used where there is none."""
    x, y, width = max(wished[0], 0.0), wished[1], wished[2]
    while y + 26 < height and any(x < x1 and x0 < x + width and y < y1 and y0 < y + 24 for x0, y0, x1, y1 in taken):
        y += 8
    return x, y, x + width, y + 24


def _write_foot(draw: ImageDraw.ImageDraw, result: MarkedResult, width: int, top: int) -> None:
    about, font = result.about, ImageFont.load_default(16)
    lines = [
        f"{NOT_FOR_DIAGNOSIS} {PRODUCT} {about.version}, model {printable(about.name, 32)} {about.sha256[:8]}",
        f"Boxes: where the model looked; numbers: its scores. {about.scale([mark.finding for mark in result.marks])}",
        f"{len(result.prediction.findings)} findings looked for. {_caption(result)}",
    ]
    for place, line in enumerate(lines):
        while draw.textlength(line, font) > width - 16 and len(line) > 8:
            line = line[:-2].rstrip("…") + "…"
        draw.text((8, top + 6 + 22 * place), line, TEXT, font)


def _caption(result: MarkedResult) -> str:
    said = [f"Right: map of {printable(result.marks[0].finding, 32)}."] if result.marks else []
    if result.unboxed:
        said.append(f"Reached without a place: {', '.join(printable(name, 32) for name in result.unboxed)}.")
    if not said:
        said.append("None reached its threshold; this rules nothing out.")
    return " ".join(said)
