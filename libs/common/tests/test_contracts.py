"""The messages between services: subjects, permissions, and secrets that never travel in clear."""

import json
import pickle
import re
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace, new_class
from typing import Annotated, Any, ForwardRef

import pytest
from pydantic import Field, ValidationError, create_model

from causeloop_common import ids
from causeloop_common.contracts import audit, auth, topology, vault
from causeloop_common.contracts.auth import Exchange
from causeloop_common.contracts.base import (
    PAGE_BYTES,
    Command,
    Event,
    Message,
    Sealed,
    WorkspaceId,
    commands,
    events,
    jobs,
)
from causeloop_common.contracts.lists import List, Page, page
from causeloop_common.contracts.personal import Personal, mark
from causeloop_common.contracts.purpose import purposes
from causeloop_common.contracts.tenancy import CreateWorkspace, MemberAdded, Resolve
from causeloop_common.contracts.vault import (
    Encrypt,
    Encrypted,
    EncryptedItem,
    ItemError,
    PutSecret,
    RevealedSecret,
    Seal,
)
from causeloop_common.messaging import invalid_input
from causeloop_common.permissions import OF_THE_JOB, SELF, Internal, Permission

CANARY = "s3cr3t-canary"
COMMANDS = list(topology.command_kinds().values())
EVENTS = [kind for owner in topology.OWNERS.values() for kind in events(owner)]


class TestCommands:
    def test_subject_and_operation_follow_from_owner_and_name(self) -> None:
        assert (PutSecret.subject, PutSecret.service, PutSecret.operation) == (
            "cmd.vault.put_secret",
            "vault",
            "put_secret",
        )
        assert Exchange.subject == "cmd.auth.exchange"
        assert audit.ListEvents.subject == "cmd.audit.list_events"

    @pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.subject)
    def test_each_is_declared_in_full(self, kind: type[Command[Any]]) -> None:
        assert re.fullmatch(rf"cmd\.{kind.service}\.[a-z]+(?:_[a-z]+)*", kind.subject)
        assert kind.permission in {*Permission, *Internal, SELF, OF_THE_JOB}
        assert kind.issuers <= set(topology.SERVICES) - {kind.service}
        assert issubclass(kind.reply, Message)
        assert 0 < kind.timeout <= 60
        assert kind.__doc__
        assert kind.__doc__ != Command.__doc__

    @pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.subject)
    def test_an_unknown_field_is_refused(self, kind: type[Command[Any]]) -> None:
        with pytest.raises(ValidationError, match=r"(?s)surprise\n  Extra inputs are not permitted"):
            kind.model_validate({"surprise": 1})

    @pytest.mark.parametrize("kind", [k for k in COMMANDS if issubclass(k.reply, Page)], ids=lambda kind: kind.subject)
    def test_a_list_takes_a_limit_of_1_to_100_and_a_position(self, kind: type[Command[Any]]) -> None:
        assert kind().model_dump(include={"limit", "position"}) == {"limit": 25, "position": None}
        for limit in (0, 101, -1):
            with pytest.raises(ValidationError, match="limit"):
                kind.model_validate({"limit": limit})
        with pytest.raises(ValidationError, match="position"):
            kind.model_validate({"position": "x" * 513})

    def test_only_an_internal_permission_lets_others_than_the_gateway_ask(self) -> None:
        for kind in COMMANDS:
            assert kind.issuers == {"gateway"} or kind.permission in set(Internal)
        assert Resolve.issuers == {"gateway", "auth", "vault"}
        assert Seal.issuers == {"auth"}

    def test_the_vault_reads_every_purpose_from_the_contract_of_its_issuer(self) -> None:
        declared = {(name, each) for name, owner in topology.ANNOUNCERS.items() for each in purposes(owner)}

        assert {purpose for _, purpose in declared} == set(vault.PURPOSES)
        assert all(purpose.ends is None or purpose.ends.type.startswith(f"{name}.") for name, purpose in declared)
        assert len({str(purpose) for purpose in vault.PURPOSES}) == len(vault.PURPOSES)
        for owner_name, purpose in declared:
            assert purpose.issuer == owner_name
            Seal.model_validate({"purpose": purpose.name, "record": "r", "plaintext": ""})
        assert Seal.issuers == {purpose.issuer for purpose in vault.PURPOSES}

    def test_a_message_is_made_of_a_record_and_what_it_lacks(self) -> None:
        record = SimpleNamespace(id=ids.new("sec"), path="a/b", version=2, sealed="not a field of the message")

        revealed = RevealedSecret.of(record, value="hush")

        assert (revealed.id, revealed.path, revealed.version) == (record.id, "a/b", 2)
        assert revealed.value.get_secret_value() == "hush"
        with pytest.raises(AttributeError, match="value"):
            RevealedSecret.of(record)
        with pytest.raises(ValidationError, match="id\n"):
            RevealedSecret.of(record, id="sec_1", value="hush")

    def test_a_message_cannot_be_changed(self) -> None:
        command = PutSecret.model_validate({"path": "a", "value": CANARY})

        with pytest.raises(ValidationError, match="frozen"):
            command.path = "b"  # type: ignore[misc]


class TestEvents:
    def test_type_follows_from_owner_and_name(self) -> None:
        assert (MemberAdded.type, MemberAdded.target) == ("tenancy.member_added", "person_id")

    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.type)
    def test_each_is_declared_in_full(self, kind: type[Event]) -> None:
        assert re.fullmatch(r"(auth|tenancy|vault|audit)\.[a-z]+(?:_[a-z]+)*", kind.type)
        assert kind.target in kind.model_fields
        assert not kind.is_sealed  # an event goes to many; what must be sealed is sealed by the vault
        assert kind.__doc__

    def test_a_reader_passes_over_fields_it_does_not_know(self) -> None:
        person = ids.realm("https://issuer.test", "user_1")
        answer = {"person_id": person, "role": "owner", "added_in_a_later_version": {"deep": 1}}

        event = MemberAdded.model_validate_json(json.dumps(answer))

        assert event == MemberAdded(person_id=person, role="owner")
        assert event.target_id == person

    def test_a_target_that_is_no_field_is_refused_where_it_is_declared(self) -> None:
        with pytest.raises(TypeError, match="Wrong: the target 'thing_id' is not one of its fields"):

            class Wrong(Event, target="thing_id"):
                person_id: str


class TestRetired:
    @pytest.mark.parametrize("owner", topology.OWNERS.values(), ids=topology.OWNERS)
    def test_no_message_has_a_retired_name(self, owner: Any) -> None:
        alive = {name for name, kind in vars(owner).items() if isinstance(kind, type) and issubclass(kind, Message)}

        assert isinstance(owner.RETIRED, frozenset)
        assert alive.isdisjoint(owner.RETIRED)

    def test_no_two_messages_share_a_subject_or_type(self) -> None:
        names = [kind.subject for kind in COMMANDS] + [kind.type for kind in EVENTS]

        assert len(set(names)) == len(names)


class TestIds:
    def test_an_id_of_another_kind_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="is not an id of the form tok_…"):
            auth.RevokeApiToken(id=ids.new("sec"))

    def test_a_realm_is_no_workspace_whatever_it_is_called(self) -> None:
        class Where(Message):
            id: WorkspaceId

        with pytest.raises(ValidationError, match="is not the id of a tenant"):
            Where(id=ids.INSTALLATION.replace("usr_", "ws_"))

    def test_the_schema_says_what_one_looks_like(self) -> None:
        schema = auth.RevokeApiToken.model_json_schema()["properties"]["id"]

        assert re.match(schema["pattern"], ids.new("tok"))
        assert not re.match(schema["pattern"], ids.new("sec"))


class Nested(Message):
    """Secrets in every place where one can be."""

    many: list[Sealed] = Field(default_factory=list)
    named: dict[str, Sealed] = Field(default_factory=dict)
    perhaps: Sealed | None = None
    deep: PutSecret | None = None
    clear: str = ""


NESTED: dict[str, Any] = {
    "many": [CANARY, CANARY],
    "named": {"a": CANARY},
    "perhaps": CANARY,
    "deep": {"path": "a", "value": CANARY},
    "clear": "seen",
}


class TestSealed:
    @pytest.mark.parametrize(
        "field",
        [
            Sealed,
            Sealed | None,
            list[Sealed],
            dict[str, Sealed],
            PutSecret,
            PutSecret | None,
            list[PutSecret],
            tuple[int, list[PutSecret | None]],
            Annotated[list[Annotated[Nested, "a mark"]], Field(max_length=1)],
        ],
        ids=[
            "a secret", "a secret or none", "secrets", "secrets by name", "a message", "a message or none", "messages",
            "messages in a tuple", "marked messages",
        ],
    )  # fmt: skip
    def test_a_message_with_a_secret_anywhere_is_sealed(self, field: Any) -> None:
        message = create_model("Holder", __base__=Message, field=(field, ...), clear=(str, ""))

        assert message.is_sealed
        assert create_model("HoldersHolder", __base__=Message, holder=(message | None, None)).is_sealed

    def test_a_field_whose_type_is_not_there_yet_is_refused(self) -> None:
        """It might hold a secret, and the message would cross the bus in clear."""
        with pytest.raises(TypeError, match=r"^Early has a field of a type that comes later"):
            create_model("Early", __base__=Message, field=(ForwardRef("Later"), ...))  # type: ignore[arg-type]

    def test_a_message_without_a_secret_is_not(self) -> None:
        assert not vault.SecretView.is_sealed
        assert not vault.SecretPage.is_sealed
        assert not create_model("Clear", __base__=Message, field=(list[dict[str, str]], ...)).is_sealed

    def test_those_of_every_file_of_an_owner_are_the_owner_s(self) -> None:
        nouns = [import_module(f"{vault.__name__}.{file.name}") for file in iter_modules(vault.__path__)]

        for found in (commands, events, jobs):
            assert {kind for noun in nouns for kind in found(noun)} <= set(found(vault))
        assert len(nouns) == 5

    def test_these_messages_are_sealed_and_no_others(self) -> None:
        asked = topology.command_kinds().values()
        messages = {kind.__name__: kind.is_sealed for kind in (*asked, *(kind.reply for kind in asked))}

        assert {name for name, is_sealed in messages.items() if is_sealed} == {
            "Exchange", "Refresh", "Grant", "Authenticate", "CreatedApiToken", "PutSecret", "RevealedSecret", "Encrypt",
            "Decrypt", "Decrypted", "Seal", "StoreSealedValue", "OpenedValue",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "show",
        [
            pytest.param(repr, id="repr"),
            pytest.param(str, id="str"),
            pytest.param("{}".format, id="format"),
            pytest.param(lambda m: repr(m.model_dump()), id="dump"),
            pytest.param(lambda m: str(m.model_dump(mode="json")), id="dump as JSON"),
            pytest.param(lambda m: m.model_dump_json(), id="JSON"),
            pytest.param(lambda m: repr(dict(m)), id="dict"),
            pytest.param(lambda m: repr(m.model_copy()), id="copy"),
            pytest.param(lambda m: repr(list(m.__repr_args__())), id="repr args"),
            pytest.param(lambda m: repr(pickle.loads(pickle.dumps(m))), id="copy through pickle"),  # noqa: S301
        ],
    )
    def test_prints_as_stars(self, show: Any) -> None:
        shown = show(Nested.model_validate(NESTED))

        assert CANARY not in shown
        assert "**********" in shown
        assert "seen" in shown

    def test_leaves_no_trace_in_a_refusal(self) -> None:
        with pytest.raises(ValidationError) as refused:
            PutSecret.model_validate({"path": "/no/", "value": CANARY, "surprise": CANARY, "version": CANARY})

        answer = invalid_input(refused.value)
        assert set(answer.fields or {}) == {"path", "version", "surprise"}
        for text in (str(refused.value), repr(refused.value), str(answer), repr(answer.fields)):
            assert CANARY not in text

    def test_too_long_is_refused_without_repeating_it(self) -> None:
        PutSecret.model_validate({"path": "a", "value": "x" * 65_536})
        with pytest.raises(ValidationError, match="at most 65536") as refused:
            PutSecret.model_validate({"path": "a", "value": CANARY + "x" * 65_536})

        assert CANARY not in repr(refused.value)

    def test_only_its_json_for_sealing_and_for_the_client_has_it_in_clear(self) -> None:
        sent = Nested.model_validate(NESTED)

        assert json.loads(sent.to_json()) == {**NESTED, "deep": {"path": "a", "value": CANARY, "version": None}}
        read = Nested.from_json(sent.to_json())
        assert read == sent
        assert read.perhaps is not None
        assert read.perhaps.get_secret_value() == CANARY
        assert read.deep is not None
        assert read.deep.value.get_secret_value() == CANARY
        assert [secret.get_secret_value() for secret in (*read.many, *read.named.values())] == [CANARY] * 3

    def test_a_long_secret_may_have_more_bytes_than_letters(self) -> None:
        sent = PutSecret.model_validate({"path": "a", "value": "é" * 65_536})

        assert PutSecret.from_json(sent.to_json()).value.get_secret_value() == "é" * 65_536

    @pytest.mark.parametrize(
        ("field", "value"), [("clear", 1), ("perhaps", 1), ("many", {}), ("more", 1), ("deep", {"path": "a"})]
    )
    def test_is_read_strictly_and_leaves_no_trace_in_a_refusal(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field) as refused:
            Nested.from_json(json.dumps({**NESTED, field: value}).encode())
        assert CANARY not in repr(refused.value)

    def test_the_schema_calls_it_a_password(self) -> None:
        schema = PutSecret.model_json_schema()["properties"]["value"]

        assert (schema["format"], schema["x-sealed"], schema["maxLength"]) == ("password", True, 65_536)

    def test_the_schema_says_which_messages_hold_one(self) -> None:
        schema = Encrypt.model_json_schema()

        assert schema["x-sealed"] is True
        assert schema["properties"]["items"]["anyOf"][0]["items"] == {"$ref": "#/$defs/PlainItem"}
        assert schema["$defs"]["PlainItem"]["properties"]["plaintext"]["x-sealed"] is True
        assert "x-sealed" not in vault.SecretView.model_json_schema()


class TestOneFormOrAnother:
    def test_what_an_answer_does_not_have_is_left_out(self) -> None:
        assert Encrypted(ciphertext="c").to_json() == b'{"ciphertext":"c"}'
        items = [EncryptedItem(ciphertext="c"), EncryptedItem(error=ItemError(code="x", detail="No."))]
        assert Encrypted(results=items).to_json() == (
            b'{"results":[{"ciphertext":"c"},{"error":{"code":"x","detail":"No."}}]}'
        )


class TestTexts:
    @pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", "a\x7f", "x" * 121])
    def test_a_label_is_short_and_has_no_control_characters(self, name: str) -> None:
        with pytest.raises(ValidationError, match="name"):
            CreateWorkspace(name=name, slug="a")

    def test_a_label_is_trimmed_and_may_be_in_any_script(self) -> None:
        assert CreateWorkspace(name="  Ünïcode 世界 ", slug="a").name == "Ünïcode 世界"

    @pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a b", "a.b", "é", "x" * 49, "a\n"])
    def test_a_slug_is_lower_case_letters_digits_and_hyphens(self, slug: str) -> None:
        with pytest.raises(ValidationError, match="slug"):
            CreateWorkspace(name="a", slug=slug)

    @pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "é", "a\n", "x" * 257])
    def test_a_secrets_path_has_one_spelling(self, path: str) -> None:
        with pytest.raises(ValidationError, match="path"):
            PutSecret.model_validate({"path": path, "value": CANARY})

    @pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "europe/berlin"])
    def test_a_time_zone_is_one_of_the_iana_database(self, zone: str) -> None:
        with pytest.raises(ValidationError, match="is not a time zone of the IANA database"):
            CreateWorkspace(name="a", slug="a", timezone=zone)


class TestLists:
    def test_a_field_that_is_neither_filter_nor_tried_is_refused(self) -> None:
        line = {"table": "things", "orders": {"name": "name"}, "permission": "self"}
        with pytest.raises(TypeError, match="'filters' and 'tried' are not its fields: colour"):
            new_class("ListThings", (List[vault.SecretPage],), {**line, "filters": {"colour": "colour"}})

    def test_needs_an_index_for_each_order_and_each_filter(self) -> None:
        assert {*audit.ListEvents.indexes()} == {
            ("workspace_id", "index"),
            ("workspace_id", "actor", "index"),
            ("workspace_id", "target", "index"),
        }
        assert [*auth.ListApiTokens.indexes()] == [("workspace_id", "owner", "id")]

    def test_a_page_is_cut_at_its_limit_and_at_its_bytes_after_one_at_least(self) -> None:
        found = [auth_view(number) for number in range(4)]
        command = auth.ListApiTokens(limit=3)
        assert command.wanted == 4
        whole = page(found[:3], command, key=lambda one: one.name)
        assert (len(whole.data), whole.next_position) == (3, None)
        cut = page(found, command, key=lambda one: one.name)
        assert (len(cut.data), cut.next_position) == (3, "2")
        heavy = page(found, command, key=lambda one: one.name, size=lambda one: PAGE_BYTES)
        assert (len(heavy.data), heavy.next_position) == (1, "0")
        assert page([], command, key=str).next_position is None


def auth_view(number: int) -> auth.ApiTokenView:
    now = datetime.now(UTC)
    return auth.ApiTokenView(
        id=ids.new("tok"),
        name=str(number),
        scopes=[],
        owner=ids.realm("issuer", "subject"),
        created_at=now,
        expires_at=now,
        revoked_at=None,
    )


EMAIL = Personal("email address", "with the row")


class TestPersonalData:
    @pytest.mark.parametrize(
        "shape",
        [Annotated[str, EMAIL], Annotated[str | None, EMAIL], list[Annotated[str, EMAIL]]],
        ids=["text", "optional", "list"],
    )
    def test_an_event_with_some_in_clear_is_refused(self, shape: Any) -> None:
        body = {"__annotations__": {"id": str, "mail": shape}, "__module__": __name__}
        with pytest.raises(TypeError, match=r"^Noted has personal data in clear, for ever: mail\.$"):
            new_class("Noted", (Event,), {"target": "id"}, lambda namespace: namespace.update(body))

    def test_every_event_has_its_in_the_vault_s_format(self) -> None:
        marked = {
            f"{kind.type}.{name}"
            for owner in topology.ANNOUNCERS.values()
            for kind in events(owner)
            for name, field in kind.model_fields.items()
            if mark(field) is not None
        }
        assert marked == {"auth.session_started.sealed"}
        with pytest.raises(ValidationError, match="String should match pattern"):
            auth.SessionStarted(session_id=ids.new("ses"), sealed="203.0.113.9")

    def test_a_message_s_text_leaves_it_out(self) -> None:
        class Noted(Message):
            name: str
            mail: Annotated[str, EMAIL]

        answer = Noted(name="a", mail="alice@example.com")
        assert repr(answer) == "Noted(name='a', mail='[personal]')"
        assert "alice" not in str(answer)
        assert answer.to_json() == b'{"name":"a","mail":"alice@example.com"}'
