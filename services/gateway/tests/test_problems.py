"""Refusals over HTTP: every error has one status, and one shape."""

from typing import Any

import orjson
import pytest

from causeloop_common.errors import (
    AppError,
    Forbidden,
    InvalidGrant,
    InvalidInput,
    MfaRequired,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from causeloop_gateway.documents import openapi
from causeloop_gateway.problems import LARGEST, STATUS, problem

KINDS = pytest.mark.parametrize("kind", AppError.kinds(), ids=lambda kind: kind.code)


def answer_of(error: AppError) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    status, headers, body = problem(error, "req_1")
    assert len(dict(headers)) == len(headers)
    return status, dict(headers), orjson.loads(body)


class TestStatuses:
    def test_every_error_has_one_and_nothing_else_has(self) -> None:
        assert set(STATUS) == {kind.code for kind in AppError.kinds()}

    def test_are_those_of_the_brief(self) -> None:
        brief = (
            "validation_error 422, malformed 400, unauthorized 401, invalid_grant 401, forbidden 403, "
            "mfa_required 403, not_found 404, conflict 409, idempotency_mismatch 422, idempotency_in_progress 409, "
            "secret_already_shown 409, payload_too_large 413, rate_limited 429, audit_unavailable 503, "
            "unavailable 503, timeout 504"
        )
        assert {f"{code} {STATUS[code][0]}" for code in STATUS} >= set(brief.split(", "))


class TestProblem:
    @KINDS
    def test_has_the_shape_that_clients_read(self, kind: type[AppError]) -> None:
        status, headers, body = answer_of(kind("A sentence."))
        assert body == {
            "type": f"urn:causeloop:problem:{kind.code}",
            "title": STATUS[kind.code][1],
            "status": status,
            "detail": "A sentence.",
            "code": kind.code,
            "trace_id": "req_1",
        }
        assert headers[b"content-type"] == b"application/problem+json"

    @KINDS
    def test_says_its_own_length(self, kind: type[AppError]) -> None:
        _, headers, body = problem(kind("Ein Satz – mit Zeichen."), "req_1")
        assert dict(headers)[b"content-length"] == str(len(body)).encode()

    def test_names_the_fields_that_are_wrong(self) -> None:
        assert answer_of(InvalidInput.of(name="is too long"))[2]["errors"] == {"name": ["is too long"]}

    @pytest.mark.parametrize(
        ("error", "seconds"),
        [(Unavailable("x"), b"1"), (RateLimited("x", retry_after=7), b"7"), (RateLimited("x"), None)],
    )
    def test_says_when_to_come_again(self, error: AppError, seconds: bytes | None) -> None:
        assert answer_of(error)[1].get(b"retry-after") == seconds

    @KINDS
    def test_names_the_scheme_exactly_where_another_credential_would_do(self, kind: type[AppError]) -> None:
        status, headers, _ = answer_of(kind("x"))
        assert (b"www-authenticate" in headers) == (status in (401, 403))

    @pytest.mark.parametrize(
        ("error", "presented", "challenge"),
        [
            (Unauthorized("x"), False, 'Bearer realm="causeloop"'),
            (Unauthorized("x"), True, 'Bearer realm="causeloop", error="invalid_token"'),
            (InvalidGrant("x"), False, 'Bearer realm="causeloop"'),
            (Forbidden("x"), True, 'Bearer realm="causeloop", error="insufficient_scope"'),
            (
                Forbidden.lacking("secrets:read"),
                True,
                'Bearer realm="causeloop", error="insufficient_scope", scope="secrets:read"',
            ),
            (
                MfaRequired("x"),
                True,
                'Bearer realm="causeloop", error="insufficient_user_authentication", max_age="600"',
            ),
        ],
    )
    def test_has_the_reason_for_those_who_sent_a_token(self, error: AppError, presented: bool, challenge: str) -> None:
        """E23: the challenge has the members of RFC 6750, but none for a request without a token."""
        _, headers, _ = problem(error, "req_1", presented=presented)
        assert dict(headers)[b"www-authenticate"].decode() == challenge

    @pytest.mark.parametrize("name", ["n", "\U0001f600", "\x00", '"'], ids=["plain", "wide", "control", "quote"])
    def test_is_never_large(self, name: str) -> None:
        """E4: however many fields are wrong and however long their names are, a refusal has at most 4 KiB."""
        wrong = {f"{number}{name * 10_000}": ["is wrong" * 1000] * 50 for number in range(1000)}
        body = problem(InvalidInput.named(wrong, 16_000), "r" * 64)[2]
        assert len(body) <= LARGEST
        shown = orjson.loads(body)
        named = len(shown["errors"])
        assert 1 <= named <= 25
        assert shown["detail"] == f"The request has 16000 invalid fields; 'errors' names {named} of them."

    def test_with_a_long_sentence_is_not_large_either(self) -> None:
        assert len(problem(InvalidGrant("x" * 100_000), "req_1")[2]) <= LARGEST

    def test_has_a_schema_that_fits(self) -> None:
        described = openapi.document()["components"]["schemas"]["Problem"]
        body = answer_of(InvalidInput.of(name="x"))[2]
        assert set(body) == set(described["properties"])
        assert set(described["required"]) == set(answer_of(Unauthorized("x"))[2])
        assert described["properties"]["code"]["enum"] == sorted(STATUS)
