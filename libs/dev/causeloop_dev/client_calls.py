"""The client's calls and replies as a module of Python, written from the OpenAPI document: a class for each.

Nobody writes it by hand, so it is dense: a call's fields are described, those of a reply share lines.
"""

import json
import keyword
import textwrap
from typing import Any

_HEAD = '''\
"""Every operation of the HTTP interface and what it answers. Written by `make schemas`: change the contracts."""
# fmt: off
# ruff: noqa: D204, E702, I001

from typing import Any, Literal, NotRequired, TypedDict

from causeloop_client.call import Call, List
'''
_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_WIDTH = 116
"""Of a line in a class."""
_UNBROKEN = "\xa0"

Schema = dict[str, Any]


def module(document: Schema) -> str:
    """The module's text: what is referred to comes first."""
    classes = _Classes(document["components"])
    calls = [
        classes.call(f"{method.upper()} {path.removeprefix('/v1')}", operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "text/event-stream" not in _answer(operation)
    ]
    return "\n".join([_HEAD, *classes.replies.values(), *calls])


class _Classes:
    """The classes of calls and, by name, of the replies that they refer to."""

    def __init__(self, components: Schema) -> None:
        self._components = components
        self.replies: dict[str, str] = {}

    def call(self, route: str, operation: Schema) -> str:
        """An operation: path, query and body are its fields, those that it needs first."""
        name = "".join(word.title() for word in operation["operationId"].split("_"))
        parameters = [self._resolved(parameter) for parameter in operation.get("parameters", [])]
        given = {each["name"]: {**each, **each["schema"]} for each in parameters if each["in"] != "header"}
        body = self._resolved(_json(operation.get("requestBody", {}).get("content", {})))
        fields = given | body.get("properties", {})
        required = {field for field, each in given.items() if each["required"]} | {*body.get("required", [])}
        reply = self._type(_json(_answer(operation)) or {"type": "null"})
        base = reply if reply.startswith("List[") else f"Call[{reply}]"
        keyed = ", keyed=True" if any(each["name"] == "Idempotency-Key" for each in parameters) else ""
        lines = []
        for field in sorted(fields, key=lambda field: field not in required):
            if base != reply or field not in ("limit", "cursor"):
                kind = self._type(fields[field]).removesuffix(" | None")
                shown = f"{field}_" if keyword.iskeyword(field) else field
                line = f"{shown}: {kind}{'' if field in required else ' | None = None'}"
                comment = f"# {fields[field]['description']}"
                if len(f"{line}  {comment}") > _WIDTH:
                    lines += textwrap.wrap(comment, _WIDTH, subsequent_indent="# ")
                    lines.append(line)
                else:
                    lines.append(f"{line}  {comment}")
        return _class(f'class {name}({base}, route="{route}"{keyed}):', operation["summary"], lines)

    def _resolved(self, node: Schema) -> Schema:
        *_, kind, name = node.get("$ref", "//").split("/")
        return dict(self._components[kind][name]) if name else node

    def _type(self, schema: Schema) -> str:
        """The annotation of a value."""
        match schema:
            case {"$ref": reference}:
                return self._named(reference.rpartition("/")[2])
            case {"const": value}:
                return f"Literal{json.dumps([value])}"
            case {"enum": values}:
                return f"Literal{json.dumps(values)}"
            case {"anyOf": options}:
                return " | ".join(map(self._type, options))
            case {"type": "array", "items": items}:
                return f"list[{self._type(items)}]"
            case {"type": "object"}:
                values = [*schema.get("patternProperties", {}).values()]
                return f"dict[str, {self._type(values[0]) if values else 'Any'}]"
            case _:
                return _TYPES[schema["type"]]

    def _named(self, name: str) -> str:
        schema = self._components["schemas"][name]
        if "properties" not in schema:
            return _TYPES[schema["type"]]  # of an enumeration that may have more values one day
        properties = schema["properties"]
        if properties.keys() >= {"data", "page"}:
            return f"List[{self._type(properties['data']['items'])}]"
        types = {field: self._type(one) for field, one in properties.items()}
        required = schema.get("required", [])
        types = {field: kind if field in required else f"NotRequired[{kind}]" for field, kind in types.items()}
        if any(map(keyword.iskeyword, types)):
            described = ", ".join(f'"{field}": {kind}' for field, kind in types.items())
            self.replies[name] = f'{name} = TypedDict("{name}", {{{described}}})\n"""{schema["description"]}"""\n'
        else:
            fields = "; ".join(f"{field}: {kind}".replace(" ", _UNBROKEN) for field, kind in types.items())
            lines = [line.replace(_UNBROKEN, " ").rstrip(";") for line in textwrap.wrap(fields, _WIDTH)]
            self.replies[name] = _class(f"class {name}(TypedDict):", schema["description"], lines)
        return name


def _class(head: str, described: str, fields: list[str]) -> str:
    lines = [*textwrap.wrap(f'"""{described.rstrip(".")}."""', _WIDTH), *fields]
    return "\n".join([head, *(f"    {line}" for line in lines), ""])


def _answer(operation: Schema) -> Schema:
    """The content of an operation's success."""
    return dict(next(answer for status, answer in operation["responses"].items() if status < "3").get("content", {}))


def _json(content: Schema) -> Schema:
    return dict(content.get("application/json", {}).get("schema", {}))
