"""What is planted: for each kind of personal data, sentences as callers and systems say them, around a value that is nobody's.

It knows the kinds by name and how they are written, spoken and disguised; where they are planted is in gateway/audit/probes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gateway.audit.search import needles_of, squeezed
from gateway.audit.values import UsedUpError, Values

Turn = tuple[str, str]
"""Role and text."""
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@dataclass(frozen=True, slots=True, repr=False)
class Honeytoken:
    """One value and what is said around it. ``needles`` must stand nowhere. ``field``: its name and value as a system would write them.
    ``speaks_for_itself``: the value is known for what it is without a word beside it."""

    kind: str
    form: str
    turns: tuple[Turn, ...]
    needles: frozenset[str]
    field: tuple[str, str] | None = None
    speaks_for_itself: bool = False

    def __repr__(self) -> str:
        return f"Honeytoken({self.kind}, {self.form})"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: how a value is drawn, a sentence with {} in the value's place, the name of its field, and the countries whose packs look for it."""

    name: str
    draw: Callable[[Values], str]
    sentence: str
    field: str = ""
    countries: frozenset[str] = frozenset()
    spoken: tuple[tuple[str, Callable[[str], str]], ...] = ()


def spoken_digits(value: str) -> str:
    """A number as it is read out, digit by digit."""
    return " ".join(_DIGITS[int(character)] for character in value if character.isdigit())


def spoken_email(value: str) -> str:
    """An e-mail address as it is read out; its digits one by one."""
    words = value.replace(".", " dot ").replace("@", " at ")
    return "".join(f" {_DIGITS[int(character)]}" if character.isdigit() else character for character in words)


def wide_digits(value: str) -> str:
    """The digits of East Asian typesetting, which look like the others."""
    return value.translate({48 + digit: 0xFF10 + digit for digit in range(10)})


def sown_with_nothing(value: str) -> str:
    """A zero-width space after every fourth character."""
    return "".join(character + ("\u200b" if place % 4 == 3 else "") for place, character in enumerate(value))


US, UK, EU, IN, ES, MX = (frozenset({code}) for code in ("US", "UK", "EU", "IN", "ES", "MX"))
KINDS: tuple[Kind, ...] = (
    Kind(
        "CREDIT_CARD",
        Values.card,
        "my card number is {} and the payment was declined",
        "card_number",
        spoken=(("spoken", spoken_digits), ("wide digits", wide_digits), ("zero-width", sown_with_nothing)),
    ),
    Kind("CARD_SECURITY_CODE", lambda v: v.digits(3), "the security code of the card is {}", "cvv"),
    Kind("CARD_EXPIRY", Values.expiry, "the card expires {}", "card_expiry"),
    Kind("IBAN_CODE", Values.iban, "please send the refund to IBAN {}", "iban"),
    Kind("BANK_ACCOUNT", lambda v: v.digits(8), "my bank account number is {}", "bank_account"),
    Kind("ACCOUNT_NUMBER", lambda v: f"AC-{v.digits(7)}", "the account number: {}", "account_number"),
    Kind("CUSTOMER_NUMBER", lambda v: f"C{v.digits(8)}", "my customer number is {}", "customer_number"),
    Kind("ORDER_NUMBER", lambda v: f"ORD-{v.digits(8)}", "my order number is {}", "order_number"),
    Kind(
        "PERSON",
        Values.name,
        "my name is {} and I have a question about my bill",
        "customer_name",
        spoken=(("lower case", str.lower),),
    ),
    Kind(
        "PHONE_NUMBER",
        Values.phone,
        "please call me back on {} about my bill",
        "phone",
        spoken=(("spoken", spoken_digits),),
    ),
    Kind(
        "EMAIL_ADDRESS",
        Values.email,
        "please send the invoice to {} today",
        "email",
        spoken=(("spoken", spoken_email),),
    ),
    Kind("STREET_ADDRESS", Values.street, "I have moved, my new address is {} and the bill went elsewhere", "address"),
    Kind("DATE_OF_BIRTH", Values.birth_date, "my date of birth is {}", "date_of_birth"),
    Kind("PASSPORT", lambda v: v.letters(1) + v.digits(8), "my passport number is {}", "passport_number"),
    Kind("DRIVER_LICENSE", lambda v: v.letters(1) + v.digits(8), "my driver's license number is {}", "driver_license"),
    Kind("IP_ADDRESS", Values.ip, "I paid from the address {} yesterday", "ip_address"),
    Kind("MAC_ADDRESS", Values.mac, "the router of my line has the address {}", "mac_address"),
    Kind("URL_CREDENTIALS", Values.url_with_password, "my statement is at {} for download", "url"),
    Kind("SECRET", Values.secret, "the api key of our shop is {} for payments", "api_key"),
    Kind("SECRET", Values.password, "my password is {} for the account", "password"),
    Kind("US_SSN", Values.ssn, "my social security number is {}", "ssn", US, spoken=(("spoken", spoken_digits),)),
    Kind("US_ITIN", Values.itin, "my taxpayer number is {}", "itin", US),
    Kind("ABA_ROUTING_NUMBER", Values.routing, "the routing number of my bank is {}", "routing_number", US),
    Kind("POSTAL_CODE", lambda v: v.digits(5), "my zip code is {} and the bill went elsewhere", "zip_code", US),
    Kind("POSTAL_CODE", Values.uk_postcode, "my postcode is {} and the bill went elsewhere", "postcode", UK),
    Kind("UK_NINO", Values.nino, "my national insurance number is {}", "nino", UK),
    Kind("UK_NHS", Values.nhs, "my NHS number is {}", "nhs_number", UK),
    Kind(
        "SORT_CODE",
        lambda v: "-".join(v.digits(2) for _ in range(3)),
        "the sort code of my bank is {}",
        "sort_code",
        UK,
    ),
    Kind("EU_VAT", lambda v: f"DE{v.digits(9)}", "the VAT number of my shop is {}", "vat_number", EU),
    Kind("ES_ID", Values.spanish_id, "my DNI is {} for the contract", "dni", ES | EU),
    Kind("IN_AADHAAR", Values.aadhaar, "my Aadhaar number is {}", "aadhaar", IN),
    Kind("IN_PAN", Values.pan, "my PAN is {} for the tax form", "pan", IN),
    Kind("MX_CURP", Values.curp, "my CURP is {} for the contract", "curp", MX),
    Kind("MX_RFC", Values.rfc, "my RFC is {} for the invoice", "rfc", MX),
    Kind("BANK_ACCOUNT", lambda v: v.digits(18), "the CLABE of my cuenta is {}", "clabe", MX),
)


_ALONE = {
    *(
        "CREDIT_CARD",
        "IBAN_CODE",
        "PERSON",
        "PHONE_NUMBER",
        "EMAIL_ADDRESS",
        "STREET_ADDRESS",
        "IP_ADDRESS",
        "MAC_ADDRESS",
    ),
    *(
        "URL_CREDENTIALS",
        "SECRET",
        "US_SSN",
        "US_ITIN",
        "UK_NINO",
        "ES_ID",
        "IN_AADHAAR",
        "IN_PAN",
        "MX_CURP",
        "MX_RFC",
    ),
}


def honeytokens(values: Values, countries: Sequence[str], kinds: Sequence[str] = ()) -> list[Honeytoken]:
    """Fresh ones of every kind, form and country. ``kinds``: only these; empty: all. A kind of which every value was drawn is left out from then on."""
    drawn = []
    for kind in KINDS:
        if (kind.countries and not kind.countries.intersection(countries)) or (kinds and kind.name not in kinds):
            continue
        for form, change in (("written", None), *kind.spoken):
            with suppress(UsedUpError):
                drawn.append(_one(kind, form, values.fresh(lambda kind=kind: kind.draw(values)), change))  # type: ignore[misc]
    if not kinds or "CREDIT_CARD" in kinds:
        drawn.append(_over_turns(values))
    return drawn


def _one(kind: Kind, form: str, value: str, change: Callable[[str], str] | None = None) -> Honeytoken:
    said = change(value) if change is not None else value
    before = kind.sentence.partition("{}")[0]
    needles = needles_of(value, before) | needles_of(said, before)
    if kind.name == "PERSON":
        needles |= _half_names(value)
    field = (kind.field, value) if form == "written" else None
    if field is not None:
        needles |= needles_of(value, kind.field)
    alone = form == "written" and kind.name in _ALONE and kind.field != "password"
    return Honeytoken(kind.name, form, (("user", kind.sentence.format(said)),), frozenset(needles), field, alone)


def _half_names(name: str) -> set[str]:
    """A name of which only one half was replaced."""
    first, last = map(squeezed, name.split())
    return {f"person{number}{last}" for number in range(1, 10)} | {f"{first}person{number}" for number in range(1, 10)}


def _over_turns(values: Values) -> Honeytoken:
    """The last four digits of a card, alone in a turn, because the agent asked for them."""
    last = spoken_digits(values.digits(4))
    asked = "And the last four digits of the card, please?"
    turns = (("user", "I want to ask about a payment with my card"), ("assistant", asked), ("user", last))
    return Honeytoken("CREDIT_CARD", "over turns", turns, frozenset(needles_of(last, "")))
