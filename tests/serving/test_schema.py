"""Requests made from the OpenAPI document: no 5xx, and answers as documented."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chestmap.serving.engine.service import Service
from chestmap.serving.store.store import Store
from serving.running import running
from serving.small import picture, upload

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = 22


@pytest.fixture(scope="module")
def address(served, readers, client_of, tmp_path_factory):
    """A real server whose store holds a study; and its document."""
    service = Service([served], Store(tmp_path_factory.mktemp("schema")), readers=readers)
    with running(service) as port:
        base = f"http://127.0.0.1:{port}"
        answer = httpx.post(f"{base}/v1/predict", files=upload(picture(1)), headers={"X-Chestmap": "1"}, timeout=60)
        there = {"study_id": answer.json()["studies"][0]["id"], "model": served.id}
        yield base, httpx.get(f"{base}/openapi.json", timeout=60).json(), there


def ask_everything(address, examples):
    base, document, there = address
    found = [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]
    assert len(found) == OPERATIONS
    for operation in found:

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def ask(case):
            if case.method != "DELETE":
                case.path_parameters.update({key: there[key] for key in case.path_parameters})
            answer = case.call(base_url=base, headers={"X-Chestmap": "1"}, timeout=60)
            case.validate_response(answer, checks=CHECKS)

        ask()


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_the_document_allows_breaks_the_service(address):
    ask_everything(address, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_that_the_document_allows_breaks_the_service_at_length(address):
    ask_everything(address, 300)
