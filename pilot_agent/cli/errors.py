"""Why a command ends without success. The text is what the user reads."""


class CliError(Exception):
    """Ends the program with status 255; the text goes to stderr and to the log."""


class UsageError(CliError):
    """The words are no known command: the line that points to `--help` follows the text."""
