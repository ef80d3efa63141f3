"""Values that look exactly like personal data and belong to nobody: right lengths, issuer ranges and check digits, drawn from a seed.

They know no sentence, no request and no policy.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

FIRST_NAMES = [
    "Martin",
    "Claire",
    "Patrick",
    "Joanna",
    "Stephen",
    "Deborah",
    "Nathan",
    "Veronica",
    "Gregory",
    "Pamela",
    "Douglas",
    "Theresa",
    "Leonard",
    "Bridget",
    "Raymond",
    "Monica",
]
SURNAMES = [
    "Castellano",
    "Hargreaves",
    "Kowalczyk",
    "Marchetti",
    "Lindqvist",
    "Abernathy",
    "Blankenship",
    "Fitzgerald",
    "Montgomery",
    "Delacroix",
    "Szymanski",
    "Okonkwo",
    "Thornbury",
    "Cartwright",
    "Henderson",
    "Whitfield",
    "Ballantyne",
    "Pemberton",
    "Rodriguez",
    "Gallagher",
    "Sutherland",
    "Wakefield",
    "Featherstone",
    "Armitage",
]
STREETS = [
    "Larkspur",
    "Juniper",
    "Hawthorn",
    "Kensington",
    "Brookfield",
    "Magnolia",
    "Sycamore",
    "Wellesley",
    "Chestnut",
    "Ashbourne",
    "Primrose",
]
_NINO = "ABCEGHJKLMPRSTWXYZ"


class UsedUpError(Exception):
    """Every value of a kind was drawn: there are only so many days on which a card can expire."""


class Values:
    """Draws one value of a kind after the other, none of them twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (honeytokens are no secrets, and a run must be repeatable)
        self._drawn: set[str] = set()

    def fresh(self, draw: Callable[[], str]) -> str:
        """A value that was not drawn before. Raises: UsedUpError."""
        for _ in range(10_000):
            value = draw()
            if value not in self._drawn:
                self._drawn.add(value)
                return value
        raise UsedUpError

    def digits(self, length: int) -> str:
        """Digits, the first of them not 0, none of them three times in a row."""
        while True:
            drawn = self.random.choice("123456789") + "".join(self.random.choices(string.digits, k=length - 1))
            if not any(digit * 3 in drawn for digit in string.digits):
                return drawn

    def letters(self, length: int, of: str = string.ascii_uppercase) -> str:
        return "".join(self.random.choices(of, k=length))

    def where(self, draw: Callable[[], str], accepts: Callable[[str], bool]) -> str:
        """The first draw that is accepted; nine check digits of ten are tried in vain."""
        while not accepts(drawn := draw()):
            pass
        return drawn

    def card(self) -> str:
        digits = self.where(lambda: "4" + self.digits(15), luhn)
        return " ".join(digits[place : place + 4] for place in range(0, 16, 4))

    def iban(self) -> str:
        account = "BARC" + self.digits(14)
        return f"GB{98 - int(as_number(account + 'GB00')) % 97:02}{account}"

    def name(self) -> str:
        return f"{self.random.choice(FIRST_NAMES)} {self.random.choice(SURNAMES)}"

    def email(self) -> str:
        first, last = (
            self.name().lower().split()
        )  # the other way round than a name, of which it would remind the search
        return f"{last}.{first}{self.digits(2)}@{self.random.choice(('gmail', 'outlook', 'yahoo'))}.com"

    def phone(self) -> str:
        area = self.random.choice(("212", "415", "312", "617", "206", "404", "512"))
        return f"({area}) 555-{self.digits(4)}"

    def street(self) -> str:
        kind = self.random.choice(("Avenue", "Street", "Road", "Lane", "Drive"))
        return f"{self.random.randint(11, 989)} {self.random.choice(STREETS)} {kind}"

    def ip(self) -> str:
        return ".".join(str(self.random.randint(11, 219)) for _ in range(4))

    def mac(self) -> str:
        return ":".join(f"{self.random.randint(16, 255):02x}" for _ in range(6))

    def secret(self) -> str:
        return "sk-live-" + self.letters(24, string.ascii_letters + string.digits)

    def password(self) -> str:
        return self.letters(5, string.ascii_letters) + self.digits(4) + self.letters(3, string.ascii_letters)

    def url_with_password(self) -> str:
        return f"https://{self.letters(6, string.ascii_lowercase)}:{self.password()}@files.example.net/statement"

    def birth_date(self) -> str:
        return f"{self.random.randint(1, 28):02}/{self.random.randint(1, 12):02}/{self.random.randint(1941, 2001)}"

    def expiry(self) -> str:
        return f"{self.random.randint(1, 12):02}/{self.random.randint(27, 39)}"

    def ssn(self) -> str:
        return f"{self.random.randint(101, 665)}-{self.random.randint(11, 89)}-{self.random.randint(1011, 9899)}"

    def itin(self) -> str:
        return f"9{self.random.randint(11, 99)}-{self.random.randint(70, 88)}-{self.random.randint(1011, 9899)}"

    def routing(self) -> str:
        return self.where(lambda: f"{self.random.randint(1, 12):02}" + self.digits(7), aba)

    def nino(self) -> str:
        prefix = self.where(
            lambda: self.letters(2, _NINO), lambda two: two not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
        )
        return f"{prefix} {self.digits(2)} {self.digits(2)} {self.digits(2)} {self.random.choice('ABCD')}"

    def nhs(self) -> str:
        digits = self.where(lambda: self.digits(10), nhs)
        return f"{digits[:3]} {digits[3:6]} {digits[6:]}"

    def uk_postcode(self) -> str:
        return f"{self.random.choice(('SW', 'NW', 'SE', 'LS', 'BS'))}{self.random.randint(2, 9)} {self.random.randint(1, 9)}{self.letters(2, 'ABDEFGHJLNPQRSTUWXYZ')}"

    def aadhaar(self) -> str:
        digits = self.where(lambda: self.random.choice("23456789") + self.digits(11), verhoeff)
        return f"{digits[:4]} {digits[4:8]} {digits[8:]}"

    def pan(self) -> str:
        return f"{self.letters(3)}P{self.letters(1)}{self.digits(4)}{self.letters(1)}"

    def spanish_id(self) -> str:
        number = self.digits(8)
        return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]

    def curp(self) -> str:
        return f"{self.letters(4)}{self._birthday()}{self.random.choice('HM')}{self.letters(5)}{self.digits(2)}"

    def rfc(self) -> str:
        return f"{self.letters(4)}{self._birthday()}{self.letters(1)}{self.digits(2)}"

    def _birthday(self) -> str:
        return f"{self.random.randint(55, 99)}{self.random.randint(1, 12):02}{self.random.randint(1, 28):02}"


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def as_number(text: str) -> str:
    """ISO 13616: letters as two digits each, A is 10."""
    return "".join(str(int(character, 36)) for character in text)


def aba(digits: str) -> bool:
    """The 3-7-1 check sum of US routing numbers."""
    return sum(int(digit) * weight for digit, weight in zip(digits, (3, 7, 1) * 3, strict=True)) % 10 == 0


def nhs(digits: str) -> bool:
    """Modulo 11 over ten digits."""
    check = 11 - sum(int(digit) * (10 - place) for place, digit in enumerate(digits[:9])) % 11
    return check % 11 == int(digits[9]) and check != 10


def verhoeff(digits: str) -> bool:
    """Verhoeff's check digit, in the dihedral group of order ten."""
    check = 0
    for place, character in enumerate(reversed(digits)):
        digit = int(character)
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        check = _times(check, digit)
    return check == 0


def _times(left: int, right: int) -> int:
    turned = (left - right) if left >= 5 else (left + right)
    return turned % 5 + (5 if (left >= 5) != (right >= 5) else 0)
