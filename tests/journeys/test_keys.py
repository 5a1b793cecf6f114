"""A workspace encrypts its own data: over HTTP, in one item and in many, with nothing but its record in the log."""

import base64
from typing import Any

from tests.support.stack import Person, content_of, refused

CREATE = {"name": "orders", "type": "aes256-gcm"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def sealed(person: Person, text: str, **context: str) -> str:
    answer = content_of(await person.post("/keys/orders/encrypt", json={"plaintext": b64(text), "context": context}))
    assert set(answer) == {"ciphertext"}
    return str(answer["ciphertext"])


class TestNamedKeys:
    async def test_encrypt_and_decrypt_one_and_many(self, owner: Person) -> None:
        made = content_of(await owner.post("/keys", json=CREATE), 201)
        assert (made["name"], made["type"], made["version"]) == ("orders", "aes256-gcm", 1)
        assert content_of(await owner.get("/keys"))["data"] == [made]

        ciphertext = await sealed(owner, "zwei ✓", row="2")
        back = await owner.post("/keys/orders/decrypt", json={"ciphertext": ciphertext, "context": {"row": "2"}})
        assert content_of(back) == {"plaintext": b64("zwei ✓")}

        texts = [f"text {number}" for number in range(1000)]
        items: list[dict[str, Any]] = [{"plaintext": b64(t), "context": {"row": str(n)}} for n, t in enumerate(texts)]
        items[500]["plaintext"] = "no base64"
        many = content_of(await owner.post("/keys/orders/encrypt", json={"items": items}))["results"]
        assert many[500] == {"error": {"code": "validation_error", "detail": "The plaintext is not base64."}}
        assert {frozenset(one) for one in many} == {frozenset({"ciphertext"}), frozenset({"error"})}

        asked = [
            {"ciphertext": one.get("ciphertext", "clv1:1:x"), "context": {"row": str(number)}}
            for number, one in enumerate(many)
        ]
        shown = content_of(await owner.post("/keys/orders/decrypt", json={"items": asked}))["results"]
        not_opened = {
            "error": {
                "code": "validation_error",
                "detail": "The ciphertext does not open under this key in this context.",
            }
        }
        assert shown == [not_opened if n == 500 else {"plaintext": b64(t)} for n, t in enumerate(texts)]

        log = [entry for entry in await owner.log(least=6) if entry["target"] == made["id"]]
        assert [(entry["action"], entry["data"]) for entry in log] == [
            ("vault.key_created", {"key_id": made["id"], "version": 1}),
            ("vault.data_decrypted", {"key_id": made["id"], "count": 1}),
            ("vault.data_decrypted", {"key_id": made["id"], "count": 999}),
        ]

    async def test_a_ciphertext_is_worth_nothing_elsewhere(self, owner: Person, stranger: Person) -> None:
        for person in (owner, stranger):
            content_of(await person.post("/keys", json=CREATE), 201)
        ciphertext = await sealed(owner, "mine")
        answer = await stranger.post("/keys/orders/decrypt", json={"ciphertext": ciphertext})
        problem = refused(answer, 422, "validation_error")
        assert problem["errors"] == {"ciphertext": ["does not open under this key in this context"]}
        refused(await stranger.post("/keys/other/decrypt", json={"ciphertext": ciphertext}), 404, "not_found")

    async def test_rights_are_three(self, owner: Person) -> None:
        reads, uses, writes = [
            (await owner.personal_token(scope))["token"] for scope in ("keys:read", "keys:use", "keys:write")
        ]
        content_of(await owner.post("/keys", json=CREATE, token=writes), 201)
        content_of(await owner.get("/keys", token=reads))
        content_of(await owner.post("/keys/orders/encrypt", json={"plaintext": ""}, token=uses))
        for token in (reads, uses):
            refused(await owner.post("/keys", json=CREATE, token=token), 403, "forbidden")
        for token in (writes, uses):
            refused(await owner.get("/keys", token=token), 403, "forbidden")
        for token in (reads, writes):
            for verb in ("encrypt", "decrypt"):
                refused(await owner.post(f"/keys/orders/{verb}", json={"plaintext": ""}, token=token), 403, "forbidden")

    async def test_what_is_no_request_is_refused_by_field(self, owner: Person) -> None:
        content_of(await owner.post("/keys", json=CREATE), 201)
        refused(await owner.post("/keys", json=CREATE), 409, "conflict")
        forms: dict[str, dict[str, Any]] = {
            "plaintext": {},
            "items": {"items": [{"plaintext": ""}] * 1001},
            "items.0.plaintext": {"items": [{"plaintext": 5}]},
            "items.1.more": {"items": [{"plaintext": ""}, {"plaintext": "", "more": 1}]},
            "context": {"plaintext": "", "context": {str(number): "" for number in range(17)}},
            "name": {"plaintext": "", "name": "other"},
        }
        for field, form in forms.items():
            problem = refused(await owner.post("/keys/orders/encrypt", json=form), 422, "validation_error")
            assert field in problem["errors"], problem
        large = {"items": [{"plaintext": "A" * 60_000}] * 20}
        refused(await owner.post("/keys/orders/encrypt", json=large), 413, "payload_too_large")
