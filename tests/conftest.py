"""Makes `tests` and `lab` importable, behind whatever is installed: tox tests the wheel, not the checkout."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
