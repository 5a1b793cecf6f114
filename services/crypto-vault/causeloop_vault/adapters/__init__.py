"""The outside world of the vault: where master keys are kept."""
