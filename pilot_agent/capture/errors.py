"""Why capture could not be set up, sorted by what the caller can do."""


class CaptureError(Exception):
    """The command ends with status 1; the text is the log line that tells why."""


class ConfigurationError(CaptureError):
    """What was asked for makes no sense; nothing was touched."""


class ExecutionError(CaptureError):
    """A program or the kernel refused; what had been changed was put back."""


class ValidationError(CaptureError):
    """The rules in place do not capture; the command ends with status 126."""
