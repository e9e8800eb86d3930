"""The program ``eft-fast``: one module per command, no arithmetic."""

from eft_fast.cli.main import main

__all__ = ["main"]
