"""Streams of the log: server-sent events that read the log by index, and end when their caller may no longer."""
