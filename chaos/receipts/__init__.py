"""Nothing acknowledged is lost, whatever becomes of it between an outbox and the log."""
