"""The audit log, its proofs, checkpoints, subscriptions and analyst."""
