"""`version`: which build this is."""

from pilot_agent.cli.command import Command, Invocation
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag
from pilot_agent.cli.output import print_out
from pilot_agent.gotext import quote
from pilot_agent.version import BuildInfo, build_info


def _run(invocation: Invocation) -> int:
    values, info = invocation.values, build_info()
    match values.string("output"):
        case "json":
            print_out(_json(info))
        case "yaml":
            print_out(_yaml(info))
        case "":
            print_out(_short(info) if values.boolean("short") else _long(info))
        case _:
            raise CliError("--output must be 'yaml' or 'json'")
    return 0


def _short(info: BuildInfo) -> str:
    return f"client version: {info.version}\n"


def _long(info: BuildInfo) -> str:
    members = {
        "Version": info.version,
        "GitRevision": info.revision,
        "GolangVersion": info.golang_version,
        "BuildStatus": info.status,
        "GitTag": info.tag,
    }
    listed = ", ".join(f"{name}:{quote(value)}" for name, value in members.items())
    return f"client version: version.BuildInfo{{{listed}}}\n"


def _json(info: BuildInfo) -> str:
    import json  # noqa: PLC0415  # only this form needs it

    return json.dumps({"clientVersion": info._asdict()}, indent=2, ensure_ascii=False) + "\n"


def _yaml(info: BuildInfo) -> str:
    """Return the members sorted by name; the empty line at the end is the reference's."""
    lines = (f"  {name}: {_yaml_text(value)}\n" for name, value in sorted(info._asdict().items()))
    return "clientVersion:\n" + "".join(lines) + "\n"


def _yaml_text(text: str) -> str:
    """Return `text` in quotation marks where YAML would take it for something else, such as 1.30."""
    plain = text[:1].isalpha() or text.count(".") > 1
    safe = all(character.isalnum() or character in "._-+" for character in text)
    words = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    return text if plain and safe and text.lower() not in words else quote(text)


COMMAND = Command(
    use="version",
    short="Print which build this is",
    long="Prints version, revision and build status of this program.",
    run=_run,
    flags=(
        Flag("short", "bool", False, "Only the version", "s"),
        Flag("output", "string", "", "Form of the output: yaml or json", "o", ("yaml", "json")),
    ),
)
