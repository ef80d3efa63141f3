"""Fraud models in MLflow: what was trained on what, how well, and which version is champion or challenger.

Over the tracking server's (or, in tests, the file store's) client API only: models are LightGBM text with a card, never a pickled flavour.
Knows nothing of how a model is judged. Fails open, with a line that says so: a registry that is away stops no training. The only file here
that knows MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MODEL_NAME = "callgate-fraud"
CHAMPION, CHALLENGER, TRAINED = "champion", "challenger", "trained"


class Tracking:
    """Runs and versions under one experiment and one registered model, at a tracking URI."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient, environment_variables

        options: Any = environment_variables
        options.MLFLOW_DISABLE_TELEMETRY.set(True)
        options.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
        options.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(2)  # by default a server that is away costs minutes
        if uri.startswith(("file:", "/", ".")):  # a folder is for one process and for tests; MLflow asks to be told
            options.MLFLOW_ALLOW_FILE_STORE.set(True)

        self._client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def tell(
        self,
        folder: Path,
        trained: Mapping[str, Any],
        features: tuple[str, ...],
        metrics: Mapping[str, float],
        alias: str,
    ) -> str:
        """As `register`, in a line that says what became of it. Never raises for the registry's fault."""
        return _openly(lambda: f"version {self.register(folder, trained, features, metrics, alias)} is {alias}")

    def tell_promoted(self) -> str:
        """The challenger becomes champion, if there is one; a line as above."""
        return _openly(self._promoted)

    def _promoted(self) -> str:
        if (version := self.version_of(CHALLENGER)) is None:
            return "there is no challenger"
        self.promote(version)
        return f"version {version} is {CHAMPION}"

    def register(
        self,
        folder: Path,
        trained: Mapping[str, Any],
        features: tuple[str, ...],
        metrics: Mapping[str, float],
        alias: str,
    ) -> str:
        """Logs a model folder as a run and registers it under `alias`; its version.

        trained: as in model.json: source, data digest, rows, seed. metrics: plain numbers by name.
        """
        client = self._client
        found = client.get_experiment_by_name(MODEL_NAME)
        experiment = found.experiment_id if found else client.create_experiment(MODEL_NAME)
        run = client.create_run(experiment)
        run_id, failed = run.info.run_id, True
        try:
            for name, value in trained.items():
                if isinstance(value, (str, int, float)):
                    client.log_param(run_id, name, value)
            client.log_param(run_id, "features", len(features))
            client.log_text(run_id, "\n".join(features), "features.txt")
            for name, number in metrics.items():
                client.log_metric(run_id, name, number)
            client.log_artifacts(run_id, str(folder), "model")
            failed = False
        finally:
            client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        if not any(one.name == MODEL_NAME for one in client.search_registered_models()):
            client.create_registered_model(MODEL_NAME)
        version: str = str(client.create_model_version(MODEL_NAME, f"{run.info.artifact_uri}/model", run_id).version)
        client.set_registered_model_alias(MODEL_NAME, alias, version)
        return version

    def promote(self, version: str) -> None:
        """The version becomes champion; it is challenger no more."""
        self._client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
        if self.version_of(CHALLENGER) == version:
            self._client.delete_registered_model_alias(MODEL_NAME, CHALLENGER)

    def version_of(self, alias: str) -> str | None:
        """The version under an alias, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(MODEL_NAME, alias).version)
        except MlflowException:
            return None


def _openly(work: Callable[[], str]) -> str:
    try:
        return f"mlflow: {work()}"
    except Exception as error:  # noqa: BLE001 - telemetry fails open, whatever a vendor raises
        return f"mlflow: not told ({type(error).__name__}); the model folder is complete"
