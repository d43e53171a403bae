"""The command line: a thin shell over `bonsai_core.run` and its neighbours."""

from bonsai_core.cli.main import main

__all__ = ["main"]
