"""The one kind of error a user is meant to read."""


class OmniError(Exception):
    """Something the user can mend.

    The message names the key, file or row and the way out; the command line prints it without a traceback.
    Rooms subclass it where a caller has to tell cases apart.
    """
