"""The rule for names that people give: every character of one can be seen."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Label
from causeloop_common.contracts.names import visible

NAMES = TypeAdapter(Label)
UNBOUNDED = ("enum", "const", "format")


def texts(schema: Any, name: str = "") -> Any:
    """Each text in a schema, with the name of its field."""
    if isinstance(schema, list):
        for one in schema:
            yield from texts(one, name)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "string":
        yield name, schema
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            for field, one in value.items():
                yield from texts(one, field)
        elif key in ("items", "anyOf", "additionalProperties", "allOf", "propertyNames"):
            yield from texts(value, name)


class TestANameForPeople:
    @pytest.mark.parametrize(
        "text",
        ["Acme", "Zo\u00eb's caf\u00e9", "\u5c71\u7530 \u592a\u90ce", "\u05d3\u05d5\u05d3", "\u00e1", "\u2764\ufe0f",
         "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "R&D \u2013 2026"],
    )  # fmt: skip
    def test_of_any_script_is_taken(self, text: str) -> None:
        assert NAMES.validate_python(text) == text

    @pytest.mark.parametrize(
        ("text", "kept"),
        [("a\u0301", "\u00e1"), ("a\u00a0b", "a b"), ("a\u3000b", "a b"), ("a\u200ab", "a b"), ("\u212b", "\u00c5")],
    )
    def test_is_kept_in_one_form(self, text: str, kept: str) -> None:
        """E26: the same letter in two ways, or the same space, made two names that look the same."""
        assert NAMES.validate_python(text) == kept

    @pytest.mark.parametrize(
        "character",
        ["\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069", "\u061c", "\ufeff",
         "\u00ad", "\u2060", "\u2028", "\u2029", "\u0085", "\u3164", "\uffa0", "\u115f", "\u2800", "\u034f", "\ufe0f",
         "\ufe00", "\U000e0001", "\U000e0041", "\U000e0100", "\ue000", "\uffff", "\U0010ffff", "\u180e", "\x7f", "\n",
         "\ufffc", "\U0001d159", "\U00016fe4"],
        ids=ascii,
    )  # fmt: skip
    def test_with_a_character_that_is_not_seen_is_refused(self, character: str) -> None:
        """E26: nobody makes two names that look alike, or one that turns what stands after it."""
        for text in (f"adm{character}in", f"admin{character}x", f"x{character}{character}y"):
            with pytest.raises(ValidationError):
                NAMES.validate_python(text)

    def test_the_refusal_names_the_character_by_its_number(self) -> None:
        with pytest.raises(ValueError, match=r"or that turns the text: U\+202E$"):
            visible("a\u202eb")


class TestTextsOfCommands:
    @pytest.mark.parametrize("kind", topology.command_kinds().values(), ids=lambda kind: kind.subject)
    def test_are_bounded_and_a_name_has_the_one_rule(self, kind: Any) -> None:
        """E3, E26: each text of a command has a length or a form, and a name for people is a `Label`."""
        for name, schema in texts(kind.model_json_schema()):
            bounded = "maxLength" in schema or "pattern" in schema or any(key in schema for key in UNBOUNDED)
            assert bounded, f"{kind.__name__}.{name} has no bound"
        for name, field in kind.fields().items():
            if name == "name" and kind.service in ("auth", "tenancy"):
                assert visible in [getattr(one, "func", None) for one in field.metadata]

    @pytest.mark.parametrize("kind", topology.command_kinds().values(), ids=lambda kind: kind.subject)
    def test_with_a_pattern_do_not_end_in_a_line_break(self, kind: Any) -> None:
        """E7: a pattern holds for the whole text, its end included."""
        for name, field in kind.fields().items():
            trimmed = visible in [getattr(one, "func", None) for one in field.metadata]
            for example in field.examples or []:
                if isinstance(example, str) and "pattern" in str(field.metadata) and not trimmed:
                    with pytest.raises(ValidationError, match=name):
                        kind.model_validate({name: f"{example}\n"})
