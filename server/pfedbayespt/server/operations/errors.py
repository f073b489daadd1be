"""The one error that an operator's command ends with."""


class OperationError(Exception):
    """It cannot be done; the message says why, and what can."""
