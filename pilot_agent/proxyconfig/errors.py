"""What a wrong configuration raises. All of these end the agent at its start (exit status 255)."""


class ConfigError(ValueError):
    """A configuration that the agent cannot start with; the text is what the reference prints."""


def several(problems: list[str]) -> str:
    """Return the text of collected errors as the reference's error list prints it.

    One line for each problem, indented by a tab, and two line feeds at the end.
    """
    count = f"{len(problems)} error{'s' if len(problems) > 1 else ''} occurred:"
    return "\n\t".join([count, *(f"* {problem}" for problem in problems)]) + "\n\n"
