"""Rules of the vault: pure, no clock, no I/O, no randomness of their own."""
