"""Rules of identity: pure, no clock, no I/O, no randomness of their own."""
