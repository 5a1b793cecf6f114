"""Workspaces, members, roles, settings, connectors and governance."""
