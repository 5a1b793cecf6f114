"""Rules of tenancy: pure, no clock, no I/O, no randomness of their own."""
