"""Texts from the grammars in phrases/: many variants of what a family of texts says, always the same for a seed.

A grammar makes texts, it labels nothing; what its families mean is the training's affair.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PHRASES = Path(__file__).parent / "phrases"
_SLOT = re.compile(r"(?<!\{)\{([a-z_]+)\}")
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Grammar:
    """Families of templates, and the slots that fill them."""

    families: dict[str, list[str]]
    slots: dict[str, list[str]]

    def one(self, family: str, rng: random.Random) -> str:
        """One text of a family."""
        return self.fill(rng.choice(self.families[family]), rng)

    def many(self, family: str, wanted: int, rng: random.Random) -> list[str]:
        """Distinct texts of a family: each template in turn, at most ``wanted``, fewer where it can say no more."""
        templates = list(self.families[family])
        found: dict[str, None] = {}
        for turn in range(4 * wanted):
            if len(found) >= wanted:
                break
            if turn % len(templates) == 0:
                rng.shuffle(templates)
            found[self.fill(templates[turn % len(templates)], rng)] = None
        return list(found)

    def fill(self, template: str, rng: random.Random) -> str:
        """The template with every slot filled. Raises: KeyError naming a slot that does not exist."""
        for _ in range(_DEEPEST):
            if not _SLOT.search(template):
                break
            template = _SLOT.sub(lambda match: rng.choice(self.slots[match[1]]), template)
        text = template.replace("{{", "{").replace("}}", "}").replace("\\n", "\n")
        return re.sub(r" {2,}", " ", text).strip()


@cache
def load_grammar(name: str) -> Grammar:
    """A file of phrases/: `@slot` and `= family` begin lists of lines, `# ` a comment; `~` is nothing, `␣` a space at the border."""
    families: dict[str, list[str]] = {}
    slots: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (PHRASES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("@"):
            lines = slots.setdefault(line[1:].strip(), [])
        elif line.startswith("= "):
            lines = families.setdefault(line[2:].strip(), [])
        else:
            lines.append("" if line == "~" else line.replace("␣", " "))
    return Grammar(families, slots)
