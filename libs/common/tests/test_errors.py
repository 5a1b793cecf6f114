"""The error tree: each code has its class, in the drawing and on the wire."""

import re

import pytest

from causeloop_common import errors
from causeloop_common.errors import AppError, Internal, InvalidInput, Unavailable

KINDS = AppError.kinds()


class TestTree:
    def test_the_drawing_shows_every_class_with_its_code_in_order(self) -> None:
        drawn = re.findall(r"[├└]── (\w+) +(\w+)", errors.__doc__ or "")

        assert drawn == [(kind.__name__, kind.code) for kind in KINDS]

    def test_no_two_classes_share_a_code(self) -> None:
        assert len({kind.code for kind in KINDS}) == len(KINDS)

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
    def test_each_class_says_what_it_means(self, kind: type[AppError]) -> None:
        assert kind.__doc__
        assert kind.__doc__ != AppError.__doc__


class TestFromWire:
    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
    def test_an_error_arrives_as_it_was_raised(self, kind: type[AppError]) -> None:
        shown = kind("Do this next.", fields={"name": ["is too long"]}, retry_after=7)

        heard = AppError.from_wire(shown.code, shown.detail, shown.fields, shown.retry_after)

        assert type(heard) is kind
        assert (heard.detail, heard.fields, heard.retry_after) == ("Do this next.", {"name": ["is too long"]}, 7)
        assert str(heard) == "Do this next."

    def test_a_code_of_a_newer_version_is_internal(self) -> None:
        heard = AppError.from_wire("teapot", "Short and stout.", None, None)

        assert type(heard) is Internal
        assert heard.detail == "Short and stout."


class TestInvalidInput:
    def test_names_each_field_with_its_reason(self) -> None:
        assert InvalidInput.of(name="is too long", slug="is taken").fields == {
            "name": ["is too long"],
            "slug": ["is taken"],
        }

    @pytest.mark.parametrize("name", ["cls", "self", "fields", "detail"])
    def test_a_field_can_have_any_name(self, name: str) -> None:
        assert InvalidInput.of(**{name: "is unknown"}).fields == {name: ["is unknown"]}


class TestUnavailable:
    def test_asks_to_retry_after_a_second_unless_set_otherwise(self) -> None:
        assert Unavailable("Try again.").retry_after == 1
        assert Unavailable("Try again.", retry_after=30).retry_after == 30
