"""`make bench-tokens`: in which form do models copy the tokens that stand for personal data most faithfully?

Sentences of a contact centre with two or three tokens are given to a model to repeat, to put into JSON and to answer; counted is how many tokens come
back character for character, how many come back damaged (the word without its marks), and what a token costs. Asks the embedded model, or any
OpenAI-compatible server named by MODEL_URL (ending in /v1) and MODEL, for instance vLLM. QUICK=1 takes a third. Ends with one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tests.bench.bench_judges import embedded

QUICK = bool(os.environ.get("QUICK"))
FORMS = {
    "[PERSON_1]": "[{kind}_{n}]",
    "<PERSON_1>": "<{kind}_{n}>",
    "{PERSON_1}": "{{{kind}_{n}}}",
    "{{PERSON_1}}": "{{{{{kind}_{n}}}}}",
    "[[PERSON_1]]": "[[{kind}_{n}]]",
    "[PERSON-1]": "[{kind}-{n}]",
    "PERSON_1": "{kind}_{n}",
    "__PERSON_1__": "__{kind}_{n}__",
    "⟦PERSON_1⟧": "⟦{kind}_{n}⟧",
}
SENTENCES = (
    "My name is {PERSON} and my phone number is {PHONE_NUMBER}.",
    "Please send the receipt to {EMAIL_ADDRESS} and call {PERSON} on {PHONE_NUMBER}.",
    "The card {CREDIT_CARD} of {PERSON} was declined yesterday.",
    "I moved to {STREET_ADDRESS}, and my customer number is {CUSTOMER_NUMBER}.",
    "The refund goes to {IBAN_CODE}, the account of {PERSON}.",
    "Dear {PERSON}, we received your payment for order {ORDER_NUMBER}.",
)
TASKS = (
    "Repeat this sentence exactly: {}",
    'Put this sentence into JSON as the value of "note", and change nothing in it: {}',
    "Answer the caller in one sentence and mention all of these details again: {}",
)
NUMBERS = (1, 3, 12)


def main() -> int:
    """Exit code: 0 measured."""
    with model() as (url, name):
        figures = {form: measure(url, name, pattern) for form, pattern in FORMS.items()}
    table = Table(
        "form", "copied", "damaged", "repeat", "JSON", "answer", "tokens each", title=f"Tokens copied by {name}"
    )
    for form, row in figures.items():
        parts = [f"{row[key]:.3f}" for key in ("copied", "damaged", "repeat", "json", "answer")]
        table.add_row(form.replace("[", r"\["), *parts, f"{row['cost']:.1f}" if row["cost"] else "")
    Console().print(table)
    print(json.dumps({"model": name, "forms": figures}, ensure_ascii=False))
    return 0


@contextmanager
def model() -> Iterator[tuple[str, str]]:
    """Where a model is, and its name."""
    if url := os.environ.get("MODEL_URL"):
        yield url.rstrip("/"), os.environ.get("MODEL", "")
        return
    with embedded() as served:
        if served is None:
            sys.exit("the embedded model did not start; name another one by MODEL_URL and MODEL")
        yield served


def measure(url: str, name: str, pattern: str) -> dict[str, float]:
    """Shares of the tokens of all prompts; each prompt is asked once, without sampling."""
    tally = {task: [0, 0, 0] for task in ("repeat", "json", "answer")}
    cases = list(product(range(len(TASKS)), SENTENCES, NUMBERS))
    for task, sentence, number in cases[:: 3 if QUICK else 1]:
        kinds = [piece.split("}")[0] for piece in sentence.split("{")[1:]]
        tokens = {kind: pattern.format(kind=kind, n=number) for kind in kinds}
        said = ask(url, name, TASKS[task].format(sentence.format(**tokens)))
        counted = tally[tuple(tally)[task]]
        for kind, token in tokens.items():
            counted[0] += 1
            counted[1] += token in said
            counted[2] += token not in said and kind in said
    total, copied, damaged = map(sum, zip(*tally.values(), strict=True))
    by_task = {task: row[1] / max(1, row[0]) for task, row in tally.items()}
    return {"copied": copied / total, "damaged": damaged / total, **by_task, "cost": cost(url, pattern)}


def ask(url: str, name: str, text: str) -> str:
    body = {"model": name, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 96}
    said: str = post(f"{url}/chat/completions", body)["choices"][0]["message"]["content"]
    return said


def cost(url: str, pattern: str) -> float:
    """Model tokens of one, where the server tells (llama.cpp's /tokenize); else 0."""
    try:
        counted = [
            len(post(f"{url.removesuffix('/v1')}/tokenize", {"content": pattern.format(kind=kind, n=1)})["tokens"])
            for kind in ("PERSON", "PHONE_NUMBER", "EMAIL_ADDRESS", "CREDIT_CARD")
        ]
    except (httpx.HTTPError, KeyError, ValueError):
        return 0.0
    return sum(counted) / len(counted)


def post(url: str, body: dict[str, Any]) -> Any:
    with httpx.Client(trust_env=False, timeout=120) as client:
        return client.post(url, json=body).raise_for_status().json()


if __name__ == "__main__":
    sys.exit(main())
