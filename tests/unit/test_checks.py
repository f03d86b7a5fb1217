"""docs/CHECKS.md names tests that there are."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_NAMED = re.compile(r"`(tests/[a-z0-9_/]+\.py)`|`(test_[a-z0-9_]+)`")


def test_every_test_that_is_named_exists() -> None:
    found, missing = 0, []
    for line in (REPOSITORY / "docs" / "CHECKS.md").read_text(encoding="utf-8").splitlines():
        source, path = "", ""
        for named in _NAMED.finditer(line):
            if named[1]:
                path = named[1]
                source = (REPOSITORY / path).read_text(encoding="utf-8")
            elif f"def {named[2]}(" in source:
                found += 1
            else:
                missing.append(f"{path} {named[2]}")
    assert missing == []
    assert found > 60
