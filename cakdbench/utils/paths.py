"""Where things lie that no command names."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cakdbench"
"""The folder of the user for data and teachers."""
