# First thing in the single file: finds or makes the unpacked form, and runs it. Read by any Python 3.
# A file of two: this, and the payload; a zip's index of 3,000 names would cost 30 ms at each start.
import os
import sys

NAME = "@NAME@"  # names the content, so that two builds never meet
TAGS = ["@TAGS@"]  # cpython-311 cpython-313
MACHINE = "@MACHINE@"
DEFAULT_CACHE = "/var/lib/istio/data"


def fail(text):
    sys.stderr.write("Error: %s\n" % text)
    sys.exit(255)


def cache():
    return os.environ.get("PILOT_AGENT_CACHE") or DEFAULT_CACHE


def is_ours(directory):
    """Nobody else could have put code there: it is root's or this user's, and nobody else may write."""
    try:
        found = os.lstat(directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        fail("%s: %s" % (directory, error.strerror))
    if found.st_mode & 0o170000 != 0o040000 or found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
        fail(
            "%s is there, but others could have written it: remove it, or name another place in "
            "PILOT_AGENT_CACHE" % directory
        )
    return True


def unpack(directory):
    """Unpack beside the place and rename: whoever comes at the same time sees all of it or nothing."""
    import shutil
    import tempfile
    import zipfile

    parent = os.path.dirname(directory)
    made = None
    try:
        os.makedirs(parent, exist_ok=True)
        made = tempfile.mkdtemp(prefix=".unpacking-", dir=parent)
        with zipfile.ZipFile(sys.argv[0]) as outer, outer.open("payload.zip") as payload:
            with zipfile.ZipFile(payload) as archive:
                archive.extractall(made)
        os.chmod(made, 0o755)
        try:
            os.rename(made, directory)
        except OSError:
            if not is_ours(directory):
                raise
            shutil.rmtree(made)  # another start was quicker
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        fail(
            "cannot unpack to %s: %s; name a writable place in PILOT_AGENT_CACHE"
            % (parent, error.strerror or error)
        )


def start():
    tag, machine = sys.implementation.cache_tag, os.uname().machine
    if tag not in TAGS or machine != MACHINE:
        fail("this file is for %s on %s, this is %s on %s" % (" and ".join(TAGS), MACHINE, tag, machine))
    directory = os.path.join(cache(), NAME)
    if not is_ours(directory):
        unpack(directory)
    # As the image's launcher: what the file brings, and the standard library; nothing else of this machine.
    standard = [path for path in sys.path[1:] if "-packages" not in path]
    sys.path[:] = [os.path.join(directory, tag), os.path.join(directory, "common")] + standard
    sys.dont_write_bytecode = True
    from pilot_agent.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
