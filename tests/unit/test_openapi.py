"""The OpenAPI document says what the endpoint tables say, and nothing else."""

from __future__ import annotations

import pytest
from openapi_spec_validator import validate

from bandmeter.dialects import DIALECTS
from bandmeter.domain import contracts
from bandmeter.formats import FORMATS, jsonl
from bandmeter.ingest.posts import bodies
from bandmeter.web import openapi, records
from bandmeter.web.native import problems

DOCUMENT = openapi.document(DIALECTS)
PAGES = {"/healthz", "/readyz", "/openapi.json", "/docs"}
METHODS = {"/costs/export/json": "post", "/costs/export/csv": "post"}  # of all others: get
OPERATIONS = {
    path: methods[METHODS.get(path.removeprefix("/api"), "get")] for path, methods in DOCUMENT["paths"].items()
}


def test_the_document_is_openapi_3_1():
    validate(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.1.0"


def test_each_form_of_each_endpoint_is_there_and_no_other():
    served = {path for dialect in DIALECTS for endpoint in dialect.endpoints for path in endpoint.paths}
    assert set(OPERATIONS) == served | PAGES


def test_each_operation_has_an_id_of_its_own():
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/zone/bw", {"200", "400", "401", "403", "405", "422", "429", "500", "503"}),
        ("/api/customer/bw", {"200", "400", "401", "403", "405", "429", "500", "503"}),
        ("/network_status/{network}", {"200", "400", "401", "403", "404", "405", "429", "500", "503"}),
        ("/costs/export/json", {"200", "400", "401", "403", "405", "408", "413", "422", "429", "500", "503"}),
        ("/healthz", {"200", "405"}),
        ("/readyz", {"200", "405", "503"}),
    ],
)
def test_each_operation_lists_the_statuses_that_can_occur(path, statuses):
    assert set(OPERATIONS[path]["responses"]) == statuses


def test_errors_have_the_dialects_type_and_headers():
    responses = OPERATIONS["/zone/bw"]["responses"]
    assert all(set(responses[s]["content"]) == {"text/html; charset=utf-8"} for s in responses if s != "200")
    assert set(responses["200"]["content"]) == {"application/json"}
    named = {status: set(response.get("headers", ())) for status, response in responses.items()}
    assert {s: h for s, h in named.items() if h} == {
        "401": {"WWW-Authenticate"},
        "405": {"Allow"},
        "429": {"Retry-After"},
    }


def test_a_body_is_described_where_one_is_read():
    bodies = {path: operation["requestBody"] for path, operation in OPERATIONS.items() if "requestBody" in operation}
    assert set(bodies) == {f"{prefix}/costs/export/{form}" for prefix in ("", "/api") for form in ("json", "csv")}
    for described in bodies.values():
        assert described["required"]
        assert described["content"]["application/json"]["schema"]["required"] == ["dimension", "from", "to"]


def test_an_answer_has_its_endpoints_type():
    assert set(OPERATIONS["/costs/export/csv"]["responses"]["200"]["content"]) == {"text/csv; charset=utf-8"}
    assert set(OPERATIONS["/v2/stat/bandwidth"]["responses"]["200"]["content"]) == {"application/json; charset=utf-8"}


def test_a_key_is_required_wherever_a_dialect_answers():
    for path, operation in OPERATIONS.items():
        owners = [d for d in DIALECTS if any(path in endpoint.paths for endpoint in d.endpoints)]
        ways = [{f"{d.name}_{where}_{name}": []} for d in owners for where, name in d.credentials]
        assert operation["security"] == ways
        assert bool(ways) == (path not in PAGES)


def test_the_body_of_records_is_described_by_media_type():
    """With examples that show each format, and the parameter that is a header."""
    described = openapi.document([dialect(records.endpoint(None))])["paths"]["/v1/records"]["post"]
    content = described["requestBody"]["content"]
    assert set(content) == set(bodies.MEDIA_TYPES)
    for name, log_format in FORMATS.items():
        assert content[f"text/vnd.bandmeter.{name}"]["schema"]["examples"] == [f"{log_format.example}\n"]
    record = content["application/json"]["schema"]["anyOf"][0]
    assert set(record["properties"]) == set(jsonl.RECORD)
    assert {(p["name"], p["in"]) for p in described["parameters"]} == {
        *((name, "query") for name in ("source", "seq", "format", "columns")),
        ("Idempotency-Key", "header"),
    }
    assert set(described["responses"]) == {
        *("200", "400", "401", "403", "405", "408", "409", "413", "415", "422", "429", "500", "503")
    }


def dialect(*endpoints):
    return contracts.Dialect("native", "Ours", endpoints, (("bearer", "authorization"),), problems.render_error)
