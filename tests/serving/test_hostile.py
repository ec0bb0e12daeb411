"""What a hostile client sends gets a 4xx, and the service goes on as before."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from hashlib import sha256

import httpx
import pytest

from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import Bounds, ServeSettings
from chestmap.serving.http.access import Person
from chestmap.serving.store.store import Store
from imaging.bad_dicoms import BAD_DICOMS
from imaging.picture_samples import chunk, saved
from serving.running import running, talk
from serving.small import picture, upload

TOKEN = "0123456789abcdef"
GOOD = {"Authorization": f"Bearer {TOKEN}", "X-Chestmap": "1"}
BOUNDS = Bounds(
    file_bytes=1 << 20, request_bytes=2 << 20, json_bytes=1 << 16, files=4, header_seconds=0.5, body_seconds=0.8
)  # fmt: skip
ANY = "s-" + "0" * 24
HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\nX-Chestmap: 1\r\n".encode()
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'


@pytest.fixture(scope="module")
def hostile(served, readers, tmp_path_factory):
    service = Service([served], Store(tmp_path_factory.mktemp("hostile")), ServeSettings(bounds=BOUNDS), readers)
    service.readers.settings = service.settings
    with running(service, {sha256(TOKEN.encode()).digest(): Person("Ann")}) as port:
        yield service, port
    readers.settings = ServeSettings(readers=1)


@pytest.fixture(scope="module")
def http(hostile):
    afresh = httpx.Limits(max_keepalive_connections=0)  # a connection kept may be closed by the service as it is used again
    with httpx.Client(base_url=f"http://127.0.0.1:{hostile[1]}", headers=GOOD, timeout=60, limits=afresh) as client:
        yield client
        answer = client.post("/v1/predict", files=upload(picture(1)))  # after all of them
        assert answer.status_code == 200
        assert client.get("/readyz").status_code == 200
        assert not list(hostile[0].store.folders.incoming.iterdir())
        assert hostile[0].store.known_ids() == {answer.json()["studies"][0]["id"]}


def zipped(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def png_of(width, height, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


JPEG = saved(__import__("numpy").arange(4096, dtype="uint8").reshape(64, 64), "jpeg")
XXE = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9))
    + b"]><l>&j;</l>"
)
FILES = {
    "empty": b"", "zeros": bytes(1000), "text": b"hello", "html": b"<html><script>alert(1)</script>", "xxe": XXE,
    "billion laughs": LAUGHS, "pickle": pickle.dumps({"a": 1}), "gif": b"GIF89a" + bytes(50), "tiff": b"II*\0" + bytes(50),
    "postscript": b"%!PS\n(%pipe%id) (r) file", "zip bomb": lambda: zipped("a.png", bytes(50 << 20)),
    "zip with a path": zipped("../../etc/cron.d/x", b"x"), "gzip bomb": lambda: gzip.compress(bytes(50 << 20)),
    "png cut": picture(1)[:-200], "png of 1.6 gigapixels": png_of(40000, 40000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "png with a text bomb": lambda: png_of(64, 64, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20))), chunk(b"IDAT", b"x")),
    "png of one pixel": png_of(1, 1, chunk(b"IDAT", zlib.compress(b"\0\0"))), "jpeg cut": JPEG[:-300],
    "jpeg of 4 gigapixels": JPEG.replace(b"\0\x40\0\x40", b"\xff\xff\xff\xff", 1), "too big": picture(1) + bytes(1 << 20),
    **{f"dicom: {name}": made() if callable(made) else made for name, (made, _) in list(BAD_DICOMS.items())[::9]},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(http, name):
    content = FILES[name]() if callable(FILES[name]) else FILES[name]
    answer = http.post("/v1/predict", files=upload(content, name="../../../etc/passwd\0<script>.png"))
    assert answer.status_code in ({413, 422} if len(content) > BOUNDS.file_bytes else {422}), answer.text
    assert "Traceback" not in answer.text
    assert "/tmp" not in answer.text


def post(body, *headers, length=None):
    count = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return b"POST /v1/predict HTTP/1.1\r\n" + HEAD + b"".join(headers) + count + b"\r\n" + body


def get(target, *headers):
    return b"GET " + target + b" HTTP/1.1\r\n" + HEAD + b"".join(headers) + b"\r\n"


def put(body):
    head = b"PUT /v1/studies/%s/review HTTP/1.1\r\n" % ANY.encode() + HEAD
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = b"POST /v1/predict HTTP/1.1\r\n" + HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n"
RAW = {
    "no form": post(b"{}", b"Content-Type: application/json\r\n"),
    "no boundary": post(b"--b\r\n", b"Content-Type: multipart/form-data\r\n"),
    "a part without end": post(PART + b"x", FORM),
    "a part without name": post(b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", FORM),
    "a part without header": post(b"--b\r\n\r\nx\r\n--b--\r\n", FORM),
    "no part": post(b"--b--\r\n", FORM),
    "garbage as form": post(bytes(range(256)) * 10, FORM),
    "text for a file": post(b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n', FORM),
    "five files": post(PART + b"\r\n".join([b"x", PART] * 5) + b"x\r\n--b--\r\n", FORM),
    "many fields": post(b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 50 + b"--b--\r\n", FORM),
    "a long field": post(b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 5000 + b"\r\n--b--\r\n", FORM),
    "a long part header": post(b"--b\r\nX: " + b"x" * 500_000 + b"\r\n\r\nx\r\n--b--\r\n", FORM),
    "a model with a path": post(
        PART + b'x\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n../../x\r\n--b--\r\n', FORM
    ),
    "four gigabytes promised": post(b"x", FORM, length=4 << 30),
    "a negative length": post(b"x", FORM, length=-1),
    "two lengths": post(b"x", b"Content-Length: 5\r\n"),
    "length and chunks": post(b"0\r\n\r\n", FORM, b"Transfer-Encoding: chunked\r\n"),
    "chunks without end": CHUNKED + b"FFFFF\r\n" + PART + bytes(0xFFFFF - len(PART)) + b"\r\n" + (b"FFFFF\r\n" + bytes(0xFFFFF) + b"\r\n") * 2,
    "a chunk of no size": CHUNKED + b"zz\r\n",
    "gzip as encoding": post(gzip.compress(PART), FORM, b"Content-Encoding: gzip\r\n"),
    "100 headers": get(b"/v1/models", *(b"X-%d: x\r\n" % number for number in range(100))),
    "20,000 headers": get(b"/v1/models", *(b"X-%d: x\r\n" % number for number in range(20_000))),
    "a header of 100 kB": get(b"/v1/models", b"X: " + b"x" * 100_000 + b"\r\n"),
    "another host": b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "two hosts": get(b"/v1/models", b"Host: evil.example\r\n"),
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "a null in a header": get(b"/v1/models", b"X: a\0b\r\n"),
    "a line break in a header": get(b"/v1/models", b"X: a\rb\r\n"),
    "http 0.9": b"GET /\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "trace": b"TRACE /v1/models HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a forged token": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + b"0" * 16 + b"\r\n\r\n",
    "a token of bytes": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    "a forged session": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nCookie: chestmap_session=" + b"QUFB" * 20 + b"\r\n\r\n",
    "two authorizations": get(b"/v1/models", b"Authorization: Bearer x\r\n"),
    "up from the page": get(b"/page/../../../../etc/passwd"),
    "up, coded": get(b"/page/%2e%2e/%2e%2e/app.py"),
    "up, coded twice": get(b"/page/%252e%252e%252fapp.py"),
    "an absolute path": get(b"/page//etc/passwd"),
    "a null in a path": get(b"/page/index.html%00.js"),
    "up from a study": get(b"/v1/studies/..%2f..%2fkey"),
    "up from maps": get(b"/v1/studies/" + ANY.encode() + b"/maps/..%2f..%2f..%2fkey"),
    "broken utf-8": get(b"/v1/studies/%ff%fe"),
    "an address of 10 kB": get(b"/v1/studies?search=" + b"x" * 10_000),
    "an offset that no database has": get(b"/v1/studies?offset=99999999999999999999"),
    "sql for an order": get(b"/v1/studies?order=id;drop%20table%20study"),
    "a limit of a million": get(b"/v1/studies?limit=1000000"),
    "json nested deeply": put(b"[" * 60_000),
    "json of wrong types": put(json.dumps({"base": "0", "state": 5, "findings": [], "note": {}}).encode()),
    "json with a long number": put(b'{"base": ' + b"9" * 5000 + b', "state": "no"}'),
    "json with nan": put(b'{"base": 0, "state": "no", "findings": {"Mass": {"boxes": [{"x0": NaN, "y0": 0, "x1": 1, "y1": 1}]}}}'),
    "json that is no utf-8": put(b'{"base": 0, "state": "\xff"}'),
    "json too big": put(b'{"note": "' + b"x" * 70_000 + b'"}'),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a part that starlette leaves open
@pytest.mark.parametrize("name", RAW)
def test_requests(http, hostile, name):
    answer = talk(hostile[1], RAW[name])
    assert answer[:10] in {b"HTTP/1.1 4", b"HTTP/1.0 4"}, answer[:300]
    assert b"Traceback" not in answer


def test_a_header_that_never_ends(http, hostile):
    assert talk(hostile[1], b"GET / HTTP/1.1\r\n", b"X-a: b\r\n", b"X-a: b\r\n", pause=0.25).startswith(b"HTTP/1.1 408")


def test_a_connection_that_says_nothing(http, hostile):
    assert talk(hostile[1], wait=5).startswith(b"HTTP/1.1 408")


def test_a_body_that_never_ends(http, hostile):
    head = post(PART, FORM, length=100_000)
    assert talk(hostile[1], head, b"x", b"x", b"x", b"x", pause=0.25).startswith(b"HTTP/1.1 408")


def test_a_second_request_that_never_ends(http, hostile):
    answer = talk(hostile[1], get(b"/healthz"), b"GET /healthz HT", wait=5)
    assert answer.startswith(b"HTTP/1.1 200")


def test_there_are_sixty_and_more():
    assert len(FILES) + len(RAW) + 4 >= 60
