"""Patterns of ways to reach a person or a machine: phone, e-mail, addresses of streets and of networks, secrets.

Phones are checked with libphonenumber on candidates only. Street addresses here are the English and the common
European written forms; others are left to the name model. Knows nothing of names.
"""

import re
from collections.abc import Sequence

from guardrails.detectors import checks
from guardrails.detectors.pattern import Pattern

PHONE_WORDS = (
    r"(?:phone|tele(?:phone)?\b|tel\b|call(?:ed|ing|er|back)?\b|mobile|cell|contact|text(?:ed|ing)?\b|ring|reach|dial|fax|desk"
    r"|office|landline|whats ?app|sms|registered|extension|hotline|home\b|work\b|number(?:'s| is| i)|reachable|m:|p:|t:|at\b)"
)
STREET_WORDS = (
    r"(?:street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|circle|cir|place|pl|square|sq|terrace|ter|way|parkway|pkwy"
    r"|highway|hwy|freeway|expressway|expy|trail|trl|crescent|cres|close|grove|gardens|gdns|mews|row|plaza|alley|loop|pike|walk|mall"
    r"|turnpike|hill|heights|ridge|embankment|quay|wharf|broadway|bypass|esplanade|promenade|point|landing|crossing|commons|camino|calle|avenida|jalan|route)"
)
STATES = r"A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]|A[AEP]"
UK_POSTCODE = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{2}"
UNIT = r"(?:,?\s+(?:apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|box|level|building|bldg|lot|no)\.?\s*#?\s*[A-Za-z]?[\-]?\d{0,5}[A-Za-z]?|,?\s+#\s?\d{1,5}[a-z]?)"
CITY_TAIL = rf"(?:,?\s+(?:[A-Z][A-Za-z.'\-]+\s?){{1,3}},?\s+(?:{STATES})\b(?:\s+\d{{5}}(?:-\d{{4}})?)?|,?\s+(?:[A-Z][a-z]+,?\s){{0,3}}(?:{UK_POSTCODE})\b)?"
LOCAL, LABEL = (
    r"[A-Za-z0-9](?:[A-Za-z0-9._%+'\-]{0,62}[A-Za-z0-9_+\-])?",
    r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,40}[A-Za-z0-9])?",
)


def contact_patterns(regions: Sequence[str]) -> list[Pattern]:
    """Phones (checked for the regions given, first the caller's own), e-mail, network addresses, secrets."""
    return [*_phones(regions), *_networks(), *_secrets()]


def _phones(regions: Sequence[str]) -> list[Pattern]:
    ext = r"(?:,? ?(?:ext\.?|extension|x) ?\d{1,6})?"
    not_money = (
        r"[$£€#.]|(?:order|invoice|ticket|case|reference|version|isbn|serial|model)(?: number| no\.?| #)?(?: is)? ?"
    )
    return [
        Pattern(
            "PHONE_NUMBER",
            "international number",
            rf"\+\d{{1,3}}[ .\-]?(?:\(\d{{1,4}}\)[ .\-]?)?\d(?:[ .\-/]{{0,2}}\d){{5,12}}{ext}\b",
            0.9,
            45,
        ),
        Pattern(
            "PHONE_NUMBER",
            "number with an area code in brackets",
            rf"\(\d{{1,5}}\)[ .\-]{{0,2}}\d(?:[ .\-/]?\d){{4,9}}{ext}\b",
            0.85,
            40,
        ),
        Pattern(
            "PHONE_NUMBER",
            "valid for the policy's regions",
            rf"\b\d(?:[ .\-/]{{0,2}}\d){{6,13}}{ext}\b",
            0.75,
            50,
            _valid_phone(regions),
            not_after=not_money,
        ),
        Pattern(
            "PHONE_NUMBER",
            "grouped digits",
            rf"\b\d{{2,5}}(?:[ .\-/]\d{{2,8}}){{1,5}}{ext}\b",
            0.6,
            50,
            _phone_shape,
            context=PHONE_WORDS,
            alone=0.45,
            not_after=not_money,
        ),
        Pattern(
            "PHONE_NUMBER",
            "digits called a phone",
            rf"\b0{{0,2}}\d{{7,13}}{ext}\b",
            0.6,
            30,
            context=PHONE_WORDS,
            not_after=not_money,
        ),
    ]


def _valid_phone(regions: Sequence[str]) -> checks.Check:
    """A number that libphonenumber calls valid in one of the regions."""
    import phonenumbers

    def check(text: str) -> tuple[int, int] | None:
        digits = checks.digits_of(text)
        if _looks_like_date(text) or len(set(digits)) < 3:
            return None
        for region in regions:
            try:
                number = phonenumbers.parse(text, region)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(number):
                return 0, len(text)
        return None

    return check


def _phone_shape(text: str) -> tuple[int, int] | None:
    """Seven to thirteen digits in groups that are not a date, a time range, a sum or a card."""
    digits = checks.digits_of(text)
    if (
        not 7 <= len(digits) <= 13
        or _looks_like_date(text)
        or len(set(digits)) < 3
        or (text.count(".") == 1 and text.count(" ") == 0 and "-" not in text)
    ):
        return None
    return 0, len(text)


def _looks_like_date(text: str) -> bool:
    return (
        re.fullmatch(
            r"(?:(?:19|20)\d\d[ ./\-]\d{1,2}[ ./\-]\d{1,2}.*|\d{1,2}[ ./\-]\d{1,2}[ ./\-](?:19|20)\d\d.*|(?:19|20)\d\d ?[\-/] ?(?:19|20)\d\d)",
            text,
        )
        is not None
    )


def _networks() -> list[Pattern]:
    domain = rf"(?:{LABEL}\.){{1,5}}(?i:[A-Z]{{2,18}})"
    return [
        Pattern("EMAIL_ADDRESS", "e-mail address", rf"\b{LOCAL}@{domain}\b", 1.0, 254),
        Pattern(
            "EMAIL_ADDRESS",
            "e-mail address with letters beyond ASCII",
            r"[\p{L}\p{N}._%+\-]{1,64}@(?:[\p{L}\p{N}\-]{1,40}\.){1,5}\p{L}{2,18}",
            0.95,
            254,
        ),
        Pattern(
            "IP_ADDRESS", "IPv4 address", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", 0.95, 15, checks.whole(checks.is_ip_address)
        ),
        Pattern(
            "IP_ADDRESS",
            "IPv6 address",
            r"(?i)(?:[0-9a-f]{1,4}:){2,7}(?::?[0-9a-f]{1,4}){1,6}|(?:[0-9a-f]{1,4}:){1,6}:[0-9a-f]{1,4}",
            0.95,
            45,
            checks.whole(checks.is_ip_address),
        ),
        Pattern("MAC_ADDRESS", "MAC address", r"(?i)\b[0-9a-f]{2}(?:[:\-][0-9a-f]{2}){5}\b", 0.95, 17),
        Pattern(
            "URL_CREDENTIALS",
            "URL with a password",
            r"(?i)\b[a-z][a-z0-9+.\-]{1,15}://[^\s/:@]{1,64}:[^\s/@]{1,64}@[^\s\"'<>]{1,160}",
            1.0,
            256,
        ),
        Pattern("URL", "URL", r"(?i)\b(?:https?://|www\.)[^\s\"'<>\[\]]{1,240}[a-z0-9/]", 0.8, 256),
    ]


def _secrets() -> list[Pattern]:
    prefixes = (
        r"(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_\-]{16,180}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,80}"
        r"|github_pat_[A-Za-z0-9_]{40,100}|glpat-[A-Za-z0-9_\-]{20,40}|xox[abprs]-[A-Za-z0-9\-]{10,100}|AIza[0-9A-Za-z_\-]{35}|hf_[A-Za-z0-9]{30,60}"
    )
    return [
        Pattern("SECRET", "API key by its prefix", rf"\b(?:{prefixes})\b", 1.0, 200),
        Pattern(
            "SECRET",
            "JSON Web Token",
            r"\beyJ[A-Za-z0-9_\-]{8,900}\.[A-Za-z0-9_\-]{8,900}\.?[A-Za-z0-9_\-]{0,900}",
            1.0,
            256,
        ),
        Pattern(
            "SECRET",
            "bearer or key in context",
            r"(?i)\b(?:api[ _\-]?key|access[ _\-]?token|secret[ _\-]?key|client[ _\-]?secret|bearer)(?: is|:|=)?\s*[\"']?(?P<v>[A-Za-z0-9_\-.+/=]{16,200})",
            0.85,
            200,
            checks.whole(lambda text: any(c.isdigit() for c in text)),
        ),
    ]


def place_patterns() -> list[Pattern]:
    """Street addresses and postal codes as they are written."""
    name = r"(?:\s+[\p{L}][\p{L}.'\-]*|\s+\d{1,3}(?:st|nd|rd|th)){1,5}?"
    number = r"\b\d{1,6}(?:[\-/]\d{1,5})?[A-Za-z]?"
    return [
        Pattern(
            "STREET_ADDRESS",
            "house number and street",
            rf"(?i){number},?{name}\s+{STREET_WORDS}\b\.?(?:\s+(?:north|south|east|west|[ns][ew]|[nsew])\b\.?)?(?:{UNIT}){{0,2}}(?-i:{CITY_TAIL})",
            0.85,
            140,
            _address,
        ),
        Pattern(
            "STREET_ADDRESS",
            "number word and street",
            rf"(?i)\b(?:two|three|four|five|six|seven|eight|nine|(?:thir|four|fif|six|seven|eigh|nine)teen|ten|eleven|twelve|(?:twen|thir|for|fif|six|seven|eigh|nine)ty){name}\s+(?:street|avenue|road|boulevard|lane|drive|court|crescent|close|terrace)\b",
            0.7,
            80,
            _address,
        ),
        Pattern(
            "STREET_ADDRESS",
            "street first, then the number",
            r"\b\p{L}{2,20}(?i:stra(?:ß|ss)e|str\.|gatan|vägen|veien|gata|katu|tie|weg|laan|straat|gade|vej|utca|ulica|allee|platz|plein)\s+\d{1,4}[a-z]?\b",
            0.8,
            40,
        ),
        Pattern(
            "STREET_ADDRESS",
            "street word first",
            r"(?i)\b(?:rue|calle|avenida|(?-i:Via|VIA)|viale|rua|piazza|plaza|ulica|ul\.|jalan|camino|c/)\s+(?:de(?: la| los| las|l)?\s+|du\s+)?\p{L}[\p{L}'\-]+(?:\s+\p{L}[\p{L}'\-]+){0,3}?,?\s+(?:n[o°.º]*\s*)?\d{1,4}\b",
            0.75,
            90,
        ),
        Pattern(
            "STREET_ADDRESS",
            "post office box or military post",
            r"(?i)\b(?:p\.?\s?o\.?\s?box\s+\d{1,6}|psc\s+\d{1,5},?\s+box\s+\d{1,5}(?:\s+(?:apo|fpo|dpo)\s+a[aep]\s+\d{5})?|(?:unit|uscgc|uss)\s+[\p{L}\d ]{1,25}\s+(?:apo|fpo|dpo)\s+a[aep]\s+\d{5})\b",
            0.85,
            60,
        ),
        Pattern(
            "STREET_ADDRESS",
            "flat or suite with its number",
            r"(?i)\b(?:apt|apartment|suite|flat)\.?\s+#?\d{1,5}[a-z]?\b",
            0.55,
            20,
        ),
        Pattern("POSTAL_CODE", "UK postcode", rf"\b{UK_POSTCODE}\b", 0.8, 8, countries=frozenset({"UK"})),
        Pattern(
            "POSTAL_CODE",
            "state and ZIP code",
            rf"\b(?:{STATES})\s+(?P<v>\d{{5}}(?:-\d{{4}})?)\b",
            0.8,
            10,
            countries=frozenset({"US"}),
        ),
        Pattern(
            "POSTAL_CODE",
            "called a postal code",
            r"(?i)\b(?:zip|zip ?code|post ?code|postal ?code|plz|codigo postal)\b(?:\s*(?:is|:|=|-|\.|,|to))*\s*(?P<v>\b(?:(?-i:[A-Z]{1,2})[\- ]?)?\d{3,5}(?:[\- ][A-Z0-9]{2,4})?|[A-Z]\d[A-Z] ?\d[A-Z]\d)\b",
            0.85,
            12,
        ),
    ]


def _address(text: str) -> tuple[int, int] | None:
    """Refuse what only looks like one: "5 people on our way", "30 minutes drive"."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    refused = {
        "people",
        "minutes",
        "minute",
        "hours",
        "hour",
        "days",
        "day",
        "miles",
        "dollars",
        "pounds",
        "of",
        "my",
        "a",
        "is",
        "for",
        "to",
        "in",
        "on",
        "at",
        "and",
        "pm",
        "am",
        "times",
        "percent",
        "weeks",
        "months",
        "years",
        "was",
        "i",
        "you",
        "it",
        "that",
        "from",
        "new",
        "more",
        "tickets",
        "ticket",
        "need",
        "by",
        "with",
        "or",
    }
    streets = words[:-1] if words else []
    return None if len(words) < 2 or refused.intersection(streets[:4]) else (0, len(text))
