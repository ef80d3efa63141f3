"""Training of the off-topic cascade: `python -m guardrails.train topic --data DIR`.

On topic: Banking77, the banking and card domains of CLINC150, NLU++ banking, and what callers of any contact centre say (below, and in phrases/, angry ones
too). Off topic: the other domains of CLINC150 and its out-of-scope questions, and requests to assistants.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.topic import SHORTEST_WORDS
from guardrails.train.applications import Said, bank_messages, requests, written_calls
from guardrails.train.care import amid, care, long_turns
from guardrails.train.cascade import Example, Floats
from guardrails.train.data import rows
from guardrails.train.detector import Aims, Trained, from_sources, rounded, train, weights_arguments
from guardrails.train.fit import Trainer
from guardrails.train.grammar import load_grammar
from guardrails.train.ordinary import calls, everyday
from guardrails.train.points import Limits, calibration_error

SEED = 17
NEAR = 1200  # of each side
LONG_TURNS, LONG_OFF = 3000, 1000
INDUSTRIES = ("bank", "telecom")
ON_TOPIC_DOMAINS = {"banking", "credit_cards"}
CLINC, BANKING, SPOKEN = "topic_clinc150.jsonl", "topic_banking77.jsonl", "topic_nlupp.jsonl"
FLAGGED_ON_TOPIC = 0.004
FLAGGED_SPOKEN = 0.006
FLAGGED_NEAR = 0.06  # of our own questions near other businesses
FLAGGED_CALLS = 0.01  # of written calls, each family left out
OTHER_BUSINESSES = ("claims", "policies", "trips", "shopping", "utilities", "es_seguro_y_viaje")
EACH_CALL, REQUESTS = 200, 1200
ASKED = 0.06  # of on-topic turns, short and long
CALLED = ("written: calls", "written: everyday")
# What callers of any contact centre say around their business; written for this project.
SMALL_TALK = """\
hello there how are you today
good morning i hope you can help me
thank you so much for your help with this
thanks that is all i needed today goodbye
can i speak to a real person please
i want to talk to your supervisor right now
please transfer me to an agent
this is the third time i have called about this and nobody helps me
your service is absolutely terrible and i want to complain
i have been waiting on hold for forty minutes
my name is anna and my account number is 0000
my date of birth is 00 may 0000 and my postcode is x00 0xx
the last four digits are four two four two
i need to verify my identity for my account
could you repeat that please i did not hear you
i would like to change the phone number on my account
my address has changed can you update it
i moved house and need to give you my new address
my broadband has been down since yesterday
the internet at my house is very slow tonight
i have no signal on my phone since this morning
how much does roaming cost in spain
i want to upgrade my mobile plan to unlimited data
my bill is much higher than last month why
can you explain the charges on my phone bill
i want to cancel my contract with you
please send me a new sim card
i lost my phone and need to block the sim
someone swapped my sim without my permission
when will the engineer come to install my router
i was charged twice for the same payment
i want a refund for the late delivery fee
where is my order it should have arrived on monday
i would like to return the handset i bought
can you send the confirmation to my email anna@example.com
please call me back on 00000 000000 after five
what are your opening hours on saturday
do you have a branch near me
i need a copy of my last three statements
someone used my card and i did not make that payment
i think i have been scammed please stop the transfer
please set up a direct debit for my bill
how do i reset the password for the app
the app keeps crashing when i try to log in
what is the interest rate on your personal loan
can i get a payment extension i cannot pay this month
i am calling about a letter i received from you
is there any update on my complaint case
please spell your name for me
yes that is correct please go ahead
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    weights_arguments(parser, "topic")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the out-of-fold figures."""
    done = train(chosen, ("off_topic",), examples(chosen.data), _aims, ("written",))
    return rounded(measured(done.trainer, done.points.logits[:, 0]) | _without_spoken(done))


def _aims(trainer: Trainer) -> Aims:
    on, long_enough = trainer.labels[:, 0] < 0.5, _long_enough(trainer)
    ordinary, spoken = on & ~trainer.written & long_enough, from_sources(trainer, SPOKEN) & long_enough
    near = from_sources(trainer, "written: near on")
    said = on & long_enough & np.array([e.source.startswith(CALLED) for e in trainer.corpus.examples])
    short = ((ordinary, FLAGGED_ON_TOPIC), (spoken, FLAGGED_SPOKEN), (near, FLAGGED_NEAR), (said, FLAGGED_CALLS))
    limits = Limits(short, ())
    return Aims([limits], [ordinary, long_turns(trainer)], ASKED)


def _long_enough(trainer: Trainer) -> NDArray[np.bool_]:
    """Which texts are judged at all."""
    return np.array([len(example.text.split()) >= SHORTEST_WORDS for example in trainer.corpus.examples])


def measured(trainer: Trainer, logits: Floats) -> dict[str, float]:
    """Out of fold: AUROC against CLINC150's other domains and its out-of-scope questions, shares flagged."""
    from sklearn.metrics import roc_auc_score

    off, spoken = from_sources(trainer, CLINC) & (trainer.labels[:, 0] > 0.5), from_sources(trainer, SPOKEN)
    on = from_sources(trainer, BANKING, CLINC) & (trainer.labels[:, 0] < 0.5)
    real = trainer.heads & ~trainer.written
    figures = {
        "auroc": float(roc_auc_score(trainer.labels[on | off, 0], logits[on | off])),
        "auroc.nlupp": float(roc_auc_score(trainer.labels[spoken | off, 0], logits[spoken | off])),
        "calibration_error": calibration_error(logits[real], trainer.labels[real, 0], trainer.weight[real]),
        "off_topic": float((logits[off] > 0).mean()),
        "on_topic": float((logits[on] > 0).mean()),
        "nlupp": float((logits[spoken & _long_enough(trainer)] > 0).mean()),
    }
    for source in dict.fromkeys(example.source for example in trainer.corpus.examples):
        figures[f"flagged: {source}"] = float((logits[from_sources(trainer, source) & trainer.heads] > 0).mean())
    return figures


def _without_spoken(done: Trained) -> dict[str, float]:
    """AUROC of spoken banking turns, trained without any, against CLINC150's off-topic ones."""
    from sklearn.metrics import roc_auc_score

    trainer, spoken = done.trainer, from_sources(done.trainer, SPOKEN)
    off = from_sources(trainer, CLINC) & (trainer.labels[:, 0] > 0.5)
    best, _ = trainer.combined(trainer.scored(spoken, done.scores))
    usual, _ = trainer.combined(done.scores)
    logits = np.where(spoken, best[:, 0], usual[:, 0])
    rows = spoken & _long_enough(trainer) | off
    return {"left out: auroc.nlupp": float(roc_auc_score(trainer.labels[rows, 0], logits[rows]))}


def examples(data: Path) -> list[Example]:
    """Label 1: off topic for a bank's or telecom's contact centre."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    found = [
        Example(row["text"], (0.0,), BANKING, row["group"], 1.0, rng.random() < 0.6) for row in rows(data / BANKING)
    ]
    found += [
        Example(row["text"], (float(row["domain"] not in ON_TOPIC_DOMAINS),), CLINC, row["group"])
        for row in rows(data / CLINC)
        if row["domain"] not in ("small_talk", "meta")  # greetings and thanks are neither
    ]
    found += [
        Example(row["text"], (0.0,), SPOKEN, row["group"], 3.0)
        for row in rows(data / SPOKEN)
        if row["domain"] == "banking"
    ]
    asked = [row["prompt"] for row in rows(data / "judge_hallucination_halueval_general.jsonl")]
    found += [
        Example(text, (1.0,), "judge_hallucination_halueval_general.jsonl", text, 0.5)
        for text in rng.sample(asked, 1200)
    ]
    found += [Example(line, (0.0,), "written: small talk", line, 5.0) for line in SMALL_TALK.splitlines()]
    for name, families in (
        ("ordinary", ("call_centre",)),
        ("abuse", ("profanity", "harassment", "threat", "harmless")),
    ):
        grammar = load_grammar(name)
        for family in families:
            found += [
                Example(text, (0.0,), f"written: {name} {family}", f"{family} {text[:18]}", 0.5)
                for text in grammar.many(family, 500, rng)
            ]
    return [*found, *_near(rng), *_long(data, rng), *_calls(data)]


def _calls(data: Path) -> list[Example]:
    """What callers say in passing, whatever the language, and what applications ask: on topic around calls, off topic around other things."""
    rng = random.Random(SEED)  # noqa: S311 (texts, not secrets)
    on = Said([*bank_messages(data), *written_calls(rng, OTHER_BUSINESSES)])
    off = Said(
        [row["text"] for row in rows(data / CLINC) if row["domain"] not in {*ON_TOPIC_DOMAINS, "small_talk", "meta"}]
    )
    said = [e for e in calls(rng, EACH_CALL) if not e.source.endswith(OTHER_BUSINESSES)]
    aside = [replace(e, source=f"other {e.source}") for e in requests(off, REQUESTS, rng, (1.0,))]
    found = [*said, *everyday(rng), *requests(on, REQUESTS, rng), *aside]
    return [replace(e, source=f"written: {e.source}") for e in found]


def _near(rng: random.Random) -> list[Example]:
    """Questions near the business that are not its own, and such that are, in nearly the same words."""
    grammar = load_grammar("near")
    return [
        Example(text, (float(family == "off"),), f"written: near {family}", f"near {text[:14]}", 0.7)
        for family in ("off", "on")
        for text in grammar.many(family, NEAR, rng)
    ]


def _long(data: Path, rng: random.Random) -> list[Example]:
    """Turns of several sentences: about the business, and off topic with a polite word around it."""
    off = [row for row in rows(data / CLINC) if row["domain"] not in {*ON_TOPIC_DOMAINS, "small_talk", "meta"}]
    return [
        *care(data, rng, LONG_TURNS, INDUSTRIES, 0.7),
        *(
            Example(amid(rng, row["text"], ("talk",)), (1.0,), "long off topic", row["group"], 0.7)
            for row in rng.sample(off, LONG_OFF)
        ),
    ]
