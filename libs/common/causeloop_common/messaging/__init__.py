"""The bus: asking and answering commands, following events.

    call       ctx + command ──► token, deadline, trace, sealed body ──► reply or AppError
    answer     message ──► token verified ──► issuer and permission allowed ──► in time? ──► handler ──► reply

Promises: `Unavailable` means that the command did not run and will not: there was no connection or no responder, or
the queue was full. Once it is sent, no answer is `Timeout`, outcome unknown; a command that arrives after its
deadline is dropped unexecuted. Every failure is answered. Secrets are sealed for the receiver. Nothing larger than
the server's limit is sent, so no tenant can make it close a connection that others share.

Commands run directly on the NATS connection that the FastStream broker holds, since a framework's pipeline per message
costs more than the rest of the way; events are FastStream's (`docs/decisions/0003-lean-command-path.md`).

    wire         header names, the bound on size, refusals        replies    a request and its reply
    cloudevents  an event's headers, written and read             bus        the connection: call, follow
    commands     CommandRouter: answers commands                  events     EventRouter: follows a durable consumer
    connection   how a service connects, and reads its consumers  server     what the server must be
    progress     how long a consumer's oldest event has waited
    reach        whether what is sent reaches the streams
    workers      of commands, and those that wait aside for others
    linger       how long events gather before the next batch
    tolerance    reading whatever others may publish
"""

from causeloop_common.contracts.announced import event_headers
from causeloop_common.messaging.bus import Answer, Bus, StreamEnds
from causeloop_common.messaging.cloudevents import announced, public_subject, read_event
from causeloop_common.messaging.commands import CommandRouter
from causeloop_common.messaging.events import EventRouter
from causeloop_common.messaging.linger import Linger
from causeloop_common.messaging.progress import Progress, WrongConsumer, consumer_state
from causeloop_common.messaging.wire import invalid_input
from causeloop_common.messaging.workers import aside

__all__ = [
    "Answer",
    "Bus",
    "CommandRouter",
    "EventRouter",
    "Linger",
    "Progress",
    "StreamEnds",
    "WrongConsumer",
    "announced",
    "aside",
    "consumer_state",
    "event_headers",
    "invalid_input",
    "public_subject",
    "read_event",
]
