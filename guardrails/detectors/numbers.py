"""Patterns of numbers that identify people and their money: cards, banks, governments, records of a business.

Country packs by ISO-like codes: US, UK, EU, IN, ES, MX; patterns without a pack hold everywhere. Knows nothing of
phones, addresses or names.
"""

from guardrails.detectors import checks
from guardrails.detectors.pattern import Pattern

US, UK, EU, IN, ES, MX = (frozenset({code}) for code in ("US", "UK", "EU", "IN", "ES", "MX"))
LINK = r"(?:\s+(?:number|no\.?|num|code|id|ref(?:erence)?))?(?:\s*(?:is|are|was|ends?|:|=|#|-|,|\.|it's|its))*\s*"
DAY, YEAR = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?", r"(?:(?:19|20)\d{2}|'?\d{2})"
MONTH_NAME = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
DATE = (
    rf"(?:(?:0?[1-9]|[12]\d|3[01])[/.\- ](?:0?[1-9]|[12]\d|3[01])[/.\- ]{YEAR}|(?:19|20)\d{{2}}[/.\-]\d{{1,2}}[/.\-]\d{{1,2}}"
    rf"|{DAY}(?: of)? {MONTH_NAME},? {YEAR}|{MONTH_NAME} {DAY},? {YEAR}|{MONTH_NAME} {DAY}\b|{DAY}(?: of)? {MONTH_NAME})"
)
IDENTIFIER = r"(?P<v>#?(?:[A-Za-z]{1,6}[\-]?)?\d[\dA-Za-z]*(?:[\- ]?\d[\dA-Za-z]{1,8}){0,5})"


def card_patterns() -> list[Pattern]:
    """Payment cards and what is asked with them."""
    return [
        Pattern(
            "CREDIT_CARD", "card number: issuer range and Luhn", r"\b\d(?:[ .\-]{0,2}\d){11,18}\b", 1.0, 37, checks.card
        ),
        Pattern(
            "CREDIT_CARD",
            "card-length number called a card",
            r"\b(?:\d{4}[ \-]?){3}\d{3,4}\b",
            0.7,
            19,
            context=r"(?:credit|debit|bank|visa|master ?card|amex|card)",
        ),
        Pattern(
            "CREDIT_CARD",
            "last digits of a card",
            r"(?i)\b(?:ending|ends|finishing|last (?:four|4)(?: digits)?(?: of [a-z ]{2,20}card)?)"
            + LINK
            + r"(?:in|with|on)?\s*(?P<v>(?:\d[ \-]?){3}\d)\b",
            0.75,
            7,
        ),
        Pattern(
            "CREDIT_CARD",
            "first digits of a card",
            r"(?i)\b(?:card(?:'s)? number|number (?:on|of) (?:the|my) card)(?: is| was|:|'s)?\s+(?P<v>\d(?:[ \-]?\d){3,10})\b",
            0.6,
            21,
        ),
        Pattern(
            "CARD_SECURITY_CODE",
            "security code in context",
            r"(?i)\b(?:cvv2?|cvc2?|cvn|csc|security code|card verification(?: code| number| value)?|(?:three|3) digits? on the back)\b[^0-9\n]{0,25}(?P<v>\d(?:[ \-]?\d){2,3})\b",
            0.9,
            7,
        ),
        Pattern(
            "CARD_EXPIRY",
            "expiry date in context",
            r"(?i)\b(?:exp|expir(?:y|es?|ed|ing|ation)(?: date)?|valid (?:thru|through|until|till|to)|good (?:thru|through))\b[^0-9\n]{0,15}(?P<v>(?:0?[1-9]|1[0-2]) ?[/\- ] ?(?:20)?\d{2}|(?:0[1-9]|1[0-2])(?:20)?[2-4]\d)\b",
            0.85,
            9,
        ),
    ]


def bank_patterns() -> list[Pattern]:
    """Bank accounts and routes."""
    account = r"(?:account|acct|a/c|checking|savings|direct debit|bank details)"
    return [
        Pattern(
            "IBAN_CODE",
            "IBAN: country length and mod 97",
            r"(?i)\b[A-Z]{2}\d{2}(?:[ \-]?[A-Z0-9]){11,30}",
            1.0,
            42,
            checks.iban,
        ),
        Pattern(
            "ABA_ROUTING_NUMBER",
            "routing number: check sum, in context",
            r"\b\d{4}[ \-]?\d{4}[ \-]?\d\b",
            0.95,
            11,
            checks.whole(checks.is_aba_routing),
            context=r"(?:routing|aba\b|rtn\b|transit)",
            countries=US,
        ),
        Pattern(
            "SORT_CODE",
            "sort code in context",
            r"\b\d{2}[ \-]?\d{2}[ \-]?\d{2}\b",
            0.9,
            8,
            context=r"sort ?code",
            countries=UK,
        ),
        Pattern(
            "BANK_ACCOUNT",
            "account number in context",
            rf"(?i)\b{account}" + r"\b[^0-9\n]{0,30}?(?P<v>\d(?:[ \-]?\d){5,16})\b",
            0.8,
            33,
        ),
        Pattern(
            "BANK_ACCOUNT", "eight digits beside a sort code", r"\b\d{8}\b", 0.85, 8, context=r"(?:sort ?code|account)"
        ),
        Pattern("BANK_ACCOUNT", "CLABE in context", r"\b\d{18}\b", 0.9, 18, context=r"(?:clabe|cuenta)", countries=MX),
    ]


def government_patterns() -> list[Pattern]:
    """Numbers that a state gives to a person."""
    ssn = r"(?:social|ssn|ss ?#|ss number)"
    return [
        Pattern(
            "US_SSN",
            "SSN with dashes",
            r"\b\d{3}[\- .]\d{2}[\- .]\d{4}\b",
            0.95,
            11,
            checks.whole(checks.is_ssn),
            countries=US,
        ),
        Pattern(
            "US_SSN",
            "nine digits called an SSN",
            r"\b\d{3}[\- .]?\d{2}[\- .]?\d{4}\b",
            0.95,
            11,
            checks.whole(checks.is_ssn),
            context=ssn,
            countries=US,
        ),
        Pattern("US_SSN", "last four of an SSN", rf"(?i)\b{ssn}[^0-9\n]{{0,40}}(?P<v>\d{{4}})\b", 0.8, 4, countries=US),
        Pattern(
            "US_ITIN",
            "ITIN ranges",
            r"\b9\d{2}[\- ]\d{2}[\- ]\d{4}\b",
            0.9,
            11,
            checks.whole(checks.is_itin),
            countries=US,
        ),
        Pattern(
            "US_ITIN",
            "nine digits called an ITIN",
            r"\b9\d{8}\b",
            0.9,
            9,
            checks.whole(checks.is_itin),
            context=r"(?:itin|taxpayer)",
            countries=US,
        ),
        Pattern(
            "UK_NINO",
            "National Insurance number",
            r"(?i)\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ \-]?\d{2}[ \-]?\d{2}[ \-]?\d{2}[ \-]?[A-D]\b",
            0.95,
            13,
            checks.whole(checks.is_nino),
            countries=UK,
        ),
        Pattern(
            "UK_NHS",
            "NHS number: mod 11, in context",
            r"\b\d{3}[ \-]?\d{3}[ \-]?\d{4}\b",
            0.95,
            12,
            checks.whole(checks.is_nhs),
            context=r"(?:nhs|health service|patient)",
            countries=UK,
        ),
        Pattern(
            "IN_AADHAAR",
            "Aadhaar: Verhoeff",
            r"\b[2-9]\d{3}[ \-]?\d{4}[ \-]?\d{4}\b",
            0.95,
            14,
            checks.whole(checks.is_aadhaar),
            countries=IN,
        ),
        Pattern("IN_PAN", "PAN", r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b", 0.9, 10, countries=IN),
        Pattern(
            "ES_ID",
            "DNI or NIE: control letter",
            r"(?i)\b(?:\d{8}|[XYZ]\d{7})[ \-]?[A-Z]\b",
            0.95,
            10,
            checks.whole(checks.is_spanish_id),
            countries=ES | EU,
        ),
        Pattern("MX_CURP", "CURP", r"\b[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d\b", 0.95, 18, countries=MX),
        Pattern("MX_RFC", "RFC of a person", r"\b[A-Z&]{4}\d{6}[A-Z0-9]{3}\b", 0.85, 13, countries=MX),
        Pattern(
            "EU_VAT",
            "VAT number in context",
            r"\b[A-Z]{2}[ ]?U?\d{8,12}(?:B\d{2})?\b",
            0.8,
            16,
            context=r"(?:vat|tax)",
            countries=EU | UK,
        ),
        Pattern(
            "PASSPORT",
            "passport number in context",
            r"(?i)\bpassport" + LINK + r"[^0-9\n]{0,12}?(?P<v>[A-Z]{0,3}\d[A-Z0-9]{5,10})\b",
            0.85,
            14,
        ),
        Pattern(
            "DRIVER_LICENSE",
            "licence number in context",
            r"(?i)\b(?:driv(?:er'?s?|ers'?|ing) licen[sc]e|licen[sc]e (?:number|no|plate)|(?:my|dl) licen[sc]e|permit)"
            + LINK
            + r"(?P<v>[A-Z0-9]{0,6}\d[A-Z0-9]*(?:[\- ][A-Z0-9]*\d[A-Z0-9]*){0,4})\b",
            0.8,
            30,
        ),
        Pattern(
            "DATE_OF_BIRTH",
            "date of birth in context",
            rf"(?i)\b(?:born(?: on| in)?|d\.?o\.?b\.?|date of birth|birth ?da(?:y|te))\b[^0-9\n]{{0,25}}?(?P<v>{DATE})",
            0.9,
            25,
        ),
    ]


def record_patterns() -> list[Pattern]:
    """Numbers that a business gives: accounts, customers, orders. A policy adds its own forms."""

    def record(kind: str, words: str, score: float) -> Pattern:
        regex = rf"(?i)\b(?:{words})(?:\s+(?:number|no\.?|num|id|code|ref(?:erence)?)|\s?#|#)+(?:\s*(?:is|was|:|=|-|,|it's))*\s*{IDENTIFIER}\b"
        return Pattern(
            kind,
            f"{kind.lower().replace('_', ' ')} in context",
            regex,
            score,
            40,
            checks.whole(lambda text: len(checks.digits_of(text)) >= 3),
        )

    return [
        record("ACCOUNT_NUMBER", r"account|acct", 0.75),
        record(
            "CUSTOMER_NUMBER", r"customer|client|member(?:ship)?|policy|loyalty|subscriber|employee|user|patient", 0.75
        ),
        record(
            "ORDER_NUMBER",
            r"order|booking|confirmation|case|ticket|invoice|claim|tracking|reference|reservation|transaction",
            0.7,
        ),
        Pattern(
            "SECRET",
            "password or PIN in context",
            r"(?i)\b(?:pass(?:word|code|phrase)|pin(?: code| number)?|one.?time (?:code|password)|otp)(?: is| was|:|=)\s*(?P<v>[^\s,;.]*\d[^\s,;]{2,60})",
            0.8,
            64,
        ),
    ]
