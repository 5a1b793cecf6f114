"""The development stack: embedded PostgreSQL, mock issuer, supervisor, demo, seed, test fixtures."""
