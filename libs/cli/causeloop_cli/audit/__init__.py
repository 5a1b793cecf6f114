"""`causeloop audit`: a workspace's log, seen from outside as any client sees it. Each subcommand is a module."""

import argparse
from importlib import import_module


def main(options: argparse.Namespace) -> int:
    """Run one subcommand."""
    return int(import_module(f"causeloop_cli.audit.{options.action}").main(options) or 0)
