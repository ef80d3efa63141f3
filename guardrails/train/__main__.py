"""`python -m guardrails.train DETECTOR --data DIR`: reads labelled data, writes weights and their card, prints their validation figures.

A detector is a module of this folder with ``add_arguments(parser)`` and ``run(arguments) -> figures``; it is imported when chosen.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from guardrails.train.card import card_of

DETECTORS = ("harm", "indirect", "injection", "ner", "promises", "topic", "toxicity", "unusual")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m guardrails.train")
    detectors = parser.add_subparsers(dest="detector", required=True)
    modules = {name: importlib.import_module(f"guardrails.train.{name}") for name in DETECTORS}
    for name, module in modules.items():
        one = detectors.add_parser(name, help=(module.__doc__ or "").partition(":")[0])
        one.add_argument("--data", type=Path, required=True, help="folder of labelled data (CALLGATE_DATA_DIR)")
        module.add_arguments(one)
    chosen = parser.parse_args(arguments)
    figures = modules[chosen.detector].run(chosen)
    print(json.dumps(figures, indent=2))
    if chosen.out.suffix == ".npz":
        command = f"python -m guardrails.train {chosen.detector} --data $CALLGATE_DATA_DIR"
        kept = json.dumps({"command": command, "figures": figures}, indent=1)
        chosen.out.with_name("figures.json").write_text(kept + "\n", encoding="utf-8")
        chosen.out.with_name("MODEL_CARD.md").write_text(card_of(chosen.detector, figures), encoding="utf-8")


if __name__ == "__main__":
    main()
