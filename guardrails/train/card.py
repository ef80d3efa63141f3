"""A detector's model card: what cards/ says of it, with the figures of its last training. It knows no detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CARDS = Path(__file__).parent / "cards"
_FIGURE = re.compile(r"\{([^{}|]+)\|([^{}]+)\}")


def card_of(detector: str, figures: Mapping[str, float]) -> str:
    """Its text; `{name|%}` is a figure in percent, `{name|.3f}` one in that format. Raises: KeyError naming a figure that the training does not give."""

    def written(match: re.Match[str]) -> str:
        value = figures[match[1]]
        return f"{100 * value:.1f} %" if match[2] == "%" else format(value, match[2])

    return _FIGURE.sub(written, (CARDS / f"{detector}.md").read_text(encoding="utf-8"))
