"""The exception that means "the caller can mend this", and its special cases."""

_LONGEST = 4000


class UserError(ValueError):
    """Something the caller passed is wrong; the message says what, what was expected, what to do.

    The command line prints the message alone and exits with code 2. Every other exception that
    leaves the library is a defect of the library. What files say is quoted in messages, so one that
    has grown beyond reading loses its middle.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
        super().__init__(text)


class ToldError(UserError):
    """What the first of several processes met and says; the others end with it too."""


class NotANumberError(UserError):
    """NaN where numbers were expected."""


class CannotWriteError(UserError):
    """The disk is full, read-only or failing; what was finished before stays as it is."""
