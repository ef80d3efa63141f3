"""Names where a caller or an agent introduces them: "my name is", "Dear", "this is ... speaking", "Mr". It knows no other kind.

The words around a name find it in lower case and in languages that the name model is weak on. A candidate is a few words; those that cannot
belong to a name end it.
"""

from __future__ import annotations

import re

from guardrails.detectors.pattern import Pattern

_WORD = re.compile(r"[^\W\d_][\w.'\u2019-]*")
# Words that follow an introduction and are no name: "my name is on the account", "I am calling about", "dear customer".
_NO_NAME = frozenset(
    "a about account address again agent all also am an and any are as at back bank be because been being bill but by call called calling can card "
    "charge contact correct customer customers did different do does don't email for from full given going good had happy has have having he hello help "
    "her here hi his how i i'd i'll i'm if in is it it's its just last like listed madam manager me missing morning my myself name needed needs new no not "
    "now number of ok okay on one or our out over party phone please put really right same sir so sorry spelled spelt still sure team thanks thank that "
    "that's the their them there they this to today trying unable under up upset very want wanted was we well were what when where which who why will "
    "with wondering would wrong yes you your sending looking reservation table speaking speak booking about regarding first second it'll everyone friend "
    "friends colleague valued support service".split()
)
_NAME = r"[\p{L}][\p{L}.'\x{2019}\-]*(?:\s+[\p{L}][\p{L}.'\x{2019}\-]*){0,3}"


def name_patterns() -> list[Pattern]:
    """Introductions, salutations and titles."""
    introduced = r"(?:my|her|his|the|their|full|first|last|account holder'?s?|customer'?s?|whose)\s+(?:full\s+|first\s+|last\s+|sur)?names?(?:\s+is|'s|:|\s+are|\s+as)"
    return [
        Pattern("PERSON", "introduced by name", rf"(?i)\b{introduced}\s+(?P<v>{_NAME})", 0.75, 80, name),
        Pattern("PERSON", "under the name of", rf"(?i)\b(?:under|in|for)\s+the\s+name(?:\s+of)?\s+(?P<v>{_NAME})", 0.75, 80, name),
        Pattern("PERSON", "this is ... speaking", rf"(?i)\b(?:this\s+is|it'?s)\s+(?P<v>{_NAME})\s+(?:speaking|calling|here|from)\b", 0.7, 80, name),
        Pattern("PERSON", "salutation", rf"\b(?:Dear|dear)\s+(?P<v>\p{{Lu}}[\p{{L}}.'\x{{2019}}\-]*(?:\s+\p{{Lu}}[\p{{L}}.'\x{{2019}}\-]*){{0,3}})", 0.7, 80, name),
        Pattern("PERSON", "title and name", rf"\b(?:(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Herr|Frau|Se\x{{f1}}ora?|Sra?|Mme)\.?|mister|missus)\s+(?P<v>{_NAME})", 0.7, 80, name),
    ]


def name(text: str) -> tuple[int, int] | None:
    """The words at the beginning of a candidate that can be a name: at most four, ended by a word that cannot.

    Where the first is written with a capital, lower-case words end the name.
    """
    end, capital = 0, text[:1].isupper()
    for match in _WORD.finditer(text):
        word = match[0]
        if word.lower().rstrip(".'\u2019") in _NO_NAME or (capital and not word[0].isupper()):
            break
        end = match.end()
        if word.endswith((".", "\u2019s", "'s")) and len(word) > 3:
            end -= 1 if word.endswith(".") else 2
            break
    return (0, end) if end > 1 else None
