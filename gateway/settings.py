"""callgate.yaml and the environment, read once into checked values: the only reader of either.

Unknown keys are errors, secrets are references (an environment variable or a file), and every complaint names file, line, key and what
would be right. It builds nothing; gateway/app.py does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.model_settings import DeploymentSettings, ModelSettings, Name, RoutingSettings, Seconds
from gateway.policy_settings import GuardModelSettings, PolicyStoreSettings, RecorderSettings
from gateway.yaml_text import Place, expand, line_at, put, read_mapping
from gateway.yaml_text import SettingsError as SettingsError  # noqa: PLC0414 (the error of this module, to whoever loads settings)

SHAREABLE = ("models", "limits", "keys")
SHARED = Path("shared configuration")  # what complaints about it are headed with
ADMIN_NAME = re.compile(r"[A-Za-z0-9._@-]{1,40}")
RECORDING_KEYS = "recording.keys"
LEAST_TOKEN = 16  # characters
SCHEMA_FILE = Path(__file__).with_name("callgate.schema.json")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Strict):
    """Where the gateway listens and what it takes in.

    After SIGTERM readiness goes down, requests are still taken for ``lame_duck_s``, then none are and open answers have ``drain_s`` to finish.
    A request that has not arrived whole within ``client_timeout_s``, and a client that takes nothing of its answer for as long, are cut off.
    ``reload_s``: how often the settings file is looked at for changes; 0: only on SIGHUP. ``shared_configuration``: models, limits and keys are
    those that ``callgate config push`` left in Redis, for all replicas at once; until there are any, those of the file.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 4 << 20
    client_timeout_s: Seconds = 30.0
    drain_s: Seconds = 30.0
    lame_duck_s: Annotated[float, Field(ge=0, le=300)] = 0.0
    reload_s: Annotated[float, Field(ge=0, le=3600)] = 2.0
    shared_configuration: bool = False


class RedisSettings(_Strict):
    """The store of limits, keys and fraud features. ``when_down``: what happens to limited keys while it is away; fraud scores are answered
    in any case, as ``fraud.settings.degraded_outcome`` says."""

    url: str = "redis://127.0.0.1:6379/0"
    timeout_s: Seconds = 1.0
    when_down: Literal["refuse", "allow"] = "refuse"


class LimitSettings(_Strict):
    """What a key may spend a minute unless it has limits of its own; null: no limit."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = 600
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = 200_000


class KeySettings(_Strict):
    """A key kept in this file: its hash, made by ``callgate keys create --print-config``."""

    id: Name
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: str = ""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    models: tuple[Name, ...] = ()


class TelemetrySettings(_Strict):
    """Where traces go. No ``otlp_endpoint``: no traces. ``sample`` is the share of requests traced; blocked and failed ones always are."""

    otlp_endpoint: str = ""
    otlp_headers_env: str = "OTEL_EXPORTER_OTLP_HEADERS"
    project: str = "callgate"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    record_texts: bool = True
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    flush_s: Seconds = 1.0
    export_timeout_s: Seconds = 5.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class FraudSection(_Strict):
    """POST /v1/fraud/score. Inside the gateway, or by the service at ``url`` (callgate fraud serve).

    ``settings`` go to serving/fraud unchanged and are checked there.
    """

    enabled: bool = False
    url: str = ""
    timeout_s: Seconds = 1.0
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_place(self) -> FraudSection:
        if self.url and self.settings:
            raise ValueError("fraud.settings belong to the service at fraud.url (callgate fraud serve --settings)")
        return self


class EmbeddingSettings(_Strict):
    """The local MiniLM behind /v1/embeddings, the topic rail and retrieval."""

    enabled: bool = True
    model: Name = "all-minilm-l6-v2"
    threads: Annotated[int, Field(ge=1, le=64)] = 1


class Settings(_Strict):
    """All of callgate.yaml."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    limits: LimitSettings = LimitSettings()
    keys: tuple[KeySettings, ...] = ()
    auth: Literal["keys", "none"] = "keys"
    key_secret_file: Path | None = None
    policies: dict[Name, Path] = Field(default_factory=dict)
    knowledge: dict[Name, Path] = Field(default_factory=dict)
    models: Annotated[tuple[ModelSettings, ...], Field(min_length=1)]
    routing: RoutingSettings = RoutingSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    policy_store: PolicyStoreSettings = PolicyStoreSettings()
    recorder: RecorderSettings = RecorderSettings()
    guard_model: GuardModelSettings = GuardModelSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    fraud: FraudSection = FraudSection()
    state_dir: Path = Path(".callgate")

    @model_validator(mode="after")
    def _names_exist(self) -> Settings:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: '{name}' is there twice; each name once")
        for model in self.models:
            if model.policy is not None and model.policy not in self.policies:
                raise ValueError(f"model '{model.name}': there is no policy '{model.policy}' under policies")
            if model.knowledge is not None and model.knowledge not in self.knowledge:
                raise ValueError(
                    f"model '{model.name}': there is no knowledge base '{model.knowledge}' under knowledge"
                )
            for reason, others in model.fallbacks:
                if strange := [other for other in others if other not in names or other == model.name]:
                    raise ValueError(f"model '{model.name}': fallbacks.{reason}: '{strange[0]}' is no other model here")
        if self.guard_model.model and self.guard_model.model not in names:
            raise ValueError(f"guard_model: there is no model '{self.guard_model.model}' under models")
        named: dict[str, DeploymentSettings] = {}
        for deployment in (d for model in self.models for d in (*model.deployments, model.candidate) if d is not None):
            if named.setdefault(deployment.name, deployment) != deployment:
                raise ValueError(f"models: '{deployment.name}' names two different deployments; give each its own name")
        loopback = self.server.host in ("127.0.0.1", "::1", "localhost")
        if self.auth == "none" and not loopback:
            raise ValueError("auth: 'none' is only for a gateway that listens on loopback; use 'keys'")
        return self


def load(path: Path, environment: Mapping[str, str] | None = None, shared: str | None = None) -> Settings:
    """Settings from a file, with ``${NAME}`` and ``${NAME:-default}`` taken from the environment.

    CALLGATE_HOST, CALLGATE_PORT, CALLGATE_REDIS_URL, CALLGATE_OTLP_ENDPOINT and CALLGATE_STATE_DIR win over the file.
    Relative paths are relative to the file. ``shared``: YAML of models, limits or keys, each of which stands in place of the
    file's (gateway/shared_configuration.py). Raises: SettingsError.
    """
    environment = os.environ if environment is None else environment
    folder = path.parent.resolve()
    try:
        data, lines = read_mapping(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(path, None, "", "there is no such file; 'callgate check --example' prints one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(path, None, "", f"cannot be read: {type(error).__name__}") from None
    if shared is not None:
        path = SHARED
        theirs, lines = read_mapping(path, shared)
        if strange := sorted(theirs.keys() - set(SHAREABLE)):
            raise SettingsError(path, None, strange[0], f"cannot be shared; only {', '.join(SHAREABLE)} can")
        data = data | theirs
    data = expand(data, environment, path, lines, ())
    for variable, keys in _OVERRIDES.items():
        if value := environment.get(variable):
            put(data, keys, value)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise _explained(path, lines, error) from None
    return _absolute(settings, folder)


_OVERRIDES: dict[str, tuple[str, ...]] = {
    "CALLGATE_HOST": ("server", "host"),
    "CALLGATE_PORT": ("server", "port"),
    "CALLGATE_REDIS_URL": ("redis", "url"),
    "CALLGATE_OTLP_ENDPOINT": ("telemetry", "otlp_endpoint"),
    "CALLGATE_STATE_DIR": ("state_dir",),
}


def api_key(deployment: DeploymentSettings, environment: Mapping[str, str] | None = None) -> str:
    """The secret of a deployment, from the environment or a mounted file; empty when it has none.

    Raises: SettingsError naming the missing variable or file, never its content.
    """
    environment = os.environ if environment is None else environment
    if deployment.api_key_env:
        value = environment.get(deployment.api_key_env)
        if not value:
            message = f"the environment has no {deployment.api_key_env}; set it to the key of this deployment"
            raise SettingsError(Path("environment"), None, f"models.{deployment.name}.api_key_env", message)
        return value
    if deployment.api_key_file is not None:
        try:
            return deployment.api_key_file.read_text(encoding="utf-8").strip()
        except OSError:
            message = "cannot be read; it should hold the key of this deployment"
            raise SettingsError(
                deployment.api_key_file, None, f"models.{deployment.name}.api_key_file", message
            ) from None
    return ""


def key_secret(settings: Settings, environment: Mapping[str, str] | None = None) -> bytes | Path:
    """CALLGATE_KEY_SECRET, or the file that holds (or will hold) the key secret."""
    environment = os.environ if environment is None else environment
    if value := environment.get("CALLGATE_KEY_SECRET"):
        return value.encode()
    return settings.key_secret_file or settings.state_dir / "key-secret"


def otlp_headers(settings: TelemetrySettings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Headers for the trace collector, from ``name=value,name=value`` in the named environment variable (OpenTelemetry's format)."""
    environment = os.environ if environment is None else environment
    pairs = (pair.partition("=") for pair in environment.get(settings.otlp_headers_env, "").split(",") if "=" in pair)
    return {name.strip(): value.strip() for name, _, value in pairs}


def recording_keys(
    settings: RecorderSettings, state_dir: Path, environment: Mapping[str, str] | None = None
) -> list[str]:
    """The lines ``id:base64`` of the recording keys, from the environment or a mounted file, else from that which `callgate up` made.

    Empty when there are none.

    Raises: SettingsError for a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    if value := environment.get(settings.keys_env):
        return [line for line in value.split(",") if line.strip()]
    file = settings.keys_file or state_dir / RECORDING_KEYS
    if settings.keys_file is None and not file.exists():
        return []
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError:
        message = "cannot be read; it should hold recording keys, one 'id:base64' a line"
        raise SettingsError(file, None, "recorder.keys_file", message) from None


def admin_tokens(settings: PolicyStoreSettings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tokens of /admin by the name of who holds them: one token (its holder is "admin"), or ``name:token`` separated by commas.

    Empty: there is no /admin. Raises: SettingsError.
    """
    value = (os.environ if environment is None else environment).get(settings.admin_token_env, "").strip()
    entries = [entry.strip() for entry in value.split(",")] if value else []
    tokens: dict[str, str] = {}
    for entry in entries:
        name, colon, token = entry.rpartition(":")
        name = name if colon else "admin"
        if not ADMIN_NAME.fullmatch(name) or len(token) < LEAST_TOKEN or name in tokens or token in tokens.values():
            message = (
                f"holds one token of at least {LEAST_TOKEN} characters, or 'name:token' separated by commas, each name and token once; "
                "make one: openssl rand -hex 24"
            )
            raise SettingsError(
                Path("callgate.yaml"), None, f"policy_store.admin_token_env: {settings.admin_token_env}", message
            )
        tokens[name] = token
    return tokens


def worker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What workers inherit: all of it, since references and secrets are read from it."""
    return dict(os.environ if environment is None else environment)


def shared_metrics(environment: Mapping[str, str] | None = None) -> Path | None:
    """The folder in which several workers count together (set by their parent), or None."""
    value = (os.environ if environment is None else environment).get("PROMETHEUS_MULTIPROC_DIR")
    return Path(value) if value else None


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of callgate.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _explained(file: Path, lines: Mapping[Place, int], error: ValidationError) -> SettingsError:
    found = error.errors(include_input=False, include_url=False)
    first = min(
        found, key=lambda one: one["type"] != "extra_forbidden"
    )  # a misspelt key often makes another one missing
    at: Place = tuple(first["loc"])
    key = ".".join(map(str, at))
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(at[:-1])))
        message = f"unknown key; expected one of: {allowed}" if allowed else "unknown key"
    elif first["type"] == "missing":
        message = "is missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
    more = error.error_count() - 1
    return SettingsError(file, line_at(lines, at), key, message + (f" (and {more} more)" if more else ""))


def _fields_at(at: Place) -> set[str]:
    model: Any = Settings
    for step in at:
        if isinstance(step, int):
            continue
        annotation = model.model_fields[step].annotation if step in model.model_fields else None
        candidates = [annotation, *_arguments(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return set()
    return set(model.model_fields)


def _arguments(annotation: Any) -> list[Any]:
    inner = list(getattr(annotation, "__args__", ()))
    return inner + [deeper for item in inner for deeper in _arguments(item)]


def _absolute(settings: Settings, root: Path) -> Settings:
    return settings.model_copy(
        update={
            "policies": {name: root / path for name, path in settings.policies.items()},
            "knowledge": {name: root / path for name, path in settings.knowledge.items()},
            "state_dir": root / settings.state_dir,
            "policy_store": _actions_under(settings.policy_store, root),
            "key_secret_file": root / settings.key_secret_file if settings.key_secret_file else None,
        }
    )


def _actions_under(wanted: PolicyStoreSettings, root: Path) -> PolicyStoreSettings:
    return wanted.model_copy(update={"actions_dir": root / wanted.actions_dir}) if wanted.actions_dir else wanted
