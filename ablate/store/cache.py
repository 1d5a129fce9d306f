"""The folder of what can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where shrunk layers, reference statistics and autoencoders are kept: `ABLATE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_dir("ablate"))
