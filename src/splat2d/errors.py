"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Input that cannot be used. Its text is one line: what is wrong and what to do about it."""
