"""The `callgate` command. It reads arguments and prints; everything it does is done elsewhere.

Exit codes: 0 it went right, 1 it went wrong, 2 no verdict either way, 3 used or configured wrongly.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer

from gateway import settings as configuration
from gateway.audit.cli import HELP, leak_audit
from gateway.policy_cli import build_policy, explain
from gateway.settings import Settings, SettingsError

_T = TypeVar("_T")
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The settings file.", envvar="CALLGATE_CONFIG")]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]

_INTRO = """An OpenAI-compatible gateway with guardrails, for contact centres.

callgate up           starts everything on this machine and shows a tour
callgate check        explains callgate.yaml and its policies, or names the line that is wrong
callgate keys create  makes a key; then point any OpenAI client's base_url at http://127.0.0.1:8080/v1
"""


def build() -> typer.Typer:
    """The command with its subcommands, those of the other packages (entry points `callgate.commands`) included."""
    app = typer.Typer(no_args_is_help=True, help=_INTRO, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(up)
    app.command()(serve)
    app.command()(check)
    app.command(name="version")(show_version)
    keys = typer.Typer(no_args_is_help=True, help="Keys of callers: kept as keyed hashes, shown once.")
    keys.command("create")(create_key)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="keys")
    app.add_typer(build_policy(), name="policy")
    app.command()(explain)
    app.command(name="leak-audit", help=HELP)(leak_audit)
    moving = typer.Typer(
        no_args_is_help=True, help="Settings: carried over from other gateways, and shared by all replicas."
    )
    moving.command("import")(import_config)
    moving.command("push")(push_config)
    moving.command("show")(show_config)
    moving.command("clear")(clear_config)
    app.add_typer(moving, name="config")
    for command in sorted(entry_points(group="callgate.commands"), key=lambda entry: entry.name):
        loaded = command.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=command.name)
        else:
            app.command(command.name)(loaded)
    return app


def up(
    config: ConfigOption = Path("callgate.yaml"),
    tour: Annotated[bool, typer.Option(help="Send a short tour of real requests once everything is up.")] = True,
    once: Annotated[bool, typer.Option(help="Stop after the tour; the exit code says whether it went right.")] = False,
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8080,
    model_port: Annotated[int, typer.Option(help="Port of the embedded model; 0: any free one.")] = 0,
    redis_port: Annotated[int, typer.Option(help="Port of the embedded Redis; 0: any free one.")] = 0,
    redis_url: Annotated[
        str, typer.Option(help="Use this Redis instead of the embedded one.", envvar="CALLGATE_REDIS_URL")
    ] = "",
    phoenix: Annotated[bool, typer.Option(help="Start Arize Phoenix for traces.")] = True,
    phoenix_port: Annotated[int, typer.Option(help="Port of Phoenix.")] = 6006,
    policies: Annotated[
        Literal["files", "store"],
        typer.Option(help="files: an edited policy runs at once; store: only what was planned and applied runs."),
    ] = "files",
) -> None:
    """Start the embedded model, Redis, Phoenix and the gateway; Ctrl-C stops them all."""
    from gateway.up import UpSettings, run_up

    settings = _load(config)
    wanted = UpSettings(
        config=config.resolve(),
        state_dir=settings.state_dir,
        gateway_port=port,
        model_port=model_port,
        redis_url=redis_url or None,
        redis_port=redis_port,
        phoenix_port=phoenix_port,
        phoenix=phoenix,
        once=once,
        tour=tour,
        policies=policies,
    )
    raise typer.Exit(_run(run_up(wanted)))


def serve(
    config: ConfigOption = Path("callgate.yaml"),
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a key must exist.")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = -1,
    fd: Annotated[int, typer.Option(hidden=True, help="A listening socket handed down by the parent of workers.")] = -1,
) -> None:
    """Serve the gateway alone, in the foreground. SIGHUP looks at the settings file at once; SIGTERM drains."""
    from gateway.serve import serve as run

    settings = _load(config)
    changed = settings.server.model_copy(
        update={k: v for k, v in (("host", host), ("port", port)) if v not in ("", -1)}
    )
    try:
        run(settings.model_copy(update={"server": changed}), config, fd if fd >= 0 else None)
    except SettingsError as error:
        _fail(str(error))


def check(
    config: ConfigOption = Path("callgate.yaml"),
    as_json: JsonOption = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of callgate.yaml.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a settings file to start from.")] = False,
) -> None:
    """Validate callgate.yaml and its policies, and print the effective routes."""
    if schema:
        print(json.dumps(configuration.json_schema(), indent=2))
        return
    if example:
        print(EXAMPLE)
        return
    from gateway.explain import explain, render

    settings = _load(config)
    try:
        facts = explain(settings)
    except SettingsError as error:
        _fail(str(error))
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        render(facts)


def import_config(
    file: Annotated[Path, typer.Argument(help="A LiteLLM proxy's config.yaml.")],
    strict: Annotated[bool, typer.Option(help="Exit with 1 when anything could not be carried over.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a LiteLLM config.yaml into a callgate.yaml on standard output; what could not be carried is listed on standard error.

    Example: callgate config import litellm.yaml > callgate.yaml && callgate check
    """
    import yaml

    from gateway.config_import import import_litellm

    try:
        imported = import_litellm(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, AttributeError) as error:
        _fail(f"{file}: {error}")
    if as_json:
        print(json.dumps({"settings": imported.settings, "lost": imported.lost}, indent=2))
    else:
        print(yaml.safe_dump(imported.settings, sort_keys=False, allow_unicode=True), end="")
        for line in imported.lost:
            print(f"not carried over: {line}", file=sys.stderr)
    if strict and imported.lost:
        raise typer.Exit(1)


def push_config(config: ConfigOption = Path("callgate.yaml")) -> None:
    """Check a settings file and put its models, limits and keys in place in every replica (server.shared_configuration: true)."""
    import getpass

    from gateway import shared_configuration

    try:
        text = shared_configuration.document(config)
    except SettingsError as error:
        _fail(str(error))
    by, at = getpass.getuser(), datetime.now(UTC).isoformat(timespec="seconds")
    _with_store(_load(config), lambda store: shared_configuration.push(store, text, by=by, at=at))
    print(f"pushed {len(text)} characters; replicas take them within server.reload_s")


def show_config(config: ConfigOption = Path("callgate.yaml")) -> None:
    """Print the models, limits and keys that replicas share, and who pushed them."""
    from gateway import shared_configuration

    pushed = _with_store(_load(config), shared_configuration.current)
    if pushed is None:
        _fail("nothing is shared: every replica goes by its own file", code=1)
    print(f"# pushed by {pushed.by} at {pushed.at}\n{pushed.text}", end="")


def clear_config(config: ConfigOption = Path("callgate.yaml")) -> None:
    """Take the shared configuration away: every replica goes by its own file again."""
    from gateway import shared_configuration

    if not _with_store(_load(config), shared_configuration.clear):
        _fail("nothing is shared", code=1)
    print("cleared")


def show_version() -> None:
    """Print the version."""
    print(version("callgate"))


def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for instance the application's name.")],
    config: ConfigOption = Path("callgate.yaml"),
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Its own limit; else the settings' default.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Its own limit; else the settings' default.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may use; repeat for more. None given: all.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print lines for callgate.yaml instead of storing it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key and store its hash in Redis. The key is shown this once.

    Example: callgate keys create ivr-assistant --requests-per-minute 120
    """
    from gateway.auth import KEYS_HASH
    from gateway.types import Limits

    settings = _load(config)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = _hasher(settings).create(
        name, now=now, limits=Limits(requests_per_minute, tokens_per_minute), models=model or ()
    )
    if print_config:
        print(f"keys:\n  - id: {made.stored.id}\n    name: {name}\n    hash: {made.stored.hash}")
        print(made.plain, file=sys.stderr)
        return
    import msgspec

    _with_store(settings, lambda store: store.write_hash(KEYS_HASH, made.stored.id, msgspec.json.encode(made.stored)))
    print(json.dumps({"id": made.stored.id, "name": name, "key": made.plain}) if as_json else made.plain)
    if not as_json:
        print("Keep it now: it is not shown again.", file=sys.stderr)


def list_keys(config: ConfigOption = Path("callgate.yaml"), as_json: JsonOption = False) -> None:
    """List the keys in callgate.yaml and in Redis: ids, names and limits, never the keys."""
    import msgspec

    from gateway.auth import KEYS_HASH, StoredKey

    settings = _load(config)
    stored = _with_store(settings, lambda store: store.read_hash(KEYS_HASH))
    rows = [{**key.model_dump(exclude={"hash"}), "where": "callgate.yaml"} for key in settings.keys]
    for value in stored.values():
        key = msgspec.structs.asdict(msgspec.json.decode(value, type=StoredKey))
        rows.append({k: v for k, v in key.items() if k != "hash"} | {"where": "redis"})
    if as_json:
        print(json.dumps(rows, default=list))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "where", "requests/min", "tokens/min", "models", "created")
    for row in rows:
        limits = [str(row.get(k) or "default") for k in ("requests_per_minute", "tokens_per_minute")]
        table.add_row(
            str(row["id"]),
            str(row["name"]),
            row["where"],
            *limits,
            ", ".join(row["models"]) or "all",
            str(row.get("created", "")),
        )
    Console().print(table if rows else "No keys yet; make one with: callgate keys create NAME")


def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id, from `callgate keys list`.")],
    config: ConfigOption = Path("callgate.yaml"),
) -> None:
    """Revoke a key. Every worker refuses it within two seconds."""
    from gateway.auth import KEYS_HASH

    settings = _load(config)
    if any(key.id == key_id for key in settings.keys):
        _fail(f"key {key_id} is in {config}: take it out there and restart the gateway")
    if not _with_store(settings, lambda store: store.delete_from_hash(KEYS_HASH, key_id)):
        _fail(f"there is no key {key_id}; 'callgate keys list' shows those there are", code=1)
    print(f"revoked {key_id}")


# --- shared by the commands ------------------------------------------------------------------------------------------------


def _load(path: Path) -> Settings:
    try:
        return configuration.load(path)
    except SettingsError as error:
        _fail(str(error))


def _fail(message: str, code: int = 3) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)


def _hasher(settings: Settings) -> Any:
    from gateway.auth import KeyHasher, read_secret

    secret = configuration.key_secret(settings)
    try:
        return KeyHasher(read_secret(secret) if isinstance(secret, Path) else secret)
    except ValueError as error:
        _fail(str(error))


def _with_store(settings: Settings, work: Any) -> Any:
    from gateway.policy_session import redis_url
    from gateway.stores import RedisStore, StoreError

    url = redis_url(settings)

    async def run() -> Any:
        store = RedisStore(url, settings.redis.timeout_s)
        try:
            return await work(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except StoreError as error:
        _fail(
            f"Redis at {_without_password(url)} did not answer ({error}); start it, or set redis.url",
            code=1,
        )


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)


EXAMPLE = """\
server: {host: 127.0.0.1, port: 8080}
redis: {url: redis://127.0.0.1:6379/0}
limits: {requests_per_minute: 600, tokens_per_minute: 200000}
policies:
  call-centre: guardrails/policies/call-centre
models:
  - name: assistant
    policy: call-centre
    deployments:
      - {name: vllm-1, base_url: http://127.0.0.1:8000/v1, model: my-model}
      - {name: hosted, provider: anthropic/claude-sonnet-4-5, weight: 0, api_key_env: ANTHROPIC_API_KEY}
"""
