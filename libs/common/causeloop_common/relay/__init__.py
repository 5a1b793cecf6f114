"""The relay: committed events to the stream, until the log has receipted each.

work       the relay: what is unpublished, in order; what is over
stream     a batch to the stream, and its acknowledgements
receipts   what the log has: rows confirmed, and those that are missing sent again
emptying   a partition that is over
parts      confirmations taken back, part by part
reconcile  the same, as an operator asks for it
"""

from causeloop_common.relay.work import Relay

__all__ = ["Relay"]
