"""Who comes in, what is taken, and what a connection may cost."""

import contextlib
import re
import socket
import ssl
import subprocess
from shutil import which

import pytest
from pydicom import uid

from chestmap.errors import BadInput, Refused
from chestmap.serving.dicom import receiver, tls
from chestmap.serving.dicom.receiver import ListenOptions, allowed_of, title_of
from chestmap.serving.dicom.start import TlsFiles
from chestmap.serving.store import deliveries
from serving.dicom.films import associate, counts, film, send, wait_until

pytestmark = [  # pynetdicom leaves the socket of a connection that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_titles_and_addresses_decide_who_may_send(start):
    node = start(allow=["TEST", "PACS@10.1.2.0/24"])
    with_title = associate(node.port)
    assert with_title.is_established
    assert with_title.send_c_echo().Status == 0
    with_title.release()
    for wrong in ({"title": "OTHER"}, {"called": "ANOTHER"}):
        refused = associate(node.port, **wrong)
        assert refused.is_rejected
    assert send(node.port, film(1), title="PACS") == [0x0124]  # the title is known, not from here
    assert sum(deliveries.counts(node.store).values()) == 0


def test_connections_from_elsewhere_are_closed_unheard(start):
    node = start(allow=["PACS@10.1.2.3"])
    refused = associate(node.port, title="PACS")
    assert not refused.is_established
    assert not refused.is_rejected


def test_allow_lists():
    allowed = allowed_of(["PACS@10.1.2.3", "PACS@10.2.0.0/16", "ANY", "ANY@10.9.9.9"])
    door = ListenOptions(allowed=allowed)
    assert door.admits("PACS ", "10.2.7.7")
    assert not door.admits("PACS", "10.3.0.1")
    assert door.admits("ANY", "fd00::1")
    assert not door.admits("OTHER", "10.1.2.3")
    assert door.networks == ()  # as ANY may call from anywhere
    assert ListenOptions(allowed=allowed_of(["PACS@10.1.2.3"])).networks
    for wrong in ("PACS@host.example", "A" * 17, "@10.1.2.3", "A\\B"):
        with pytest.raises(BadInput):
            allowed_of([wrong])
    assert title_of("CHEST MAP") == "CHEST MAP"


def test_other_classes_are_refused_and_the_rest_of_the_association_goes_on(start):
    node = start()
    report, image = film(1, SOPClassUID=uid.EnhancedSRStorage), film(2)
    link = associate(node.port, report, image)
    assert [one.abstract_syntax for one in link.rejected_contexts] == [uid.EnhancedSRStorage]
    assert link.send_c_store(image).Status == 0
    link.release()
    counts(node, done=1)


def test_an_identifier_that_is_none_and_a_full_disk(start, settings, monkeypatch):
    assert not receiver.IDENTIFIER.fullmatch("../../etc")
    node = start()
    with monkeypatch.context() as patched:
        patched.setattr(receiver, "IDENTIFIER", re.compile("none of them"))
        assert send(node.port, film(1)) == [0x0117]
    node.ended()
    full = start(how=settings.model_copy(update={"free_bytes": 1 << 60}), folder="full")
    assert send(full.port, film(1)) == [0xA700]
    assert sum(deliveries.counts(full.store).values()) == 0


def test_trouble_with_disk_or_queue_is_told_to_the_sender(start, monkeypatch):
    node = start()

    def broken(*_):
        raise OSError("no space")

    monkeypatch.setattr(node.store.folders, "make_durable", broken)
    assert send(node.port, film(1)) == [0xA700]
    assert not list(node.store.folders.incoming.iterdir())
    monkeypatch.undo()
    assert send(node.port, film(1)) == [0]


def ended(line):
    """The rest of what comes until the node closes."""
    heard = b""
    try:
        while piece := line.recv(4096):
            heard += piece
    except OSError:
        pass
    return heard


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),  # TLS
        b"\x01\x00\xff\xff\xff\xff" + bytes(70_000),  # an association request of 4 GiB
        b"\x04\x00\x40\x00\x00\x00" + bytes(70_000),  # data of 1 GiB before any association
        b"\x01\x00\x00\x00\x00\x44" + b"\xff" * 68,  # a request of nonsense
        b"\x06\x00\x00\x00\x00\x04" + bytes(4),  # the end of an association that never was
    ],
    ids=["http", "tls", "long request", "long data", "nonsense", "release"],
)
def test_what_is_no_dicom_ends_its_own_connection(start, said):
    node = start()
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as line:
        with contextlib.suppress(OSError):
            line.sendall(said)
        if said[:1] in b"\x01\x04" and said[2:3] > b"\x3f":  # a length beyond bounds is not waited for
            ended(line)
        link = associate(node.port)
        assert link.send_c_echo().Status == 0
        link.release()


def test_an_image_beyond_all_bounds_ends_its_association(start, settings):
    node = start(how=settings.model_copy(update={"object_bytes": 1 << 16}))
    long = film(1, ImageComments="x" * 100)
    long.PixelData = bytes(3 << 20)
    assert send(node.port, long)[0] != 0
    assert send(node.port, film(2), film(3)) == [0, 0]
    counts(node, done=2)


def test_one_address_takes_not_all_places(start, settings):
    node = start(how=settings.model_copy(update={"per_host": 2}))
    first, second = (socket.create_connection(("127.0.0.1", node.port), timeout=60) for _ in range(2))
    with first, second:
        wait_until(lambda: len(node.receiver._listener.active_associations) == 2)
        with socket.create_connection(("127.0.0.1", node.port), timeout=60) as third:
            assert ended(third) == b""  # closed at once


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a node and a sender that it vouches for, and a stranger."""
    if which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name, more in {
        "authority": [],
        "node": ["-CA", folder / "authority.pem", "-CAkey", folder / "authority.key"],
        "sender": ["-CA", folder / "authority.pem", "-CAkey", folder / "authority.key"],
        "stranger": [],
    }.items():
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
        kind = ["-addext", f"basicConstraints=critical,CA:{'FALSE' if more else 'TRUE'}"]
        out = ["-out", folder / f"{name}.pem", "-keyout", folder / f"{name}.key"]
        subprocess.run([*made, *more, *subject, *kind, *out], check=True, capture_output=True)
    return folder


def sender_of(certificates, name=None):
    own = (certificates / f"{name}.pem", certificates / f"{name}.key") if name else (None, None)
    return tls.sending(certificates / "authority.pem", *own)


def test_tls_of_both_sides(start, certificates, archive, settings):
    """Plain text, no certificate, and one of nobody's are refused; results go to an archive with TLS."""
    archive.close()
    archive.open(tls.listening(certificates / "node.pem", certificates / "node.key", certificates / "authority.pem"))
    context = tls.listening(certificates / "node.pem", certificates / "node.key", certificates / "authority.pem")
    node = start(archive.destination(settings, sender_of(certificates, "node")), tls=context)
    silent = socket.create_connection(("127.0.0.1", node.port))  # a handshake that never begins stops nobody
    with silent:
        assert send(node.port, film(1), tls=sender_of(certificates, "sender")) == [0]
        counts(node, done=1)
        for context in (None, sender_of(certificates), sender_of(certificates, "stranger")):
            link = associate(node.port, tls=context)
            assert not (link.is_established and getattr(link.send_c_echo(), "Status", None) == 0)
    assert archive.stored


def test_an_archive_that_is_another_gets_nothing(start, certificates, archive, settings):
    archive.close()
    archive.open(tls.listening(certificates / "stranger.pem", certificates / "stranger.key", None))
    node = start(archive.destination(settings, sender_of(certificates)))
    assert send(node.port, film(1)) == [0]
    counts(node, retry=1)
    assert not archive.stored


def test_options_that_would_let_strangers_in(certificates, tmp_path):
    pem, key = certificates / "node.pem", certificates / "node.key"
    with pytest.raises(Refused, match="--allow"):
        TlsFiles().door("CHESTMAP", "0.0.0.0", 0, [])
    with pytest.raises(BadInput, match="belong together"):
        TlsFiles(certificate=pem).door("CHESTMAP", "127.0.0.1", 0, [])
    with pytest.raises(BadInput, match="needs TLS"):
        TlsFiles(client_ca=pem).door("CHESTMAP", "127.0.0.1", 0, [])
    with pytest.raises(BadInput, match="PEM certificate"):
        TlsFiles(certificate=key, key=key).door("CHESTMAP", "127.0.0.1", 0, [])
    with pytest.raises(BadInput, match="authorities"):
        TlsFiles(certificate=pem, key=key, client_ca=tmp_path / "none").door("CHESTMAP", "127.0.0.1", 0, [])
    door = TlsFiles(certificate=pem, key=key, client_ca=certificates / "authority.pem").door(
        "CHESTMAP", "0.0.0.0", 0, ["TEST"]
    )
    assert door.tls is not None
    assert door.tls.verify_mode == ssl.CERT_REQUIRED
    assert door.tls.minimum_version == ssl.TLSVersion.TLSv1_2
