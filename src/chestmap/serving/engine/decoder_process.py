"""Decodes what clients send, in a process that may die of it and that imports no torch. Pictures go through files.

Pixels go through files in a folder of the image, since pipes would copy them. A process that dies costs one image.
"""

from __future__ import annotations

import errno
import hmac
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from chestmap.errors import BadInput
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.limits import Limits
from chestmap.imaging.pixel_depth import Depth
from chestmap.imaging.png import SIGNATURE
from chestmap.imaging.read import ReadSettings, content_of
from chestmap.imaging.read_with_levels import is_dicom, read_deep
from chestmap.prediction.pseudonym import Pseudonyms, words_of_patient
from chestmap.serving.engine.exam_details import OF_ORDER, OF_POSITION, order_of, position_of
from chestmap.serving.store.store_files import instance_of
from chestmap.serving.store.stored_prediction import prediction_of, stored_maps
from chestmap.types import Box, Radiograph

if TYPE_CHECKING:
    from chestmap.imaging.dicom_header import Header

MEMORY = 4 << 30
LARGEST_FILE = 512 << 20
THUMBNAIL = 256
FILES = {"pixels": "pixels.u16", "thumbnail": "thumbnail.png"}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
"""No fault of an image; decoders raise errors without a number."""
OF_CONTENT = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex")
OF_PATIENT = (
    *OF_CONTENT,
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "PatientAge",
    "SOPInstanceUID",
    *OF_ORDER,
    *OF_POSITION,
)


def read(request: dict[str, Any]) -> dict[str, Any]:
    """Decodes `path`, writes pixels.u16, thumbnail.png and a canvas for each of `canvases` into `out`.

    Where `canvases_only`, nothing but those: after a restart.
    """
    data = content_of(Path(request["path"]), Limits(file_bytes=request["file_bytes"]))
    settings = ReadSettings(limits=Limits(file_bytes=request["file_bytes"]))
    radiograph, depth = read_deep(data, settings)
    out = Path(request["out"])
    frames = {}
    for name, canvas in request["canvases"].items():
        pixels, frame = on_canvas(radiograph, CanvasSettings(**canvas))
        (out / name).write_bytes(pixels.tobytes())  # `tofile` does not say why it failed
        frames[name] = frame.as_list()
    if request["canvases_only"]:
        return {"frames": frames}
    contents = {"pixels": depth.levels.astype("<u2").tobytes(), "thumbnail": _thumbnail(radiograph)}
    for kind, content in contents.items():
        (out / FILES[kind]).write_bytes(content)
    low, high = (0, 255) if depth.bits == 8 else depth.ends
    height, width = depth.levels.shape
    image = {
        "width": width, "height": height, "bits": depth.bits, "low": low, "high": high,
        "window": {"center": depth.center, "width": depth.width},
        "values": {"zero": depth.zero, "step": depth.step, "linear": depth.linear},
        "source": "dicom" if is_dicom(data) else "png" if data.startswith(SIGNATURE) else "jpeg",
        "spacing": list(radiograph.spacing_mm) if radiograph.spacing_mm else None,
    }  # fmt: skip
    made = {kind: [FILES[kind], sha256(content).hexdigest(), len(content)] for kind, content in contents.items()}
    return {
        "frames": frames, "image": image, "view": radiograph.view, "files": made, **_patient(data, radiograph, depth, request),
    }  # fmt: skip


def _patient(data: bytes, radiograph: Radiograph, depth: Depth, request: dict[str, Any]) -> dict[str, Any]:
    """The pseudonym, and a label for people that reveals nothing of the patient unless configured."""
    pseudonyms = Pseudonyms(bytes.fromhex(request["key"]))
    patient = radiograph.patient_id or request["patient"]
    known: dict[str, Any] = {
        "patient": "p-" + pseudonyms.patient(patient).removeprefix("patient-") if patient else "",
        "label": pseudonyms.name(request["name"], words_of_patient(data)),
        "shown": None, "taken": "", "instance": "", "content": "", "exam": "", "sex": "", "age": "",
        "accession": "", "indication": "", "position": "",
    }  # fmt: skip
    if not is_dicom(data):
        return known
    from chestmap.imaging.dicom_header import quiet, read_header

    with quiet():
        header = read_header(data, Limits(file_bytes=request["file_bytes"]), OF_PATIENT)
        date, key = header.text("AcquisitionDate") or header.text("StudyDate"), bytes.fromhex(request["key"])
        time_of_day = header.text("AcquisitionTime") or header.text("StudyTime")
        instance, exam = header.text("SOPInstanceUID"), header.text("StudyInstanceUID")
        known |= {"taken": f"{date}{time_of_day}"[:32], "content": _content(header, depth, key), "age": _age(header, date)}
        known["instance"] = instance_of(key, instance) if instance else ""
        known["exam"] = instance_of(key, f"study {exam}") if exam else ""
        known["sex"] = sex if (sex := header.text("PatientSex")) in {"M", "F", "O"} else ""
        known["position"] = position_of(header)
        if request["show_patient"]:
            known |= order_of(header)
            words = [header.text("PatientName").replace("^", " ").strip(), radiograph.patient_id]
            known["shown"] = " · ".join(word for word in words if word)[:128] or None
    return known


def _age(header: Header, date: str) -> str:
    """As DICOM writes it, such as 062Y: from the header, or from the dates of birth and of the image."""
    if re.fullmatch(r"\d{3}[DWMY]", said := header.text("PatientAge")):
        return said
    born = header.text("PatientBirthDate")
    if not (re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", date)) or date < born:
        return ""
    return f"{min(999, (int(date) - int(born)) // 10000):03d}Y"


def _content(header: Header, depth: Depth, key: bytes) -> str:
    """Tells a corrected image from the same one in another form, such as another transfer syntax."""
    hashed = hmac.new(key, digestmod=sha256)
    for keyword in OF_CONTENT:
        hashed.update(header.text(keyword).encode() + b"\0")
    hashed.update(depth.levels.astype("<u2").tobytes())
    return hashed.hexdigest()


def _thumbnail(radiograph: Radiograph) -> bytes:
    height, width = radiograph.pixels.shape
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(radiograph.pixels, size, interpolation=cv2.INTER_AREA)
    coding = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)  # a third faster, 3 % larger
    done, coded = cv2.imencode(".png", np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8), coding)
    if not done:
        raise BadInput("picture cannot be made small")
    return coded.tobytes()


def write_results(request: dict[str, Any]) -> dict[str, Any]:
    """A stored result as DICOM objects in `out`; the answer names their files."""
    from chestmap.predictions.folder import OwnRule
    from chestmap.reports.dicom import Provenance, read_source, write_dicom
    from chestmap.reports.dicom.earlier import Earlier

    maps, about = stored_maps(Path(request["maps"])), request["about"]
    prediction = prediction_of(request["id"], request["findings"], request["grid"], maps)
    model = Provenance(**{**about, "rule": OwnRule(**about["rule"])})
    source, kinds = read_source(Path(request["path"]).read_bytes()), request.get("kinds", ("sr",))
    replaces = [Earlier(**one) for one in request.get("replaces", ())]
    return _written(write_dicom(source, prediction, model, Path(request["out"]), kinds, replaces))


def write_review(request: dict[str, Any]) -> dict[str, Any]:
    """A finished review as DICOM objects in `out`; `gone` are marks of a key image that it takes back."""
    from chestmap.reports.dicom import read_source
    from chestmap.reports.dicom.earlier import Earlier, key_notes
    from chestmap.reports.dicom.verified import ReaderReport, Verdict, verified_objects
    from chestmap.reports.dicom.write import write_objects

    about = request["review"]
    verdicts = [
        Verdict(one["finding"], one["present"], tuple(Box(one["finding"], *box) for box in one["boxes"]), one["bulk"])
        for one in about["verdicts"]
    ]
    fixed = {"size": tuple(map(float, about["size"])), "verdicts": tuple(verdicts), "measures": tuple(about["measures"])}
    report = ReaderReport(**{**about, **fixed})
    earlier, rejected = ([Earlier(**one) for one in request[name]] for name in ("earlier", "rejected"))
    source = read_source(Path(request["path"]).read_bytes())
    written = _written(write_objects(verified_objects(source, report, earlier, rejected), Path(request["out"])))
    now = {instance for instance, _, _ in written["objects"]}
    return {**written, "gone": [one.instance for one in key_notes(source, earlier) if one.instance not in now]}


def write_withdrawal(request: dict[str, Any]) -> dict[str, Any]:
    """A note that rejects objects of an image, in `out`."""
    from chestmap.reports.dicom import read_source
    from chestmap.reports.dicom.earlier import Earlier, withdrawal
    from chestmap.reports.dicom.write import write_objects

    source = read_source(Path(request["path"]).read_bytes())
    note = withdrawal(source, [Earlier(**one) for one in request["rejected"]], request["why"])
    return _written(write_objects([("kos", note)], Path(request["out"])))


def _written(paths: list[Path]) -> dict[str, Any]:
    """Files, and what names each object in an archive."""
    import pydicom

    names = ("SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID")
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(names)) for path in paths]
    return {"files": [path.name for path in paths], "objects": [[str(one[name].value) for name in names] for one in headers]}


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """The error, without the parts of a message that only we should see."""
    try:
        ways = {"grid": write_results, "review": write_review, "why": write_withdrawal}
        return next((way for key, way in ways.items() if key in request), read)(request)
    except BadInput as problem:
        return {"error": str(problem)}
    except MemoryError:
        return {"error": "decoding needs more memory than is given to it: resize the image"}
    except Exception as problem:  # decoders promise no type
        if isinstance(problem, OSError) and problem.errno in DISK:
            return {"trouble": problem.errno}
        return {"error": f"cannot be decoded ({type(problem).__name__}): export it again"}
