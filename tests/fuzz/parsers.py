"""Each parser of what comes from outside: good contents to begin with, words of its form, and how it is asked.

A parser may refuse with a `ChestmapError`, and the guard with its `Stop`. Anything else that it raises is a finding.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chestmap.annotations.interchange import read_annotations
from chestmap.datasets.csv_table import read_csv
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.split import Split, read_split
from chestmap.datasets.text_files import read_list
from chestmap.errors import BadInput, ChestmapError
from chestmap.imaging.read import radiograph_of
from chestmap.packs.pack import open_pack
from chestmap.prediction.decoding import content
from chestmap.prediction.inputs import Inputs
from chestmap.predictions.folder import read_header
from chestmap.serving.engine.prometheus import Metrics
from chestmap.serving.engine.settings import Bounds
from chestmap.serving.http.access import Access, Person, read_tokens
from chestmap.serving.http.guard import Guard, Stop
from chestmap.settings import read_toml, with_overrides
from fuzz.corpus import HEADER, PACK, REGION, SPLIT, TASK, header, studio
from fuzz.mutations import Damage, chunks, tree
from imaging.dicom_samples import LOSSLESS, LOSSY, as_bytes, chest, compressed, radiograph
from imaging.picture_samples import grey_png, saved

Ask = Callable[[bytes, Path], object]
REFUSALS = (ChestmapError, Stop)


@dataclass(frozen=True)
class Parser:
    """`words` are what mutations insert: marks of the form, and numbers that were trouble elsewhere.

    Half of the contents are damaged `below` the form, where there is a way to. `each` is how many a round asks: dear ones fewer.
    """

    good: Sequence[bytes]
    words: Sequence[bytes]
    ask: Ask
    below: Damage | None = None
    each: int = 10


NUMBERS = (b"-1", b"0", b"1e999", b"nan", b"9" * 400, b"\xff", b"\0", b"\\ud800", "\N{ROCKET}".encode())
CSV = (*NUMBERS, b",", b";", b"\t", b"\n", b'"', b"|", b"\r", b"=1+1")
JSON = (*NUMBERS, b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"[" * 2000, b'{"a":' * 2000)
XML = (*NUMBERS, b"<", b">", b"&", b"<!DOCTYPE a>", b"<a>" * 500, b'"', b"/>", b"</annotations>")
TOML = (*NUMBERS, b"[", b"]", b"{", b"}", b"=", b".", b"\n", b'"""', b"a." * 500)
BYTES = (b"\0", b"\xff", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xd9", b"IDAT", b"\x08\0\x05\0")


def _written(name: str, read: Callable[[Path], object]) -> Ask:
    def ask(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return ask


def _folder(data: bytes, folder: Path, **names: str) -> object:
    """The folder source over a table of labels and a file of boxes, of which one is the content."""
    (folder / "labels.csv").write_text("image,Mass\na.png,1\n")
    next(folder / name for name in names.values() if name != "labels.csv" or len(names) == 1).write_bytes(data)
    return read_folder(FolderSettings(root=folder, **names)).fingerprint


def _list(data: bytes, folder: Path) -> None:
    """Each row is also opened: what cannot be, is one `BadImage` and no more."""
    (folder / "list.csv").write_bytes(data)
    for source in Inputs([str(folder / "list.csv")]):
        if "://" not in source.path or source.path.startswith(("zip://", "file://")):
            try:
                content(source)
            except BadInput:
                continue


def _zip(data: bytes, folder: Path) -> None:
    (folder / "films.zip").write_bytes(data)
    for source in Inputs([str(folder / "films.zip")]):
        try:
            radiograph_of(content(source), source.name)
        except BadInput:
            continue


def _guard(data: bytes, _: Path) -> None:
    """The checks of a request, from its raw head."""
    first, _, rest = data.partition(b"\r\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.split(b" ")[0].partition(b"?")
    pairs = [line.partition(b":") for line in rest.split(b"\r\n") if b":" in line]
    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": path.decode("latin-1"), "raw_path": path,
        "query_string": query, "scheme": "http", "client": ("10.0.0.1", 1), "state": {},
        "headers": [(name.strip().lower(), value.strip()) for name, _, value in pairs],
    }  # fmt: skip
    GUARD._check(scope)


def _split(data: bytes, folder: Path) -> None:
    if not (folder / "test.txt").exists():
        PARTS.write(folder)
    (folder / "split.json").write_bytes(data)
    read_split(folder)


def _tokens(path: Path) -> object:
    path.chmod(0o600)
    return read_tokens(path)


TOKEN = "0123456789abcdef"
ACCESS = Access({b"0" * 32: Person("Ann")}, proxy_header="X-Remote-User")


async def _nothing(*_: object) -> None:
    """No application: the guard's checks alone are asked."""


GUARD = Guard(_nothing, ACCESS, Bounds(), Metrics(), ["films.example"])
HEAD = (
    b"POST /v1/session?x=1 HTTP/1.1\r\nhost: localhost:80\r\nx-chestmap: 1\r\norigin: http://localhost:80\r\n"
    b"content-length: 5\r\nauthorization: Bearer 0123456789abcdef\r\ncookie: chestmap_session=abc; b=c\r\n\r\n"
)
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "Mass"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
CVAT = (
    b'<annotations><version>1.1</version><image id="0" name="a.png" width="9" height="9"><box label="Mass" source="manual" '
    b'xtl="1" ytl="2" xbr="3" ybr="4"></box><tag label="Edema"><attribute name="present">false</attribute></tag></image></annotations>'
)
PARTS = Split(name="x", parts={"train": ("a", "b"), "test": ("c",)}, seed=1, source="nih", shares_patients=False)


def _zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.png", grey_png())
    return stream.getvalue()


def parsers() -> dict[str, Parser]:
    """By name; made when they are asked for, since good images have to be drawn."""
    grey = chest(bits=8)
    dicoms = [
        as_bytes(radiograph(chest())),
        *(as_bytes(compressed(radiograph(chest()), one)) for one in (*LOSSLESS[:2], *LOSSY[:2])),
    ]
    image = lambda data, _: radiograph_of(data, "x").pixels.shape  # noqa: E731
    return {
        "labels": Parser(
            [b"image,patient_id,view,age,sex,width,height,Effusion,Mass\na.png,p1,PA,61Y,F,9,9,1,0\nb,p2,AP,,,,,,-1\n"],
            CSV, lambda data, folder: _folder(data, folder, labels="labels.csv"), each=1,
        ),
        "boxes": Parser(
            [b"image,finding,x,y,w,h\na.png,Mass,1,2,3,4\n", b"Image Name,Class,xmin,ymin,xmax,ymax\na.png,Mass,1,2,3,4\n"],
            CSV, lambda data, folder: _folder(data, folder, labels="labels.csv", boxes="boxes.csv"), each=1,
        ),
        "coco": Parser(
            [json.dumps(COCO).encode()], JSON,
            lambda data, folder: _folder(data, folder, labels="labels.csv", boxes="boxes.json"), below=tree, each=3,
        ),
        "csv": Parser([b"a,b\n1,2\n"], CSV, _written("t.csv", lambda path: read_csv(path, {"a": ("a",)}, rest=True).rows), each=2),
        "names": Parser([b"a.png\nb.png\n"], CSV, _written("list.txt", read_list)),
        "annotations": Parser([json.dumps([TASK]).encode(), studio([REGION]), CVAT, json.dumps(COCO).encode()], (*JSON, *XML), _written("t", read_annotations), below=tree),
        "toml": Parser([b'[a]\nb = 1\nc = ["x", 2.5]\n[[d]]\ne = {f = true}\n'], TOML, _written("run.toml", read_toml)),
        "override": Parser([b"a.b=1", b'a={b=["x"]}'], TOML, lambda data, _: with_overrides({"a": {}}, [data.decode("latin-1")])),
        "header": Parser([header(), json.dumps(HEADER, indent=1).encode()], JSON, _written("predictions.json", lambda path: read_header(path.parent)), below=tree),
        "pack": Parser([json.dumps(PACK).encode()], JSON, _written("pack.json", lambda path: open_pack(path.parent)), below=tree),
        "split": Parser([json.dumps(SPLIT | {"fingerprint": PARTS.fingerprint}).encode()], JSON, _split, below=tree),
        "list": Parser([b"path,image_id\na.png,1\ns3://b/c.png,2\nzip://a.png::x.zip,3\n"], (*CSV, b"://", b"::", b"http://[", b"../"), _list, each=1),
        "zip": Parser([_zipped()], (*BYTES, b"PK\x03\x04", b"PK\x01\x02", b"../"), _zip),
        "png": Parser([grey_png(), saved(chest(bits=16), "png")], BYTES, image, below=chunks),
        "jpeg": Parser([saved(grey, "jpeg"), saved(np.dstack([grey] * 3), "jpeg")], BYTES, image),
        "dicom": Parser(dicoms, BYTES, image, each=3),
        "tiff": Parser([b"II*\0" + bytes(60), saved(grey, "tiff")], BYTES, image),
        "guard": Parser([HEAD], (*NUMBERS, b"\r\n", b":", b"[", b"]", b"%", b"host: a\r\n", b"content-length: 1\r\n"), _guard),
        "cookie": Parser([b"chestmap_session=abc; b=c", b'a="b\\"c"; d'], (b";", b"=", b'"', b"\\", b"\xff", b"\0", b",", b" "), lambda data, _: ACCESS.person({"cookie": data.decode("latin-1")}, "")),
        "tokens": Parser([b"Ann 0123456789abcdef\n# x\nBob fedcba9876543210 admin\n"], (*NUMBERS, b" ", b"\n", b"#"), _written("tokens", _tokens)),
    }  # fmt: skip
