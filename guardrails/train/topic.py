"""Training of the off-topic head: `python -m guardrails.train topic --data DIR`.

It fits a logistic head over sentence embeddings, and chooses its threshold on a validation part; nothing of it runs in the gateway.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from guardrails.detectors.topic import WEIGHTS, readable
from guardrails.train.data import is_validation, rows, sentence_embedder

ON_TOPIC_DOMAINS = {"banking", "credit_cards"}
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
my name is person and my account number is bank account
my date of birth is date of birth and my postcode is post code
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
can you send the confirmation to my email email address
please call me back on phone number after five
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
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")


def run(chosen: argparse.Namespace) -> dict[str, float]:
    """Trains, writes the weights, returns the validation figures."""
    kept = train_topic(chosen.data)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    figures: dict[str, float] = kept["figures"]
    return figures


def topic_examples(data: Path) -> tuple[list[str], list[int]]:
    """Texts and labels (1: off topic), from Banking77, CLINC150 and NLU++ banking (all CC-BY) and the lines above."""
    labelled = [(row["text"], 0) for row in rows(data / "topic_banking77.jsonl")]
    for row in rows(data / "topic_clinc150.jsonl"):
        if row["domain"] in ("small_talk", "meta"):
            continue  # greetings and thanks are neither
        labelled.append((row["text"], 0 if row["domain"] in ON_TOPIC_DOMAINS else 1))
    labelled += [
        (row["text"], 0) for row in rows(data / "topic_nlupp.jsonl") if row["domain"] == "banking" for _ in range(3)
    ]
    labelled += [(line, 0) for line in SMALL_TALK.splitlines() for _ in range(20)]
    return [text for text, _ in labelled], [label for _, label in labelled]


def train_topic(data: Path) -> dict[str, Any]:
    """The head fitted on four fifths, and its validation figures with the threshold chosen on the rest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    texts, labels = topic_examples(data)
    embed = sentence_embedder()
    unique = list(dict.fromkeys(texts))
    vectors = dict(zip(unique, embed([readable(text) for text in unique]), strict=True))
    held = np.array([is_validation(text) and text not in set(SMALL_TALK.splitlines()) for text in texts])
    features, wanted = np.stack([vectors[text] for text in texts]), np.array(labels)
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=2000).fit(features[~held], wanted[~held])
    scores = model.predict_proba(features[held])[:, 1]
    on, off = scores[wanted[held] == 0], scores[wanted[held] == 1]
    nlupp = [
        row["text"]
        for row in rows(data / "topic_nlupp.jsonl")
        if row["domain"] == "banking" and is_validation(row["text"])
    ]
    other_style = model.predict_proba(embed([readable(text) for text in nlupp]))[:, 1]
    threshold = float(max(np.quantile(on, 0.995), np.quantile(other_style, 0.99), 0.5))
    figures = {
        "validation.rows": int(held.sum()),
        "validation.auroc": float(roc_auc_score(wanted[held], scores)),
        "threshold": round(threshold, 3),
        "validation.off_topic_caught": float((off > threshold).mean()),
        "validation.false_positives": float((on > threshold).mean()),
        "nlupp_banking.false_positives": float((other_style > threshold).mean()),
        "nlupp_banking.auroc": float(
            roc_auc_score(np.r_[np.zeros(len(other_style)), np.ones(len(off))], np.r_[other_style, off])
        ),
    }
    kept = {
        "weights": [round(float(w), 5) for w in model.coef_[0]],
        "bias": round(float(model.intercept_[0]), 5),
        "figures": figures,
    }
    return kept
