"""What `ablate check` finds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Checked:
    """What was seen, and what is wrong, each in one line."""

    seen: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
