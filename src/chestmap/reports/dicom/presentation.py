"""Writes boxes as Grayscale Softcopy Presentation State, which viewers of archives draw over an image.

A viewer that supports presentation states draws the boxes over the original image; no pixel is copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from highdicom import pr
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from chestmap.imaging.dicom_header import FAILURES, Header, quiet
from chestmap.imaging.dicom_pixels import NATIVE
from chestmap.reports.dicom.finding_marks import Mark, MarkedResult, printable
from chestmap.reports.dicom.provenance import series_of
from chestmap.reports.dicom.source_header import low_is_white, syntax_of
from chestmap.reports.dicom.sr import equipment

PIXEL = pr.AnnotationUnitsValues.PIXEL
YELLOW = CIELabColor(l_star=97.1, a_star=-21.6, b_star=94.5)


def presentation(result: MarkedResult) -> Dataset:
    """A layer for each finding, so that a viewer can switch them one by one; the gray as the source asks for it."""
    layers = {finding: layer_of(place, finding) for place, finding in enumerate(result.boxed, 1)}
    return describe_state(build_state(result, layers), result)


def build_state(result: MarkedResult, layers: Mapping[str, pr.GraphicLayer]) -> Dataset:
    """Makes a Grayscale Softcopy Presentation State of all boxes; highdicom checks it."""
    return pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[result.reference],
        **series_of("gsps", "boxes", result.about, result.reference.SOPInstanceUID),
        content_label="CHESTMAP",
        content_description="AI boxes for research, not for diagnosis",
        content_creator_name="chestmap^AI",
        graphic_layers=list(layers.values()),
        graphic_annotations=[_annotation(mark, result.reference, layers[mark.finding]) for mark in result.marks],
        contributing_equipment=[equipment(result.about)],
    )


def describe_state(made: Dataset, result: MarkedResult) -> Dataset:
    """What highdicom does not know of: the gray of this source."""
    made.BodyPartExamined = "CHEST"
    # highdicom writes IDENTITY: a MONOCHROME1 image would come out as a negative
    made.PresentationLUTShape = "INVERSE" if low_is_white(result.source) else "IDENTITY"
    with quiet():
        _add_modality(made, Header(result.source, ""))
        _add_window(made, result.source)
    return made


def layer_of(place: int, finding: str) -> pr.GraphicLayer:
    """A name is a code string of 16 that starts with a letter; the number keeps two long names apart."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in finding.upper())
    words = " ".join(plain.split())
    name = f"{(words if words[:1].isalpha() else f'F {words}')[:13].strip()} {place}"[:16]
    return pr.GraphicLayer(name, order=place, description=printable(finding, 64), display_color=YELLOW)


def _annotation(mark: Mark, reference: Dataset, layer: pr.GraphicLayer) -> pr.GraphicAnnotation:
    """The label is at the box's upper left corner, inside the image."""
    box = pr.GraphicObject(
        graphic_type=pr.GraphicTypeValues.POLYLINE,
        graphic_data=mark.outline,
        units=PIXEL,
        tracking_id=printable(mark.finding, 64),
        tracking_uid=mark.uid,
    )
    corner = float(mark.box.x0), float(mark.box.y0)
    text = pr.TextObject(text_value=mark.label, units=PIXEL, anchor_point=corner, anchor_point_visible=False)
    return pr.GraphicAnnotation(
        referenced_images=[reference], graphic_layer=layer, graphic_objects=[box], text_objects=[text]
    )


def _add_modality(made: Dataset, header: Header) -> None:
    """A table before a rescale, as the reader has it."""
    if header.lut("ModalityLUTSequence") is not None:
        made.ModalityLUTSequence = [_table(header.items("ModalityLUTSequence")[0], "ModalityLUTType")]
        return
    slope, intercept = header.decimal("RescaleSlope"), header.decimal("RescaleIntercept")
    if slope is not None or intercept is not None:
        made.RescaleSlope, made.RescaleIntercept = f"{1.0 if slope is None else slope:.10g}", f"{intercept or 0.0:.10g}"
        made.RescaleType = "US"


def _table(item: Dataset, kind: str = "") -> Dataset:
    table = Dataset()
    table.add(item["LUTDescriptor"])
    table.add(item["LUTData"])
    if kind:
        setattr(table, kind, "US")
    return table


def _add_window(made: Dataset, source: Dataset) -> None:
    """Without one a presentation state shows the full range of the stored bits: 12 bits in 16 would be black."""
    header, window = Header(source, ""), Dataset()
    if header.lut("VOILUTSequence") is not None:
        window.VOILUTSequence = [_table(header.items("VOILUTSequence")[0])]
    else:
        center, width = header.decimal("WindowCenter"), header.decimal("WindowWidth")
        function = header.text("VOILUTFunction").upper() or "LINEAR"
        function = function if function in {"LINEAR", "LINEAR_EXACT", "SIGMOID"} else "LINEAR"
        if center is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
            ends = _ends(source, made)
            if ends is None:
                return
            function, center, width = "LINEAR", (ends[0] + ends[1] + 1) / 2, ends[1] - ends[0] + 1
        window.WindowCenter, window.WindowWidth = f"{center:.10g}", f"{width:.10g}"
        if function != "LINEAR":
            window.VOILUTFunction = function
    made.SoftcopyVOILUTSequence = [window]


def _ends(source: Dataset, made: Dataset) -> tuple[float, float] | None:
    """Lowest and highest value after the modality step; None where only a decoder could know."""
    header = Header(source, "")
    native = syntax_of(source) in NATIVE
    if (
        not native
        or header.whole("SamplesPerPixel") not in {None, 1}
        or "ModalityLUTSequence" in made
        or "PixelData" not in source
    ):
        return None
    try:
        stored, padding = source.pixel_array, header.whole("PixelPaddingValue")
    except FAILURES:
        return None
    kept = stored[stored != padding] if padding is not None else stored
    if not kept.size:
        return None
    slope, intercept = float(made.get("RescaleSlope", 1)), float(made.get("RescaleIntercept", 0))
    ends = sorted(slope * float(value) + intercept for value in (np.min(kept), np.max(kept)))
    return ends[0], ends[1]
