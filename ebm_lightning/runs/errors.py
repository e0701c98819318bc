"""Errors whose message suffices for the user. Imports no torch, so that the command line starts quickly."""


class UserError(Exception):
    """A failure with an explanatory message: `ebm` prints the message without a traceback."""
