"""The `causeloop` command: run, migrate, check and measure an installation."""
