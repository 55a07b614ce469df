"""The exceptions for input that cannot be used."""


class InputError(ValueError):
    """Input that cannot be used. Its text is one line: what is wrong and what to do about it."""


class FormatError(InputError):
    """Bytes that are no valid `.s2d` file: the only exception that decoding raises on bytes."""
