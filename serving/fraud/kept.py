"""What the decisions of a log were made by, kept beside it by digest: models and policies, so that any decision can be made again.

A log that is copied with its `made-by` folder is all that a replay needs. Files are written once and in one step; any number of
processes may keep the same. Knows nothing of scores.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.model import CARD_FILE, MODEL_FILE, InvalidModel, Model, digest_of_folder, load_model
from serving.fraud.settings import FraudSettings

FOLDER = "made-by"


def keep(settings: FraudSettings, folders: list[Path]) -> None:
    """Keeps these models and the policy of the settings beside the settings' log. Raises: InvalidModel, OSError."""
    there = settings.log_directory / FOLDER
    there.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        target = there / f"model-{digest_of_folder(folder)}"
        if not target.exists():
            part = there / f".{target.name}.{os.getpid()}"
            part.mkdir(exist_ok=True)
            for name in (MODEL_FILE, CARD_FILE):
                shutil.copyfile(folder / name, part / name)
            try:
                part.rename(target)
            except OSError:  # another process was first
                shutil.rmtree(part)
    policy = there / f"policy-{settings.policy_digest()}.json"
    if not policy.exists():
        part = there / f".{policy.name}.{os.getpid()}"
        part.write_text(settings.policy_json() + "\n", encoding="utf-8")
        part.replace(policy)


class Kept:
    """Models and policies of a log by digest, opened when first asked for; and those of `given`, if any."""

    def __init__(self, log: Path, given: FraudSettings | None = None) -> None:
        self._folder = log / FOLDER
        self._models: dict[str, Model | None] = {}
        self._policies: dict[str, FraudSettings | None] = {}
        if given is not None:
            model = load_model(given.model_path, feature_names(), FEATURES_VERSION)
            self._models[model.digest] = model
            self._policies[given.policy_digest()] = given

    def model(self, digest: str) -> Model | None:
        """None if it is not kept, or was made for other features than today's."""
        if digest not in self._models:
            try:
                self._models[digest] = load_model(self._folder / f"model-{digest}", feature_names(), FEATURES_VERSION)
            except InvalidModel:
                self._models[digest] = None
        return self._models[digest]

    def policy(self, digest: str) -> FraudSettings | None:
        """None if it is not kept, or altered."""
        if digest not in self._policies:
            try:
                text = (self._folder / f"policy-{digest}.json").read_text(encoding="utf-8")
                found = FraudSettings.model_validate_json(text)
            except (OSError, ValueError):
                found = None
            self._policies[digest] = found if found is not None and found.policy_digest() == digest else None
        return self._policies[digest]

    def close(self) -> None:
        for model in self._models.values():
            if model is not None:
                model.close()
