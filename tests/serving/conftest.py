import pytest
from starlette.testclient import TestClient

from chestmap.serving.engine.decoder_pool import DecoderPool
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.http.access import Access
from chestmap.serving.http.app import create_app
from chestmap.serving.store.store import Store
from serving.small import served_of, write_small_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="session")
def served(model_folder):
    return served_of(model_folder)


@pytest.fixture(scope="session")
def client_of():
    """Makes clients of services that run in this process: `client_of(service, access, hosts)`."""

    def make(service, access=None, hosts=(), **options):
        access = access or Access()
        return TestClient(
            create_app(service, access, hosts), base_url="http://localhost", headers={"X-Chestmap": "1"}, client=("127.0.0.1", 5),
            raise_server_exceptions=True, **options,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def readers():
    """One process that decodes, for all services of the tests."""
    made = DecoderPool(ServeSettings(readers=1), b"k" * 32)
    yield made
    made.close()


@pytest.fixture(scope="session")
def service(served, readers, tmp_path_factory):
    return Service([served], Store(tmp_path_factory.mktemp("store")), readers=readers)


@pytest.fixture(scope="session")
def client(service, client_of):
    with client_of(service) as made:
        yield made
