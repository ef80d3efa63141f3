"""Names, addresses, places and organisations: trains the small tagger that the name finder runs.

Sentences are generated and read by ``ner_data``; half of them are written as speech recognition writes, and words are hidden so that the model learns
contexts and not only names. Adam on a few convolutions, in numpy. It knows nothing of patterns, and learns English sentences alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guardrails.detectors import tagger
from guardrails.detectors.tagger import LABELS, LAYERS, ROWS, TAGS, Floats, Tagger
from guardrails.train import ner_data
from guardrails.train.ner_names import Example, Generator, Lists, Spans

OUTPUT = Path(__file__).parents[1] / "models" / "ner"
WIDTH = 96
BATCH = 96
# Share of each source in a batch.
MIX = {"generated": 0.42, "synthetic": 0.12, "restaurant": 0.1, "masked": 0.08, "venues": 0.06, "ordinary": 0.22}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it goes, and how long it may take."""
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--cpu-seconds", type=float, default=300.0, help="CPU time after which training stops")
    parser.add_argument("--seed", type=int, default=7)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, choose limits, store, and measure on what was held out."""
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    data, lists = arguments.data, Lists()
    classes = ner_data.word_classes(lists, ner_data.lower_case_words(data))
    generator = Generator(lists, rng)
    sources = _sources(data, generator, rng)
    training = Training(classes, arguments.seed)
    begun, step = time.process_time(), 0
    while (spent := time.process_time() - begun) < arguments.cpu_seconds:
        batch = [_spoken(sources[name](), rng) for name, share in MIX.items() for _ in range(round(BATCH * share))]
        rate = 0.001 * min(1.0, (step + 1) / 200) * max(0.02, 1 - spent / arguments.cpu_seconds)
        loss = training.step(batch, rate, rng)
        step += 1
        if step % 200 == 0:
            print(f"{spent:.0f} s, step {step}, loss {loss:.4f}", flush=True)
    training.store(arguments.output, {"seed": arguments.seed, "steps": step})
    return measure(arguments.output, data, lists) | {"cpu_s": round(spent), "steps": step}


def _sources(data: Path, generator: Generator, rng: random.Random) -> dict[str, Callable[[], Example]]:
    synthetic = ner_data.synthetic_rows(data, held_out=False)
    restaurant = ner_data.restaurant_rows(data, held_out=False)
    named = [row for row in restaurant if row[1]]
    nameless = [row for row in restaurant if not row[1]]
    venues = list(ner_data.venue_rows(data))
    ordinary = ner_data.ordinary_rows(data, held_out=False)
    quiet, naming = [row for row in ordinary if not row[1]], [row for row in ordinary if row[1]]
    with_names = [text for text in ner_data.masked_texts(data) if "[NAME]" in text]
    makers = {"PERSON": generator.person, "LOCATION": generator.place, "ORGANIZATION": generator.org}

    def swapped(example: Example, share: float) -> Example:
        text, out, spans, position = example[0], "", [], 0
        for start, end, label in example[1]:
            out += text[position:start]
            make = generator.address if label == "STREET_ADDRESS" else makers[label]
            value = make() if rng.random() < share else text[start:end]
            spans.append((len(out), len(out) + len(value), label))
            out, position = out + value, end
        return out + text[position:], spans

    def filled() -> Example:
        text = rng.choice(with_names).replace("[RELIGION]", rng.choice(("Christian", "Muslim", "Hindu", "Catholic")))
        return generator.filled(re.sub(r"[{}\[\]|]", "", text.replace("[NAME]", "\x01")).replace("\x01", "{person}"))

    def turn() -> Example:
        if rng.random() < 0.1:
            return swapped(rng.choice(naming), 0.6)
        text, _ = rng.choice(quiet)
        return text, ner_data.known_places(text, generator.large_places)

    return {
        "generated": generator.example,
        "synthetic": lambda: swapped(rng.choice(synthetic), 0.5),
        "restaurant": lambda: swapped(rng.choice(named), 0.7) if rng.random() < 0.8 else rng.choice(nameless),
        "masked": filled,
        "venues": lambda: rng.choice(venues),
        "ordinary": turn,
    }


def _spoken(example: Example, rng: random.Random) -> Example:
    """Half of the time as written; else in lower case, without punctuation, in capitals, or with fillers between words."""
    text, spans = example
    draw = rng.random()
    if draw < 0.5:
        return example
    changed = text.upper() if draw > 0.97 else text.title() if draw > 0.95 else text.lower()
    if len(changed) != len(text):
        return example
    if draw < 0.75:
        changed = re.sub(r"[,.?!;:](?=\s|$)", " ", changed)
    if draw < 0.55 and (spaces := [m.start() for m in re.finditer(" ", changed)]):
        place = rng.choice(spaces)
        if not any(start <= place < end for start, end, _ in spans):
            filler = rng.choice((" um", " uh", " like", " you know", " er"))
            moved: Spans = [(s + len(filler) * (s > place), e + len(filler) * (s > place), x) for s, e, x in spans]
            return changed[:place] + filler + changed[place:], moved
    return changed, spans


def tags_of(spans: Iterable[tuple[int, int, str]], places: Sequence[tuple[int, int]]) -> list[int]:
    """The tag of each token; a token that a span touches belongs to it."""
    tags = [0] * len(places)
    for start, end, label in spans:
        inside = [n for n, (a, b) in enumerate(places) if a < end and start < b]
        if not inside:
            continue
        first = 1 + 4 * LABELS.index(label)
        for n in inside:
            tags[n] = first + 1
        tags[inside[0]], tags[inside[-1]] = first, first + 2
        if len(inside) == 1:
            tags[inside[0]] = first + 3
    return tags


class Training:
    """The weights, their averages, and one step of Adam."""

    def __init__(self, classes: dict[str, int], seed: int) -> None:
        noise = np.random.default_rng(seed)
        self._noise, self._classes = noise, classes
        weights = {
            "embedding": noise.normal(0, 0.1, (ROWS, WIDTH)),
            "gain_e": np.ones(WIDTH),
            "shift_e": np.zeros(WIDTH),
        }
        for layer in range(LAYERS):
            weights[f"mix{layer}"] = noise.normal(0, (2 / (3 * WIDTH)) ** 0.5, (3 * WIDTH, 2 * WIDTH))
            weights |= {
                f"bias{layer}": np.zeros(2 * WIDTH),
                f"gain{layer}": np.ones(WIDTH),
                f"shift{layer}": np.zeros(WIDTH),
            }
        weights |= {"out": noise.normal(0, 0.05, (WIDTH, len(TAGS))), "out_bias": np.zeros(len(TAGS))}
        self.weights: dict[str, Floats] = {name: value.astype(np.float32) for name, value in weights.items()}
        self.average = {name: value.copy() for name, value in self.weights.items()}
        self._first = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self._second = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self._steps = 0
        self._rows: dict[str, list[int]] = {}

    def step(self, batch: Sequence[Example], rate: float, rng: random.Random) -> float:
        """One update; returns the mean loss of a token."""
        rows, tags = [[-1] * 11], [-1]
        for text, spans in batch:
            places = tagger.tokens(text)
            wanted = tags_of(spans, places)
            rows += [self._hidden(text[a:b], tag > 0, rng) for (a, b), tag in zip(places, wanted, strict=True)]
            rows.append([-1] * 11)
            tags += [*wanted, -1]
        gradients, touched, loss = self._gradients(np.array(rows), np.array(tags))
        self._update(gradients, touched, rate)
        return loss

    def _hidden(self, word: str, named: bool, rng: random.Random) -> list[int]:
        """A word's rows, sometimes without its identity or without what the lists say of it."""
        rows = self._rows.get(word)
        if rows is None:
            rows = self._rows[word] = tagger.features(word, self._classes)
        if rng.random() < (0.25 if named else 0.06):
            unknown = tagger.features("\x00", {})
            rows = [*unknown[:2], *rows[2:]]
        if rng.random() < (0.2 if named else 0.03):
            rows = [*rows[:6], *tagger.class_rows(0)]
        return rows

    def _gradients(self, rows: Any, tags: Any) -> tuple[dict[str, Floats], Any, float]:
        w, real = self.weights, (tags >= 0).astype(np.float32)[:, None]
        kept = np.where(rows < 0, 0, rows)
        summed = w["embedding"][kept].sum(1)
        states, back_e = _normalise(summed, w["gain_e"], w["shift_e"])
        states = states * real
        drop_e = (self._noise.random(states.shape, np.float32) > 0.1) / np.float32(0.9)
        states = states * drop_e
        memory = []
        for layer in range(LAYERS):
            padded = np.pad(states, ((1, 1), (0, 0)))
            window = np.concatenate([padded[:-2], states, padded[2:]], 1)
            pieces = window @ w[f"mix{layer}"] + w[f"bias{layer}"]
            left = pieces[:, :WIDTH] >= pieces[:, WIDTH:]
            most = np.where(left, pieces[:, :WIDTH], pieces[:, WIDTH:])
            normal, back = _normalise(most, w[f"gain{layer}"], w[f"shift{layer}"])
            drop = (self._noise.random(normal.shape, np.float32) > 0.1) / np.float32(0.9)
            states = states + normal * drop * real
            memory.append((window, left, back, drop))
        logits = states @ w["out"] + w["out_bias"]
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        chances = shifted / shifted.sum(1, keepdims=True)
        count = float(real.sum())
        right = np.clip(tags, 0, None)
        loss = float(-(np.log(chances[np.arange(len(tags)), right] + 1e-9) * real[:, 0]).sum() / count)
        chances[np.arange(len(tags)), right] -= 1
        error = chances * real / count
        g: dict[str, Floats] = {"out": states.T @ error, "out_bias": error.sum(0)}
        flow = error @ w["out"].T
        for layer in reversed(range(LAYERS)):
            window, left, back, drop = memory[layer]
            d_most, g[f"gain{layer}"], g[f"shift{layer}"] = back(flow * drop * real)
            d_pieces = np.concatenate([d_most * left, d_most * ~left], 1)
            g[f"mix{layer}"], g[f"bias{layer}"] = window.T @ d_pieces, d_pieces.sum(0)
            d_window = d_pieces @ w[f"mix{layer}"].T
            flow = flow + d_window[:, WIDTH : 2 * WIDTH]
            flow[:-1] += d_window[1:, :WIDTH]
            flow[1:] += d_window[:-1, 2 * WIDTH :]
            flow *= real
        d_summed, g["gain_e"], g["shift_e"] = back_e(flow * drop_e * real)
        touched, g["embedding"] = _scattered(kept, d_summed)
        return g, touched, loss

    def _update(self, gradients: dict[str, Floats], touched: Any, rate: float) -> None:
        norm = float(np.sqrt(sum(float((value**2).sum()) for value in gradients.values())))
        clip = min(1.0, 1.0 / (norm + 1e-9))
        self._steps += 1
        correct = (1 - 0.999**self._steps) ** 0.5 / (1 - 0.9**self._steps)
        decay = min(0.9995, (1 + self._steps) / (10 + self._steps))
        for name, value in gradients.items():
            at = touched if name == "embedding" else slice(None)
            step = value * clip
            first = self._first[name][at] = 0.9 * self._first[name][at] + 0.1 * step
            second = self._second[name][at] = 0.999 * self._second[name][at] + 0.001 * step**2
            self.weights[name][at] -= rate * correct * first / (np.sqrt(second) + 1e-8)
            if name != "embedding":
                self.average[name] *= decay
                self.average[name] += (1 - decay) * self.weights[name]
        if self._steps % 20 == 0:  # the table is large: averaged every 20 steps
            slow = decay**20
            self.average["embedding"] *= slow
            self.average["embedding"] += (1 - slow) * self.weights["embedding"]

    def store(self, folder: Path, card: dict[str, Any]) -> None:
        """Weights in half precision, words by class, and limits of nothing yet."""
        folder.mkdir(parents=True, exist_ok=True)
        halves: dict[str, Any] = {name: value.astype(np.float16) for name, value in self.average.items()}
        np.savez_compressed(folder / "weights.npz", **halves)
        by_class: dict[int, list[str]] = defaultdict(list)
        for word, number in sorted(self._classes.items()):
            by_class[number].append(word)
        kept = {str(number): " ".join(words) for number, words in sorted(by_class.items())}
        (folder / "words.json").write_text(json.dumps(kept, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        (folder / "card.json").write_text(json.dumps(card | {"limits": [0.5] * 4}) + "\n", encoding="utf-8")


def _normalise(
    values: Floats, gain: Floats, shift: Floats
) -> tuple[Floats, Callable[[Floats], tuple[Floats, Floats, Floats]]]:
    centred = values - values.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    unit = centred / spread

    def back(flow: Floats) -> tuple[Floats, Floats, Floats]:
        inner = flow * gain
        mixed = inner - inner.mean(1, keepdims=True) - unit * (inner * unit).mean(1, keepdims=True)
        return mixed / spread, (flow * unit).sum(0), flow.sum(0)

    return unit * gain + shift, back


def _scattered(rows: Any, flow: Floats) -> tuple[Any, Floats]:
    """Gradients of the table's touched rows."""
    from scipy.sparse import csr_matrix

    touched, places = np.unique(rows, return_inverse=True)
    tokens, width = rows.shape
    ones = np.ones(tokens * width, np.float32)
    spread = csr_matrix((ones, (places.ravel(), np.repeat(np.arange(tokens), width))), shape=(len(touched), tokens))
    return touched, np.asarray(spread @ flow, np.float32)


def score(model: Tagger, examples: Sequence[Example]) -> dict[str, float]:
    """Recall and precision of each label, by overlap."""
    hits: dict[str, int] = defaultdict(int)
    gold: dict[str, int] = defaultdict(int)
    found: dict[str, int] = defaultdict(int)
    right: dict[str, int] = defaultdict(int)
    for (_, spans), entities in zip(examples, model.tag([text for text, _ in examples]), strict=True):
        for start, end, label in spans:
            gold[label] += 1
            hits[label] += any(kind == label and a < end and start < b for kind, a, b, _ in entities)
        for kind, a, b, _ in entities:
            found[kind] += 1
            right[kind] += any(kind == label and a < end and start < b for start, end, label in spans)
    recall = {f"recall.{label}": round(hits[label] / gold[label], 4) for label in sorted(gold)}
    return recall | {f"precision.{label}": round(right[label] / found[label], 4) for label in sorted(found)}


def measure(folder: Path, data: Path, lists: Lists) -> dict[str, Any]:
    """Figures on rows that were held out, and on sentences made with another seed."""
    model = Tagger(folder)
    fresh = Generator(lists, random.Random(99))  # noqa: S311 - no secret
    sets = {
        "synthetic": ner_data.synthetic_rows(data, held_out=True),
        "restaurant": [row for row in ner_data.restaurant_rows(data, held_out=True) if row[1]],
        "generated": [fresh.example() for _ in range(1500)],
    }
    figures: dict[str, Any] = {}
    for name, examples in sets.items():
        figures[name] = score(model, examples)
        figures[f"{name}_lower"] = score(
            model, [(low, s) for text, s in examples if len(low := text.lower()) == len(text)]
        )
    turns = ner_data.ordinary_rows(data, held_out=True)
    false = 0
    for (_, spans), entities in zip(turns, model.tag([text for text, _ in turns]), strict=True):
        false += any(
            label in LABELS[:2] and not any(a < end and start < b for start, end, _ in spans)
            for label, a, b, _ in entities
        )
    figures["ordinary_false_per_100"] = round(100 * false / len(turns), 3)
    return figures
