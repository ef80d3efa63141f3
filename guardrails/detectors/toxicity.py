"""What kind of bad language a text is: eight labels of one cascade, so that a policy can answer each kind in its own way.

Swearing about a bill is `profanity`, insulting somebody `harassment`; a threat is a threat without any swear word. It knows labels and their order, not what
a policy does about them.
"""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

LABELS = ("any", "hate", "harassment", "threat", "sexual", "self_harm", "profanity", "slur")
Speech = Literal["hate", "offensive", "neither"]


def speech_of(logits: NDArray[Any]) -> Speech:
    """One of the three classes that Davidson et al. (2017) asked people for; ``logits``: shape (8,)."""
    if logits[LABELS.index("slur")] > 0:
        return "hate"
    return "offensive" if logits[LABELS.index("profanity")] > 0 else "neither"
