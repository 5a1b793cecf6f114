"""Rules of the log: pure, no clock, no I/O, no randomness of their own."""
