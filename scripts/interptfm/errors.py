"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input or configuration.

    The message is one sentence that names the file, row or key, what was found and what was
    expected. Rule scripts print it without a traceback and exit with code 1.
    """
