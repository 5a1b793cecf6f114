"""`causeloop dead`: the events that a service could not handle, listed, shown, and given back to their consumer.

A letter is numbered by its place in the stream DEAD. It is an event as it was announced: attributes and data, in which
secrets are sealed. `redrive` gives it to the consumer that failed, and to no other, then removes the letter; an event
that fails again is a new letter. `drop` removes a letter whose event nobody can handle.
"""

import argparse
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import nats.js.errors
import orjson
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from causeloop_cli import operating
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import ATTRIBUTES
from causeloop_common.contracts.topology import DEAD
from causeloop_common.messaging.cloudevents import FAILURE, SUBJECT, letter_headers
from causeloop_common.settings import SettingsError

_NONE = "There are no dead letters."


def main(options: argparse.Namespace) -> int:
    """Print, redrive or drop dead letters."""
    return operating.run(partial(_act, options))


async def _act(options: argparse.Namespace, stream: JetStreamContext) -> None:
    if options.action == "list":
        count = 0
        async for letter in letters(stream):
            count += 1
            print(line(letter))
        print(_NONE if not count else "1 dead letter." if count == 1 else f"{count} dead letters.")
    elif options.action == "show":
        print("\n".join(description(await find(stream, options.number))))
    else:
        found = await chosen(stream, options)
        if not found:
            print(_NONE)
        elif options.action == "drop":
            for letter in found:
                await drop(stream, letter)
                print(f"{letter.seq}: removed")
        else:
            known = [letter for letter in found if _is_known(letter)] if options.all else found
            await _redrive(stream, known)
            if left := len(found) - len(known):
                print(f"{left} are of no consumer of this version, and left: `causeloop dead list` shows them.")


async def _redrive(stream: JetStreamContext, found: Sequence[RawStreamMsg]) -> None:
    """Redrive letters; one that cannot be redriven keeps no other back."""
    refused = []
    for letter in found:
        try:
            await redrive(stream, letter)
            print(f"{letter.seq}: given back to {_consumer(letter)}")
        except SettingsError as error:
            refused.append(str(error))
    if len(refused) < len(found):
        print("An event that fails again comes back under a new number: look again in a minute.")
    if refused:
        raise SettingsError("\n".join(refused))


async def letters(stream: JetStreamContext) -> AsyncIterator[RawStreamMsg]:
    """Every dead letter, oldest first."""
    number = 1
    while True:
        try:
            letter = await stream.get_msg(DEAD.name, seq=number, subject="dead.>", next=True)
        except nats.js.errors.NotFoundError:
            return
        yield letter
        number = (letter.seq or number) + 1


async def find(stream: JetStreamContext, number: int) -> RawStreamMsg:
    """The letter of this number; SettingsError without one."""
    try:
        return await stream.get_msg(DEAD.name, seq=number)
    except nats.js.errors.NotFoundError as error:
        raise SettingsError(f"There is no dead letter {number}. `causeloop dead list` shows them.") from error


async def chosen(stream: JetStreamContext, options: argparse.Namespace) -> Sequence[RawStreamMsg]:
    """The letters that are named, or all; SettingsError when none is named, or one is not there."""
    if bool(options.numbers) == options.all:
        given = "not both" if options.all else f"such as `causeloop dead {options.action} 7 9`"
        raise SettingsError(f"Name dead letters by their numbers or ask for --all, {given}.")
    if options.all:
        return [letter async for letter in letters(stream)]
    return [await find(stream, number) for number in options.numbers]


async def redrive(stream: JetStreamContext, letter: RawStreamMsg) -> None:
    """Give a letter back to its consumer, and remove it.

    It has no id for the stream, which others could take first: what was interrupted in between is delivered twice, and
    the consumer's inbox makes that one effect. SettingsError when it is gone by now, when it is of no consumer, and
    when another service wrote it than the consumer's: the bus guards the service in its subject, and such a letter
    would have the consumer handle an event that nobody announced.
    """
    await find(stream, letter.seq or 0)
    consumer = next((one for one in topology.CONSUMERS if one.name == _consumer(letter)), None)
    if consumer is None:
        raise SettingsError(f"Letter {letter.seq} is of {_consumer(letter)}, which this version has not.")
    if (author := _author(letter)) != consumer.service:
        raise SettingsError(
            f"Letter {letter.seq} is no event that {consumer.name} failed to handle, since {author} wrote it: "
            f"change the credential of {author}."
        )
    carried = letter.headers or {}
    headers = letter_headers("", carried, carried.get(FAILURE, ""))
    await stream.publish(topology.redrive(consumer), letter.data or b"", headers=headers)
    await drop(stream, letter)


async def drop(stream: JetStreamContext, letter: RawStreamMsg) -> None:
    """Remove a letter."""
    await stream.purge_stream(DEAD.name, subject=letter.subject)


def line(letter: RawStreamMsg) -> str:
    """A letter in one line: number, time of its death, consumer, event, tenant, failure."""
    headers = _printable(letter)
    _, tenant, *event = headers.get(SUBJECT, "...").split(".")
    when = letter.time.isoformat(timespec="seconds") if letter.time else "-"
    return f"{letter.seq}  {when}  {_consumer(letter)}  {'.'.join(event)}  {tenant}  {headers.get(FAILURE, '-')}"


def description(letter: RawStreamMsg) -> list[str]:
    """A letter's lines: its attributes, and its data as JSON."""
    headers = _printable(letter)
    names = {FAILURE: "failure", SUBJECT: "subject"} | {one.header: name for name, one in ATTRIBUTES.items()}
    try:
        data: Any = orjson.dumps(orjson.loads(letter.data or b""), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        data = f"{len(letter.data or b'')} bytes that are no JSON"
    attributes = [f"{name:<12}{headers[header]}" for header, name in names.items() if header in headers]
    return [f"{'consumer':<12}{_consumer(letter)}", *attributes, data]


def _is_known(letter: RawStreamMsg) -> bool:
    """Whether a letter is of a consumer of this version, and its service wrote it: others hold up none of these."""
    return (_author(letter), _consumer(letter)) in {(one.service, one.name) for one in topology.CONSUMERS}


def _author(letter: RawStreamMsg) -> str:
    """The service that wrote the letter."""
    return (letter.subject or "..").split(".")[1]


def _consumer(letter: RawStreamMsg) -> str:
    return (letter.subject or "..").split(".")[2]


def _printable(letter: RawStreamMsg) -> dict[str, str]:
    """The headers, without anything that would steer a terminal."""
    return {name: "".join(filter(str.isprintable, text)) for name, text in (letter.headers or {}).items()}
