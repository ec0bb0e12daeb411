"""What once ended in something else than a line, as (parser, content): each is asked again in every gate."""

import json

TASK = {"data": {"image": "a.png"}, "annotations": [{"result": []}]}
VALUE = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["Mass"]}
REGION = {"type": "rectanglelabels", "original_width": 9, "original_height": 9, "value": VALUE}
HEADER = {
    "format": 1, "complete": True, "findings": ["Mass"], "canvas": [32, 32], "model": {}, "own_rule": {"threshold": 0.5},
    "data": "", "part_size": 16,
}  # fmt: skip
PACK = {"form": 1, "complete": True, "source": "nih", "settings": {"width": 8, "height": 8, "fit": "letterbox"}}
SPLIT = {"name": "x", "seed": 1, "source": "nih", "shares_patients": False, "fingerprint": "0"}


def studio(result: object) -> bytes:
    return json.dumps([TASK | {"annotations": [{"result": result}]}]).encode()


def header(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in (HEADER | changes).items() if value is not None}).encode()


CORPUS: list[tuple[str, bytes]] = [
    ("labels", b'image,Mass,width,height\na.png,1,"1,024",5\n'),
    ("labels", b"image,Mass,width\na.png,1,n/a\n"),
    ("labels", b"image\na.png\na.png\n"),
    ("toml", b"x = " + b"[" * 3000 + b"]" * 3000),
    ("toml", b".".join([b"a"] * 3000) + b" = 1"),
    ("toml", b"x = " + b"9" * 5000),
    ("override", b"a=" + b"[" * 3000),
    ("override", b".".join([b"a"] * 3000) + b"=1"),
    ("coco", b'{"images": [{"id": 1, "file_name": "\\ud800"}], "annotations": [], "categories": []}'),
    (
        "coco",
        json.dumps({"images": [{"id": "a" * 3000, "file_name": "a"}] * 2, "annotations": [], "categories": []}).encode(),
    ),
    ("annotations", studio(5)),
    ("annotations", studio([REGION | {"original_width": 10**400}])),
    ("annotations", studio([REGION | {"value": VALUE | {"rectanglelabels": 5}}])),
    ("annotations", b'<annotations><version>1.1</version><image name="a" width="nan" height="1"></image></annotations>'),
    ("header", header(findings=None)),
    ("header", header(findings="Mass")),
    ("header", header(own_rule=5)),
    ("header", header(canvas=[32])),
    ("header", header(findings=["a" * 3000, "a" * 3000])),
    ("header", b'{"format": 1'),
    ("header", header(**{"complete" + "[" * 3000: True})),
    ("list", b"path\nhttp://[\n"),
    ("list", b"path\nzip://a.png::/x\n"),
    ("list", b"path\n://\n"),
    ("guard", b"POST / HTTP/1.1\r\nhost: localhost\r\nx-chestmap: 1\r\norigin: http://[\r\n\r\n"),
    ("guard", b"GET / HTTP/1.1\r\nhost: [\r\n\r\n"),
    ("split", b'{"name":' + b"[" * 2000),
    ("split", b'{"name": "x", "seed": "one", "source": "y", "shares_patients": false}'),
    ("pack", b'{"form":' + b"[" * 2000),
    ("pack", json.dumps(PACK | {"form": "a" * 3000}).encode()),
    ("split", json.dumps(SPLIT | {"name": "a" * 3000}).encode()),
    ("cookie", b'chestmap_session="\xff; a=\\'),
]
