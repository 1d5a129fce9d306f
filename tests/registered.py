"""What plug-ins register in a test, forgotten after it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ablate.study import plugins


@contextmanager
def forgotten() -> Iterator[None]:
    """Forget in the end what the block has registered."""
    plugins._load_all()
    before = {group: dict(entries) for group, entries in plugins._registered.items()}
    files, modules = dict(plugins._files), set(sys.modules)
    try:
        yield
    finally:
        for group, entries in before.items():
            plugins._registered[group].clear()
            plugins._registered[group].update(entries)
        plugins._files.clear()
        plugins._files.update(files)
        for name in sys.modules.keys() - modules:
            if name.startswith("ablate_plugin_"):
                del sys.modules[name]
