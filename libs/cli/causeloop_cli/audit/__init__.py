"""A workspace's log, seen from outside as any client sees it."""
