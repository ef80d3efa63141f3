"""Which language a text is in, roughly: by script, then by its commonest words. For cutting reports, not for deciding anything.

It knows six Latin-script languages of contact centres; "unknown" is an honest answer for short or mixed texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORDS = {
    "en": "the is my i you to and a of it for have can not this please what how in on your with was do me we are that",
    "es": "el la de que y en un una mi por con no para lo los las se es me su tengo quiero como está hola gracias cuenta",
    "fr": "le la les de des et est je mon ma une un pas pour que qui dans sur avec vous ne ce il bonjour merci votre",
    "de": "der die das und ist ich nicht ein eine mein meine mit zu auf für von sie es wie kann bitte haben den dem",
    "pt": "o a os as de que e em um uma meu minha por com não para se é eu você como está obrigado conta quero",
    "it": "il la di che e un una mio mia per con non sono come è le gli del della ho vorrei grazie conto questo",
}
_SETS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = {
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "DEVANAGARI": "hi",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "THAI": "th",
}
_TOKEN = re.compile(r"\[[A-Z_]+_\d+\]")
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """An ISO 639-1 code, or "unknown"."""
    text = _TOKEN.sub(" ", text[:2000])
    scripts = Counter(_SCRIPTS.get(unicodedata.name(c, "").partition(" ")[0], "latin") for c in text if c.isalpha())
    if not scripts:
        return "unknown"
    if (top := scripts.most_common(1)[0][0]) != "latin":
        return "ja" if scripts["ja"] else top
    words = [word.lower() for word in _WORD.findall(text)]
    hits = {language: sum(word in known for word in words) for language, known in _SETS.items()}
    best, second = sorted(hits.items(), key=lambda item: -item[1])[:2]
    return best[0] if best[1] > second[1] else "unknown"
