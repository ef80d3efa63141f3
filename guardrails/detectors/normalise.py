"""What a text says to a model that reads through disguise: one plain form of it, and what was hidden inside.

`plain` undoes what leaves the letters in place (width, look-alike letters, accents, invisible characters, letters with gaps, digits for letters);
`hidden` gives the texts that a decoder finds (base64, hex, percent, entities, binary, rot13 and the other shifts, reversal, pig latin, pieces to be joined). Linear in
the length of the text; nothing is judged here. It does not undo Morse, picture text or ciphers with a key.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

MOST_HIDDEN = 8
LONGEST_CHARS = 20_000  # of a text that is searched for hidden ones; the size rail is what bounds texts
DEEPEST = 2

_TOKEN = re.compile(r"\[([A-Z][A-Z_]*)_\d+\]")
# What tokens are read as: values, since nobody says "my pin is secret" but somebody who is after one.
_VALUES = {
    "PERSON": "anna",
    "STREET_ADDRESS": "00 station road",
    "POSTAL_CODE": "x00 0xx",
    "LOCATION": "london",
    "EMAIL_ADDRESS": "anna@example.com",
    "URL": "www.example.com",
    "DATE_OF_BIRTH": "00 may 0000",
    "IBAN_CODE": "xx00 0000 0000 0000 0000 00",
}
_NUMBERED = frozenset(
    [
        "SECRET",
        "CREDIT_CARD",
        "CARD_SECURITY_CODE",
        "CARD_EXPIRY",
        "LAST_FOUR",
        "ACCOUNT_NUMBER",
        "BANK_ACCOUNT",
        "SORT_CODE",
        "ABA_ROUTING_NUMBER",
        "ORDER_NUMBER",
        "CUSTOMER_NUMBER",
        "PHONE_NUMBER",
        "PASSPORT",
        "DRIVER_LICENSE",
        "US_SSN",
        "US_ITIN",
        "UK_NINO",
        "UK_NHS",
        "IP_ADDRESS",
    ]
)
# Letters of other alphabets that look like Latin ones (Unicode TR 39, the confusables that keyboards of those alphabets have), and small capitals.
_LOOK_ALIKE = dict(
    zip(
        map(
            ord,
            "аеорсухіјѕһԁԛԝвкмнтгпАВЕКМНОРСТУХІЈЅαβγεηικνορτυχωΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
        ),
        "aeopcyxijshdqwbkmhtrnabekmhopctyxijsabyenikvoptuxwabezhikmnoptyx",
        strict=True,
    )
)
_SMALL = str.maketrans("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢıłđøɡ", "abcdefghijklmnoprstuvwyzildog")
_INVISIBLE = dict.fromkeys(
    [
        *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x3164, 0xFEFF, 0xFFA0),
        *(*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10)),
    ]
)
# Letters in boxes and flags, and the tag characters that carry ASCII unseen.
_BOXED = {base + n: chr(97 + n) for base in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6) for n in range(26)}
_TAGS = {0xE0000 + n: chr(n) for n in range(32, 127)}
_LEET = str.maketrans("013457@$!|€", "oieastasile")
_LEET_WORD = re.compile(r"[a-z013457@$!|€]{3,}")
_GAPPED = re.compile(r"(?<![^\W_])(?:[^\W_](?:[ ]|[^\w\s]{1,2}|_)){3,400}[^\W_](?![^\W_])")
_GAPPED_SHORT = re.compile(r"(?<![^\W_])(?:[^\W_](?:[ ]|[^\w\s]|_)){1,2}[^\W_](?![^\W_])")
_SPACE = re.compile(r"[^\S\n]+")
_REPEATED = re.compile(r"([^\s\d])\1{3,}")
_DIGITS = str.maketrans("123456789", "000000000")

_DIGIT = re.compile(r"\d")
FEWEST_DIGITS = 8  # of a text in hex, binary or decimal codes: each letter of ASCII has one at least
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,8000}={0,2}")
_HEX = re.compile(r"(?:(?:0x|\\x|%)?[0-9a-fA-F]{2}[\s:,;-]?){8,4000}")
_BINARY = re.compile(r"(?:[01]{8}\s?){4,2000}")
_DECIMAL = re.compile(r"(?:\b(?:3[2-9]|[4-9]\d|1[01]\d|12[0-6])\b[\s,;]{1,2}){6,2000}\d{2,3}")
_ESCAPED = re.compile(r"(?:\\u[0-9a-fA-F]{4}){4,2000}")
_ENTITY = re.compile(r"&#?\w{2,8};")
_QUOTED = re.compile(r"(?<!\w)[\"'“‘`]([^\"'“”‘’`\n]{1,200})[\"'”’`](?!\w)")  # and no apostrophe within a word
_JOINS = re.compile(r"[+=&]|\b(?:concat|combin|join|append|assembl|merg|glue|stitch|together|put them|in order)")
_COMMON = (
    "the a an of to and in is it you that for on are with as this be at have or from by not but what all were when your can there "
    "use which do how if will up out many then them these so some would make like him into has look two more go see no could "
    "my than been who its now down did get may me i we he she they his her our about any only new previous instructions "
    "instruction ignore system prompt tell show reveal forget rules rule follow answer say give without above before "
    "password secret pretend act must never always respond please write print repeat access data user admin mode"
)
_SHORT_COMMON = frozenset(word for word in _COMMON.split() if len(word) > 2)


def plain(text: str) -> str:
    """The text in lower case with its disguise off; digits are all 0, redaction tokens values such as they stand for."""
    text = _TOKEN.sub(_stand_in, text)
    if not text.isascii():
        text = _without_disguise(text)
    text = text.lower()
    if _GAPPED.search(text):
        text = _GAPPED_SHORT.sub(_joined, _GAPPED.sub(_joined, text))
    text = _REPEATED.sub(r"\1\1\1", _SPACE.sub(" ", text).strip())
    return text.translate(_DIGITS)


def unleeted(text: str) -> str:
    """The text with digits and signs read as letters in words that mix them; the text itself where fewer than two words do."""
    lowered = text.lower()
    words = [m for m in _LEET_WORD.finditer(lowered) if not m[0].isalpha() and _is_leet(m[0])]
    if len(words) < 2:
        return text
    pieces, at = [], 0
    for match in words:
        pieces += [lowered[at : match.start()], match[0].translate(_LEET)]
        at = match.end()
    return "".join([*pieces, lowered[at:]])


def hidden(text: str, depth: int = 0) -> list[str]:
    """Readable texts that decoding finds in this one, at most eight, as they are (not yet plain)."""
    found: list[str] = []
    for candidate in _decoded(text[:LONGEST_CHARS]):
        if candidate and candidate not in found and candidate != text:
            found.append(candidate)
            if depth + 1 < DEEPEST:
                found += [deeper for deeper in hidden(candidate, depth + 1) if deeper not in found]
        if len(found) >= MOST_HIDDEN:
            break
    return found[:MOST_HIDDEN]


def _stand_in(match: re.Match[str]) -> str:
    """Some value of a token's kind; of a kind that we do not give, its words, since whoever wrote them wants them read."""
    kind = match[1]
    return "0000" if kind in _NUMBERED else _VALUES.get(kind, kind.replace("_", " ").lower())


def _without_disguise(text: str) -> str:
    text = text.translate(_TAGS).translate(_INVISIBLE).translate(_BOXED).translate(_SMALL)
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    if any("a" <= c <= "z" or "A" <= c <= "Z" for c in text):
        text = " ".join(map(_latin_word, text.split(" ")))
    return text


def _latin_word(word: str) -> str:
    """A word that mixes alphabets, or is written in look-alikes only, in Latin letters."""
    if word.isascii():
        return word
    swapped = word.translate(_LOOK_ALIKE)
    letters = [c for c in swapped if c.isalpha()]
    mixes = any(c.isascii() and c.isalpha() for c in word)
    return swapped if mixes or all(c.isascii() for c in letters) else word


def _joined(match: re.Match[str]) -> str:
    """Letters with gaps as words: wider gaps part words."""
    gapped = match[0]
    if sum(c.isdigit() for c in gapped) * 2 > len(gapped) // 2:
        return gapped  # a number that is spelled out
    return re.sub(r"[\W_]+", "", gapped)


def _is_leet(word: str) -> bool:
    """Digits between letters; not '3pm', '2nd' or a name with an exclamation mark after it."""
    if len(word) > 30:
        return False
    core = word.strip("!|@$")
    letters = sum(c.isalpha() for c in core)
    if letters == len(core) or letters < 2:
        return False
    return not core[0].isdigit() or letters >= 3


def _decoded(text: str) -> Iterator[str]:
    lowered = text.lower()
    if "%" in text:
        yield _readable(unquote(text)) if text.count("%") >= 4 else ""
    if "&" in text and _ENTITY.search(text):
        yield html.unescape(text)
    if "\\u" in text:
        for match in _ESCAPED.finditer(text):
            codes = [int(code, 16) for code in match[0].split("\\u") if code]
            yield _readable("".join(map(chr, codes)))
    if (digits := len(_DIGIT.findall(text))) >= FEWEST_DIGITS:
        yield from _numbers(text, digits)
    for match in _BASE64.finditer(text):
        yield _from_base64(match[0])
    yield from _ciphers(lowered)
    pieces = _QUOTED.findall(text)
    if len(pieces) >= 2 and _JOINS.search(lowered):
        yield "".join(pieces)
        yield " ".join(pieces)


def _numbers(text: str, count: int) -> Iterator[str]:
    """What is written in codes; ``count``: digits in the text. Four letters in binary have 32, seven in decimal 14."""
    for match in _BINARY.finditer(text) if count >= 32 else ():
        bits = "".join(match[0].split())
        yield _readable(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits) - 7, 8)).decode("latin-1"))
    for match in _HEX.finditer(text):
        digits = re.sub(r"0x|\\x|[^0-9a-fA-F]", "", match[0])
        yield _readable(bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("utf-8", "replace"))
    for match in _DECIMAL.finditer(text) if count >= 14 else ():
        yield _readable("".join(chr(int(code)) for code in re.findall(r"\d+", match[0])))


def _from_base64(run: str) -> str:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _readable(base64.b64decode(body[: len(body) // 4 * 4] + _rest(body)).decode("utf-8", "replace"))
    except (binascii.Error, ValueError):
        return ""


def _rest(body: str) -> str:
    """The last letters of a base64 text, padded to four; one letter alone says nothing."""
    rest = body[len(body) // 4 * 4 :]
    return rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""


def _readable(text: str) -> str:
    """The text, if nearly all of it can be read and it holds letters; else nothing."""
    if len(text) < 6:
        return ""
    good = sum(c.isprintable() or c in "\n\t" for c in text)
    letters = sum(c.isalpha() or c == " " for c in text)
    return text if good >= 0.95 * len(text) and letters >= 0.6 * len(text) and "\ufffd" not in text[:-2] else ""


def _ciphers(lowered: str) -> Iterator[str]:
    """Shifts of the alphabet and reversal: where the text is no English, and becomes it."""
    sample = [word for word in lowered[:600].split() if word.isascii() and word.isalpha() and len(word) > 2][:40]
    if len(sample) < 3 or sum(word in _SHORT_COMMON for word in sample) >= max(2, len(sample) // 5):
        half = lowered.partition(":")[2]  # "decode this rot13: ..."
        if len(half) < 12:
            return
        sample = [word for word in half[:600].split() if word.isascii() and word.isalpha() and len(word) > 2][:40]
        if len(sample) < 3 or sum(word in _SHORT_COMMON for word in sample) * 5 >= len(sample):
            return
        lowered = half
    wanted = max(2, len(sample) // 6)
    if sum(word.endswith("ay") for word in sample) * 2 > len(sample):
        yield _PIG_LATIN.sub(_from_pig_latin, lowered)
    if sum(word[::-1] in _SHORT_COMMON for word in sample) >= wanted:
        yield lowered[::-1]
    for shift in range(1, 26):
        table = _SHIFTS[shift]
        if sum(word.translate(table) in _SHORT_COMMON for word in sample) >= wanted:
            yield lowered.translate(table)
            return


def _from_pig_latin(match: re.Match[str]) -> str:
    """'igetay' for 'get': consonants at the end come back to the front; 'ignoreyay' and 'ignoreway' only lose their ending."""
    stem, consonants = match[1], match[2]
    return stem if consonants in ("y", "w") and stem[:1] in "aeiou" else consonants + stem


_ONSET = "str|spr|scr|thr|shr|[bcfgkps]l|[bcdfgpt]r|[cpst]h|s[cklmnptw]|wh|wr|tw|qu|kn|[b-df-hj-np-tv-z]"
_PIG_LATIN = re.compile(rf"\b([a-z]{{1,30}}?)({_ONSET})ay\b")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHIFTS = [str.maketrans(_LETTERS, _LETTERS[shift:] + _LETTERS[:shift]) for shift in range(26)]
