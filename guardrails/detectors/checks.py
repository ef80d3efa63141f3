"""Validators: is this run of digits really a card, an IBAN, a social security number?

Each takes the candidate's text and returns the offsets within it of the part that is valid, or None. They know nothing
of context; they make a pattern's candidates cheap to refuse.
"""

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], tuple[int, int] | None]

# Length of an IBAN by country (SWIFT IBAN registry, release 99).
IBAN_LENGTHS = dict(
    pair.split(":")
    for pair in [
        "AD:24",
        "AE:23",
        "AL:28",
        "AT:20",
        "AZ:28",
        "BA:20",
        "BE:16",
        "BG:22",
        "BH:22",
        "BR:29",
        "BY:28",
        "CH:21",
        "CR:22",
        "CY:28",
        "CZ:24",
        "DE:22",
        "DK:18",
        "DO:28",
        "EE:20",
        "EG:29",
        "ES:24",
        "FI:18",
        "FO:18",
        "FR:27",
        "GB:22",
        "GE:22",
        "GI:23",
        "GL:18",
        "GR:27",
        "GT:28",
        "HR:21",
        "HU:28",
        "IE:22",
        "IL:23",
        "IQ:23",
        "IS:26",
        "IT:27",
        "JO:30",
        "KW:30",
        "KZ:20",
        "LB:28",
        "LC:32",
        "LI:21",
        "LT:20",
        "LU:20",
        "LV:21",
        "LY:25",
        "MC:27",
        "MD:24",
        "ME:22",
        "MK:19",
        "MR:27",
        "MT:31",
        "MU:30",
        "NL:18",
        "NO:15",
        "PK:24",
        "PL:28",
        "PS:29",
        "PT:25",
        "QA:29",
        "RO:24",
        "RS:22",
        "SA:24",
        "SC:31",
        "SE:24",
        "SI:19",
        "SK:24",
        "SM:27",
        "ST:25",
        "SV:28",
        "TL:23",
        "TN:24",
        "TR:26",
        "UA:29",
        "VA:22",
        "VG:24",
        "XK:20",
    ]
)


def digits_of(text: str) -> str:
    """Only the ASCII digits of a text."""
    return "".join(character for character in text if "0" <= character <= "9")


def whole(accepts: Callable[[str], bool]) -> Check:
    """A validator that accepts or refuses the candidate as a whole."""
    return lambda text: (0, len(text)) if accepts(text) else None


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 check digit."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = ord(character) - 48
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def is_card_number(digits: str) -> bool:
    """Issuer range, length and check digit of a payment card."""
    length = len(digits)
    if digits[0] == "4":
        known = length in (13, 16, 19)
    elif digits[:2] in ("34", "37"):
        known = length == 15
    elif digits[:2] in ("36", "38", "39") or digits[:3] in ("300", "301", "302", "303", "304", "305", "309"):
        known = 14 <= length <= 19
    elif digits[:4] in ("1800", "2131"):
        known = length == 15
    elif digits[0] == "5" or digits[:2] in ("60", "62", "63", "64", "65", "67", "81", "82"):
        known = (16 if "51" <= digits[:2] <= "55" else 12) <= length <= 19
    else:
        known = 16 <= length <= 19 and ("2221" <= digits[:4] <= "2720" or digits[:2] == "35" or digits[:4] == "2200")
    return known and len(set(digits)) > 1 and luhn(digits)


def card(text: str) -> tuple[int, int] | None:
    """The card number with the most digits among whole groups of the candidate, which may have run into a date, a count or a CVV."""
    groups = [match.span() for match in re.finditer(r"\d+", text)]
    best, most = None, 0
    for first, (start, _) in enumerate(groups):
        for _, end in groups[first:]:
            digits = digits_of(text[start:end])
            if len(digits) > 19:
                break
            if len(digits) >= 12 and len(digits) > most and is_card_number(digits):
                best, most = (start, end), len(digits)
    return best


def iban(text: str) -> tuple[int, int] | None:
    """ISO 13616: the country's length, then mod 97 equal to 1. Words that follow the number are left out."""
    wanted = int(IBAN_LENGTHS.get(text[:2].upper(), "0"))
    compact, end = "", 0
    for position, character in enumerate(text):
        if character.isalnum():
            compact += character
            end = position + 1
            if len(compact) == wanted:
                break
    if len(compact) != wanted or not compact.isascii():
        return None
    rearranged = (compact[4:] + compact[:4]).upper()
    number = int("".join(str(int(character, 36)) for character in rearranged))
    return (0, end) if number % 97 == 1 else None


def is_ssn(text: str) -> bool:
    """US social security number: no area 000, 666 or 9xx, no group 00, no serial 0000 (SSA, since 2011)."""
    digits = digits_of(text)
    return (
        len(digits) == 9
        and digits[:3] not in ("000", "666")
        and digits[0] != "9"
        and digits[3:5] != "00"
        and digits[5:] != "0000"
        and len(set(digits)) > 1
    )


def is_itin(text: str) -> bool:
    """US individual taxpayer number: 9xx, group 50-65, 70-88, 90-92 or 94-99 (IRS)."""
    digits = digits_of(text)
    group = int(digits[3:5])
    return digits[0] == "9" and (50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99)


def is_aba_routing(text: str) -> bool:
    """US bank routing number: district 00-12, 21-32, 61-72 or 80, and the 3-7-1 check sum."""
    digits = digits_of(text)
    district = int(digits[:2])
    if not (district <= 12 or 21 <= district <= 32 or 61 <= district <= 72 or district == 80):
        return False
    weights = (3, 7, 1) * 3
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 10 == 0


def is_nino(text: str) -> bool:
    """UK National Insurance number prefixes that are never given (HMRC NIM39110)."""
    return text[:2].upper() not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def is_nhs(text: str) -> bool:
    """UK NHS number: mod 11 over ten digits."""
    digits = digits_of(text)
    check = 11 - sum(int(digit) * (10 - place) for place, digit in enumerate(digits[:9])) % 11
    return len(digits) == 10 and check % 11 == int(digits[9]) and check != 10 and len(set(digits)) > 1


def is_aadhaar(text: str) -> bool:
    """Indian Aadhaar number: twelve digits, the first 2-9, Verhoeff check digit."""
    digits = digits_of(text)
    if len(digits) != 12 or digits[0] in "01":
        return False
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = _dihedral(check, _permuted(int(digit), place))
    return check == 0


def _permuted(digit: int, times: int) -> int:
    for _ in range(times % 8):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def _dihedral(left: int, right: int) -> int:
    """Product in the dihedral group of order ten."""
    if left < 5:
        return (left + right) % 5 if right < 5 else (left + right - 5) % 5 + 5
    return (left - 5 - right) % 5 + 5 if right < 5 else (left - right) % 5


def is_spanish_id(text: str) -> bool:
    """Spanish DNI or NIE: the letter is the number modulo 23."""
    compact = re.sub(r"[^0-9A-Z]", "", text.upper())
    number = int(compact[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == compact[-1]


def is_ip_address(text: str) -> bool:
    """IPv4 or IPv6 as the standard library reads it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
