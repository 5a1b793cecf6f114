"""The API's description lists the errors that each operation can give, and no others."""

import re
from pathlib import Path

import pytest

from causeloop_common.errors import AppError, AuditUnavailable
from causeloop_gateway.documents import openapi
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.routes import ENDPOINTS, STREAMS
from tests.support.raised import KINDS, Package, sentences

ROOT = Path(__file__).parents[2]
FOLDERS = {"auth": "auth", "tenancy": "tenancy", "vault": "crypto-vault", "audit": "audit"}
PACKAGES = {name: Package.read(ROOT / f"services/{folder}/causeloop_{name}") for name, folder in FOLDERS.items()}
PACKAGES["jobs"] = Package.read(ROOT / "libs/common/causeloop_common/worker")
GATEWAY = ROOT / "services/gateway/causeloop_gateway"
SOURCES = [
    *(ROOT / "libs/common/causeloop_common").rglob("*.py"),
    *(path for folder in FOLDERS.values() for path in (ROOT / "services" / folder).glob("causeloop_*/**/*.py")),
    *(path for path in GATEWAY.glob("*.py") if path.stem != "endpoints"),
    *GATEWAY.glob("streams/*.py"),
]
SENTENCES = [
    (kind, re.compile(".+".join(map(re.escape, text.split("\0"))), re.DOTALL)) for kind, text in sentences(SOURCES)
]
ROUTES = pytest.mark.parametrize("endpoint", [*ENDPOINTS, *STREAMS], ids=lambda endpoint: endpoint.command.operation)

NOT_REACHED: dict[str, set[type[AppError]]] = {
    "encrypt": {AuditUnavailable},  # it would record a new keyring, which there is wherever there is a key
}


class TestErrors:
    @ROUTES
    def test_are_those_that_the_use_case_raises(self, endpoint: Endpoint) -> None:
        operation = endpoint.command.operation
        raised = PACKAGES[endpoint.command.service].errors(operation) - NOT_REACHED.get(operation, set())
        if endpoint in STREAMS:
            raised |= {KINDS[kind] for kind, _ in sentences(GATEWAY.glob("streams/*.py"))}
        assert raised <= {type(error) for error in openapi.refusals(endpoint)}
        assert {type(error) for error in endpoint.errors} <= raised

    @ROUTES
    def test_have_sentences_that_are_given(self, endpoint: Endpoint) -> None:
        for error in openapi.refusals(endpoint):
            if error.fields is None:
                given = [sentence for kind, sentence in SENTENCES if kind == type(error).__name__]
                assert any(sentence.fullmatch(error.detail) for sentence in given), error.detail
