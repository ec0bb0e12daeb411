"""Who may come in, and from where."""

import asyncio
import shutil
import ssl
import subprocess
import time

import httpx
import pytest

from chestmap.cli.serve import serve
from chestmap.errors import BadInput, Refused
from chestmap.serving.engine.service import Service
from chestmap.serving.http.access import Access, is_loopback, read_tokens
from chestmap.serving.http.app import Readiness, create_app
from chestmap.serving.http.server import ListenAddress, server_of
from chestmap.serving.http.sessions import MOST_OF_TOKEN
from chestmap.serving.http.wrong_tokens import WrongTokens
from chestmap.serving.store.store import Store
from serving.running import running, talk
from serving.small import picture, upload

TOKEN, ADMIN = "0123456789abcdef-reader", "0123456789abcdef-admin"


@pytest.fixture(scope="module")
def closed(served, readers, tmp_path_factory, client_of):
    folder = tmp_path_factory.mktemp("closed")
    tokens = folder / "tokens"
    tokens.write_text(f"# who\nReader {TOKEN}\nChief {ADMIN} admin\n")
    tokens.chmod(0o600)
    service = Service([served], Store(folder / "store"), readers=readers)
    access = Access(read_tokens(tokens))
    with client_of(service, access) as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_only_the_page_and_health_answer(closed):
    for path in ("/v1/models", "/v1/studies", "/metrics", "/openapi.json", "/docs", "/v1/nothing"):
        answer = closed.get(path)
        assert answer.status_code == 401, path
        assert answer.json()["error"].startswith("no valid token")
    assert closed.post("/v1/predict", files=upload(picture(1))).status_code == 401
    assert closed.get("/healthz").status_code == 200
    assert closed.get("/").status_code in {200, 404}


def test_a_token_opens_and_names_the_reviewer(closed):
    study_id = closed.post("/v1/predict", files=upload(picture(1)), headers=bearer(TOKEN)).json()["studies"][0]["id"]
    review = {"base": 0, "state": "done"}
    headers = {**bearer(TOKEN), "X-Reviewer": "Somebody else"}
    assert closed.put(f"/v1/studies/{study_id}/review", json=review, headers=headers).json()["by"] == "Reader"
    assert closed.delete(f"/v1/studies/{study_id}", headers=bearer(TOKEN)).status_code == 403
    assert closed.delete(f"/v1/studies/{study_id}", headers=bearer(ADMIN)).status_code == 204


def test_a_session_is_a_cookie_that_no_script_reads(closed):
    answer = closed.post("/v1/session", json={"token": TOKEN})
    assert answer.json() == {"name": "Reader", "admin": False}
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert closed.get("/v1/models").status_code == 200
    value = closed.cookies["chestmap_session"]
    closed.cookies.clear()
    for forged in (value[:-2] + "AA", "A" * len(value), value[:40], "", "é", value[::-1]):
        assert closed.get("/v1/models", headers={"Cookie": f"chestmap_session={forged}".encode()}).status_code == 401
    assert closed.post("/v1/session", json={"token": "wrong-wrong-wrong-wrong"}).status_code == 401


def test_signing_out_ends_every_copy_of_the_cookie(closed):
    values = []
    for _ in range(2):
        closed.post("/v1/session", json={"token": TOKEN})
        values.append(closed.cookies["chestmap_session"])
        closed.cookies.clear()
    assert values[0] != values[1]
    copies = [{"Cookie": f"chestmap_session={value}"} for value in values]
    assert closed.delete("/v1/session", headers=copies[0]).status_code == 204
    assert [closed.get("/v1/models", headers=one).status_code for one in copies] == [401, 200]


def test_the_cookie_is_for_tls_alone_where_a_proxy_speaks_it(closed):
    answer = closed.post("/v1/session", json={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()
    assert "strict-transport-security" in answer.headers
    closed.cookies.clear()


def test_a_session_ends(monkeypatch):
    access = Access(read_tokens_of(TOKEN))
    cookie = {"cookie": f"chestmap_session={access.session(TOKEN)}"}
    assert access.person(cookie, "").name == "Reader"
    assert Access(read_tokens_of(ADMIN), sessions=access.sessions).person(cookie, "") is None  # its token was taken away
    assert Access(access.tokens).person(cookie, "") is None
    later = time.time() + 13 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert access.person(cookie, "") is None


def test_a_token_has_a_bounded_number_of_sessions():
    access = Access(read_tokens_of(TOKEN))
    values = [access.session(TOKEN) for _ in range(MOST_OF_TOKEN + 2)]
    good = [access.person({"cookie": f"chestmap_session={value}"}, "") is not None for value in values]
    assert good == [False] * 2 + [True] * MOST_OF_TOKEN


def test_wrong_tokens_are_answered_later_and_later(monkeypatch):
    wrong, now = WrongTokens(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert [wrong.delay("10.0.0.1") for _ in range(9)] == [0, 0, 0, 0.25, 0.5, 1, 2, 4, 8]
    assert wrong.delay("10.0.0.1") == 8
    assert wrong.delay("10.0.0.2") == 0
    now[0] = 601
    assert wrong.delay("10.0.0.1") == 0
    for number in range(10_000):
        wrong.delay(str(number))
    assert len(wrong._seen) == 4096


def test_guessing_tokens_is_slow_and_the_right_one_is_not(served, readers, tmp_path, client_of, monkeypatch):
    monkeypatch.setattr(WrongTokens, "delay", lambda self, address: 0.2)
    service = Service([served], Store(tmp_path / "store"), readers=readers)
    with client_of(service, Access(read_tokens_of(TOKEN))) as client:
        waited, real = [], asyncio.sleep

        async def sleep(seconds, *rest):
            waited.append(seconds)
            await real(0)

        monkeypatch.setattr(asyncio, "sleep", sleep)
        assert client.get("/v1/models", headers=bearer("wrong-wrong-wrong-wrong")).status_code == 401
        assert client.post("/v1/session", json={"token": "wrong-wrong-wrong-wrong"}).status_code == 401
        assert [one for one in waited if one] == [0.2, 0.2]
        assert client.get("/v1/models", headers=bearer(TOKEN)).status_code == 200
        assert client.get("/v1/models").status_code == 401  # no token is no guess
        assert [one for one in waited if one] == [0.2, 0.2]


def test_readiness_is_looked_at_once_for_all_who_ask(closed, monkeypatch):
    asked = []
    store = closed.app.app.state.service.store
    real = store.queued
    monkeypatch.setattr(store, "queued", lambda: asked.append(1) or real())
    monkeypatch.setattr(Readiness, "seconds", 3600.0)
    assert [closed.get("/readyz").status_code for _ in range(20)] == [200] * 20
    assert len(asked) <= 1


def read_tokens_of(token):
    from hashlib import sha256

    from chestmap.serving.http.access import Person

    return {sha256(token.encode()).digest(): Person("Reader")}


def test_a_proxy_is_believed_only_where_it_stands():
    access = Access(proxy_header="X-Remote-User", proxies=frozenset({"10.0.0.1"}))
    assert access.person({"x-remote-user": "Ann"}, "10.0.0.1").name == "Ann"
    assert access.person({"x-remote-user": "Ann"}, "10.0.0.2") is None
    assert access.person({}, "10.0.0.1") is None


def test_a_proxy_header_given_twice_is_refused(served, readers, tmp_path, client_of):
    service = Service([served], Store(tmp_path / "store"), readers=readers)
    with client_of(service, Access(proxy_header="X-Remote-User")) as client:
        assert client.get("/v1/models", headers={"X-Remote-User": "Ann"}).status_code == 200
        twice = [("X-Remote-User", "Ann"), ("X-Remote-User", "Chief")]
        assert client.get("/v1/models", headers=twice).json() == {"error": "header x-remote-user given twice"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Chestmap": ""}, 415),  # the header is there
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://localhost]"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "127.0.0.1:99"}, 415),
        ({"Host": "[::1]:99"}, 415),
        ({"Host": "["}, 421),
        ([("Content-Length", "0"), ("Transfer-Encoding", "chunked")], 400),
        ([("Cookie", "a=b"), ("Cookie", "c=d")], 400),
        ([("Origin", "http://localhost"), ("Origin", "http://evil.example")], 400),
        ([("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")], 400),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_requests_of_other_sites_are_refused(client, headers, status):
    assert client.post("/v1/predict", headers=headers).status_code == status


def test_a_request_that_changes_something_says_so(client):
    for method, path in (("POST", "/v1/predict"), ("PUT", "/v1/studies/x/review"), ("DELETE", "/v1/studies/x")):
        request = client.build_request(method, path)
        del request.headers["X-Chestmap"]
        assert client.send(request).status_code == 403


def test_every_answer_carries_the_headers_that_browsers_obey(client):
    for path in ("/healthz", "/v1/nothing", "/v1/models"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_token_files_are_looked_at(tmp_path):
    path = tmp_path / "tokens"
    for text, said in (("Ann short\n", "at least 16"), ("Ann\n", "expected NAME TOKEN"), ("# none\n", "holds no token")):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(BadInput, match=said):
            read_tokens(path)
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        read_tokens(path)


def test_what_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example")))


def test_an_open_address_without_a_token_is_refused(tmp_path):
    with pytest.raises(Refused, match="give --token-file"):
        serve([str(tmp_path / "model")], tmp_path / "s", host="0.0.0.0")
    with pytest.raises(BadInput, match="belong together"):
        serve([str(tmp_path / "model")], tmp_path / "s", certificate=tmp_path)
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(served, readers, tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *names]
    subprocess.run([*made, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    service = Service([served], Store(tmp_path / "store"), readers=readers)
    with running(service, address=ListenAddress(port=0, certificate=certificate, key=key)) as port:
        answer = httpx.get(f"https://localhost:{port}/healthz", verify=ssl.create_default_context(cafile=certificate))
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        assert not talk(port, b"GET / HTTP/1.1\r\n\r\n", wait=2).startswith(b"HTTP/1.1 2")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.load_verify_locations(certificate)
        assert httpx.get(f"https://localhost:{port}/healthz", verify=old).status_code == 200
    with pytest.raises(BadInput, match="PEM certificate"):
        server_of(create_app(service, Access()), ListenAddress(certificate=key, key=key), service.settings)
