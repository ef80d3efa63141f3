"""The model: LightGBM's text format, a calibration and a digest; scored one row at a time through LightGBM's C API.

`Model` needs the shared library only, not the Python package's imports, numpy or a compiler: 6 µs a row against 40 for
`booster.predict`, the same double (tested bit for bit). Reasons come from per-row contributions (exact TreeSHAP).
Text and JSON only, nothing is unpickled; a file whose digest is not the recorded one is refused.
Knows nothing of features' meaning, of costs or of where training rows come from. The only file that knows LightGBM.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

MODEL_FILE, CARD_FILE = "model.txt", "model.json"
_FLOAT64 = 1
_RAW_SCORE, _CONTRIBUTIONS = 1, 3
_LIBRARIES = ("lib_lightgbm.so", "lib_lightgbm.dylib", "lib_lightgbm.dll")


class InvalidModel(ValueError):
    """The model files are missing, altered or for other features; the message says which and what would be right."""


class Calibration(msgspec.Struct, frozen=True):
    """A monotone curve from margin (log-odds as trained) to probability: straight lines between knots, flat outside."""

    margins: tuple[float, ...]
    probabilities: tuple[float, ...]

    def probability(self, margin: float) -> float:
        right = bisect_right(self.margins, margin)
        if right == 0:
            return self.probabilities[0]
        if right == len(self.margins):
            return self.probabilities[-1]
        low, high = self.margins[right - 1], self.margins[right]
        share = (margin - low) / (high - low)
        return self.probabilities[right - 1] + share * (self.probabilities[right] - self.probabilities[right - 1])


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """model.json: what the text file is, in which order it wants its features, and how it was made."""

    format: int = 1
    sha256: str
    features_version: int
    features: tuple[str, ...]
    calibration: Calibration
    trained: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model before it is stored."""

    text: str
    features: tuple[str, ...]


def fit(values: Any, labels: Any, features: Sequence[str], rounds: int, seed: int, threads: int = 1) -> Fitted:
    """Trains on rows (rows, features) and labels (rows,) of 0 and 1; the same input and seed give the same text.

    Parameters chosen on the weeks before the measured one (2026-11-24); unweighted, since weights spoil calibration.
    """
    import lightgbm

    parameters = {
        "objective": "binary",
        "num_leaves": 15,
        "learning_rate": 0.05,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "num_threads": threads,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    table = lightgbm.Dataset(values, labels, feature_name=list(features), params={"verbosity": -1})
    return Fitted(lightgbm.train(parameters, table, rounds).model_to_string(), tuple(features))


def store_model(
    folder: Path, fitted: Fitted, calibration: Calibration, features_version: int, trained: dict[str, Any]
) -> Card:
    """Writes model.txt and model.json into the folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    text = fitted.text.encode()
    card = Card(
        sha256=hashlib.sha256(text).hexdigest(),
        features_version=features_version,
        features=fitted.features,
        calibration=calibration,
        trained=trained,
    )
    (folder / MODEL_FILE).write_bytes(text)
    (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    return card


def load_model(folder: Path, features: Sequence[str], features_version: int) -> Model:
    """The model of a folder, checked against its digest and the features that will be given to it.

    Raises:
        InvalidModel: anything is missing or does not fit.
    """
    try:
        text, described = (folder / MODEL_FILE).read_bytes(), (folder / CARD_FILE).read_bytes()
        card = msgspec.json.decode(described, type=Card)
    except OSError as error:
        raise InvalidModel(f"{folder}: {error.strerror}; `callgate fraud train --out {folder}` makes a model") from None
    except msgspec.DecodeError as error:
        raise InvalidModel(f"{folder / 'model.json'}: {error}") from None
    if hashlib.sha256(text).hexdigest() != card.sha256:
        raise InvalidModel(f"{folder / 'model.txt'} is not the file that model.json describes (sha256 differs)")
    if (card.features, card.features_version) != (tuple(features), features_version):
        raise InvalidModel(f"{folder}: trained for other features (version {card.features_version}); train it again")
    return Model(text.decode(), card, hashlib.sha256(text + described).hexdigest()[:12])


def digest_of_folder(folder: Path) -> str:
    """The digest that decisions of this model carry. Raises: InvalidModel."""
    try:
        return hashlib.sha256((folder / MODEL_FILE).read_bytes() + (folder / CARD_FILE).read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise InvalidModel(f"{folder}: {error.strerror}; a model folder has model.txt and model.json") from None


class Model:
    """Scores rows in the order of `card.features`. One thread at a time: it reuses its buffers."""

    def __init__(self, text: str, card: Card, digest: str) -> None:
        self.card, self.digest = card, digest
        self._library = _library()
        self._booster = ctypes.c_void_p()
        iterations, size = ctypes.c_int(), len(card.features)
        self._check(
            self._library.LGBM_BoosterLoadModelFromString(
                text.encode(), ctypes.byref(iterations), ctypes.byref(self._booster)
            )
        )
        self._row = (ctypes.c_double * size)()
        self._margin, self._parts = ctypes.c_double(), (ctypes.c_double * (size + 1))()
        self._length = ctypes.c_int64()
        self._fast_margin, self._fast_parts = self._prepare(_RAW_SCORE), self._prepare(_CONTRIBUTIONS)
        self._predict = self._library.LGBM_BoosterPredictForMatSingleRowFast
        self._to_margin = (
            self._fast_margin,
            ctypes.byref(self._row),
            ctypes.byref(self._length),
            ctypes.byref(self._margin),
        )

    def margin(self, row: list[float]) -> float:
        """The raw score, in log-odds: what ranks transactions."""
        self._row[:] = row  # type: ignore[assignment]  # a list of floats is what ctypes converts
        self._check(self._predict(*self._to_margin))
        return self._margin.value

    def probability(self, margin: float) -> float:
        """The calibrated chance of fraud."""
        return self.card.calibration.probability(margin)

    def contributions(self, row: list[float]) -> list[float]:
        """What each feature adds to the margin, against the average transaction (without the constant)."""
        self._row[:] = row  # type: ignore[assignment]  # a list of floats is what ctypes converts
        self._check(self._predict(self._fast_parts, ctypes.byref(self._row), ctypes.byref(self._length), self._parts))
        return list(self._parts)[:-1]

    def close(self) -> None:
        """Frees what the library holds. Scoring afterwards is an error."""
        if self._booster:
            for handle in (self._fast_margin, self._fast_parts):
                self._library.LGBM_FastConfigFree(handle)
            self._library.LGBM_BoosterFree(self._booster)
            self._booster = ctypes.c_void_p()

    def _prepare(self, kind: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        size, options = ctypes.c_int32(len(self._row)), b"num_threads=1 verbosity=-1"
        self._check(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._booster, kind, 0, -1, _FLOAT64, size, options, ctypes.byref(handle)
            )
        )
        return handle

    def _check(self, status: int) -> None:
        if status != 0:
            raise InvalidModel(f"LightGBM: {self._library.LGBM_GetLastError().decode(errors='replace')}")


def _library() -> Any:
    found = importlib.util.find_spec("lightgbm")
    if found is None or found.origin is None:
        raise InvalidModel("lightgbm is not installed: pip install callgate[ml]")
    folder = Path(found.origin).parent
    for path in (folder / "lib" / name for name in _LIBRARIES):
        if path.exists():
            library = ctypes.CDLL(str(path))
            library.LGBM_GetLastError.restype = ctypes.c_char_p
            return library
    raise InvalidModel(f"no LightGBM library in {folder / 'lib'}")


def fit_calibration(margins: Sequence[float], labels: Sequence[int], least: int = 25) -> Calibration:
    """Isotonic regression by pooling adjacent violators (Barlow et al., 1972), on rows that the model was not fitted on.

    Blocks of fewer than `least` rows are pooled upward so that no probability rests on a handful; each becomes one knot at
    its mean margin. Probabilities are shrunk by one row of the base rate, so that none is 0 or 1.
    """
    rate = (sum(labels) + 0.5) / (len(labels) + 1.0)
    blocks: list[tuple[float, float, int]] = []  # sum of margins, of labels, rows
    for margin, label in sorted(zip(margins, labels, strict=True)):
        blocks.append((margin, float(label), 1))
        while len(blocks) > 1 and (
            blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2] or blocks[-2][2] < least
        ):
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    knots = [(total / rows, (frauds + rate) / (rows + 1)) for total, frauds, rows in blocks]
    kept = [knot for index, knot in enumerate(knots) if index == 0 or knot[0] > knots[index - 1][0]]
    rising = list(kept)
    for index in range(1, len(rising)):
        rising[index] = rising[index][0], max(rising[index][1], rising[index - 1][1])
    return Calibration(tuple(margin for margin, _ in rising), tuple(chance for _, chance in rising))


def log_odds(probability: float) -> float:
    """The margin of a probability strictly between 0 and 1."""
    return math.log(probability / (1.0 - probability))


def read_card(folder: Path) -> dict[str, Any]:
    """model.json as data, for showing."""
    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card
