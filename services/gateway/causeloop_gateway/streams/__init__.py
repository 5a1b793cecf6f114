"""Streams of the log: server-sent events that read the log by index, and end when the caller loses the right to it."""
