"""The command line. Exit codes: 0 done, 1 the answer is no (a check failed), 2 it could not be asked."""

from service.cli.app import app

__all__ = ["app"]
