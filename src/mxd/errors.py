"""The exception that means "the caller can mend this", and its one special case."""


class UserError(ValueError):
    """Something the caller passed is wrong; the message says what, what was expected, what to do.

    The command line prints the message alone and exits with code 2. Every other exception that
    leaves the library is a defect of the library.
    """


class NotANumberError(UserError):
    """NaN where numbers were expected."""
