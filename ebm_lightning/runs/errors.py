"""The errors whose message is enough for the user. Imports no torch, so that the command line knows them early."""


class UserError(Exception):
    """A failure that its message explains to the user: `ebm` prints the message, without a traceback."""
