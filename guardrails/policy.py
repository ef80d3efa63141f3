"""A policy is a directory: policy.yaml beside an ordinary NeMo Guardrails configuration. Read, checked, and named by its content.

It runs nothing. Every complaint names file, line, key and what would be right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from guardrails.actions import ActionRefused, find_actions
from guardrails.detectors import promises, toxicity
from guardrails.flows import flows_of
from guardrails.parts import digest_of, located, parts_of
from guardrails.policy_lint import complaints, given_twice
from guardrails.risk import RiskSettings
from guardrails.verdict import Stage

Detector = Literal[
    "grounded", "harm", "indirect", "injection", "language", "leak", "promises", "size", "tools", "topic", "toxicity"
]
KINDS: Mapping[str, Sequence[str]] = {"promises": promises.LABELS, "toxicity": toxicity.LABELS}
NEMO_SUFFIXES = {".yml", ".yaml", ".co"}
NOT_NEMOS = ("policy.yaml", "tests.yaml")  # ours: NeMo must not read them


class PolicyError(Exception):
    """``str`` gives one line: file, line, key, what is wrong and what would be right."""

    def __init__(self, file: Path, line: int | None, key: str, message: str, hint: str = "") -> None:
        place = f"{file}:{line}" if line else str(file)
        super().__init__(": ".join(part for part in (place, key, message) if part) + (f"; {hint}" if hint else ""))
        self.file, self.line, self.key, self.message, self.hint = file, line, key, message, hint


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _not_a_yaml_bool(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class RailSettings(_Strict):
    """One rail: a ``flow`` of the NeMo configuration or a ``detector`` of ours, and how it is run.

    ``respond``: a block is told as an error, or as ``refusal``. ``fail``: what happens when it cannot run within ``deadline_ms``.
    ``threshold`` goes to our own detectors; NeMo's flows have their own settings. ``kinds`` says which labels of a detector with several count
    (toxicity: hate, harassment, threat, sexual, self_harm, profanity, slur; promises: refund, legal, medical), ``languages`` and ``max_chars`` what the rails of those names allow. ``tool_risks`` gives tools
    a risk by name (others are ``unlisted``), ``allow_risks`` those that a model may ask for; without it all that the request declares.
    """

    flow: Annotated[str, Field(min_length=1)] | None = None
    detector: Detector | None = None
    stage: Stage
    mode: Annotated[Literal["enforce", "monitor", "off"], BeforeValidator(_not_a_yaml_bool)] = "enforce"
    fail: Literal["open", "closed"] = "closed"
    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 2000
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    kinds: tuple[Annotated[str, Field(pattern="^[a-z_]+$")], ...] = ()
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ()
    max_chars: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    tool_risks: dict[str, Annotated[str, Field(pattern="^[a-z_]+$")]] = Field(default_factory=dict)
    allow_risks: tuple[Annotated[str, Field(pattern="^[a-z_]+$")], ...] = ()
    respond: Literal["error", "refusal"] = "error"
    refusal: str = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> RailSettings:
        if (self.flow is None) == (self.detector is None):
            raise ValueError(f"needs either flow (of config.yml) or detector ({', '.join(get_args(Detector))})")
        if self.detector == "language" and not self.languages:
            raise ValueError("needs languages, such as [en, es]")
        if (self.detector == "tools") != (self.stage == "tool"):
            raise ValueError("the detector tools and the stage tool belong together")
        if self.kinds and not set(self.kinds) <= set(KINDS.get(str(self.detector), ())):
            known = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in KINDS.items())
            raise ValueError(f"kinds may hold labels of the rail's own detector ({known})")
        return self

    @property
    def runs(self) -> str:
        """What it runs, in words."""
        return f"flow '{self.flow}'" if self.flow is not None else f"detector '{self.detector}'"

    @model_validator(mode="after")
    def _refusal_has_words(self) -> RailSettings:
        if self.respond == "refusal" and self.flow is None and not self.refusal:
            raise ValueError("respond: refusal needs the words of it under refusal")  # a flow has words of its own
        return self


class OutputSettings(_Strict):
    """How answers are held back: no pattern up to ``horizon_chars`` leaves, even in part; checks run each ``window_chars``."""

    horizon_chars: Annotated[int, Field(ge=1, le=4096)] = 120
    window_chars: Annotated[int, Field(ge=1, le=4096)] = 40


class ClaimSettings(_Strict):
    """What the policy must be able to promise, each at most or at least; a policy that cannot is refused (guardrails/claim.py).

    ``first_token_ms`` counts redaction, input rails and the first check of the answer, not passages. Null: no promise is demanded.
    """

    holds_at_most_chars: Annotated[int, Field(ge=0)] | None = None
    first_token_ms: Annotated[int, Field(ge=0)] | None = None
    sees_chars: Annotated[int, Field(ge=1)] | None = None


class PolicyFile(_Strict):
    """policy.yaml. ``redaction`` is checked by whoever redacts. ``budget_ms``: what all rails of a stage may take together.

    ``rails``: flows of the NeMo configuration that none of them names run as rails, too, as NeMo would run them.
    ``risk``: what is done at which fraud risk of the caller (guardrails/risk.py).
    ``speculative``: the model is called while the input rails run; nothing of its answer leaves before they pass, a block hangs up on it.
    ``actions``: Python that its flows execute, and Presidio recognisers, by name, from the image's trusted folder (guardrails/actions.py).
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    description: str = ""
    rails: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")], RailSettings] = Field(
        default_factory=dict
    )
    output: OutputSettings = OutputSettings()
    claim: ClaimSettings | None = None
    budget_ms: Annotated[int, Field(ge=1, le=60_000)] | None = None
    speculative: bool = False
    redaction: dict[str, Any] = Field(default_factory=dict)
    actions: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], ...] = ()
    risk: RiskSettings | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as loaded. ``digest``: hex SHA-256 over the canonical policy.yaml, every file of the NeMo configuration, and ``parts``.

    ``parts``: weights and other files that its verdicts rest on (guardrails/parts.py), each with its own digest.
    ``redaction_digest`` names what redaction does alone: two policies that share it redact alike.
    """

    name: str
    digest: str
    directory: Path
    rails: dict[str, RailSettings]
    output: OutputSettings
    redaction: dict[str, Any]
    parts: Mapping[str, str]
    redaction_digest: str
    budget_ms: int | None = None
    actions: Mapping[str, Path] = field(default_factory=dict)
    risk: RiskSettings | None = None
    speculative: bool = False
    claim: ClaimSettings = field(default_factory=ClaimSettings)


def load_policy(directory: Path, actions: Path | None = None) -> Policy:
    """``actions``: the image's trusted folder of Python actions. Raises: PolicyError."""
    file = directory / "policy.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _lines(node)
    except FileNotFoundError:
        raise PolicyError(
            file, None, "", "there is no such file", "a policy is a directory with a policy.yaml in it"
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        raise PolicyError(file, None, "", f"cannot be read ({type(error).__name__})", "it must be UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise PolicyError(file, mark.line + 1 if mark else None, "", problem, "expected YAML") from None
    if (twice := given_twice(node)) is not None:
        raise PolicyError(file, *twice, "is given twice", "keep one")
    try:
        policy = PolicyFile.model_validate(data)
    except ValidationError as error:
        raise _explained(file, lines, error) from None
    if not (directory / "config.yml").is_file():
        raise PolicyError(
            directory / "config.yml",
            None,
            "",
            "there is no such file",
            "a NeMo Guardrails configuration belongs beside policy.yaml",
        )
    try:
        trusted = find_actions(policy.actions, actions)
    except ActionRefused as error:
        raise PolicyError(error.file, error.line, "actions", error.message) from None
    for wrong in complaints(directory, policy.output.horizon_chars, trusted):
        raise PolicyError(wrong.file, wrong.line, wrong.key, wrong.message, wrong.hint)
    redaction = located(policy.redaction, directory)
    parts = parts_of((rail.detector for rail in policy.rails.values() if rail.detector), redaction)
    parts |= {f"actions/{name}": digest_of(file) for name, file in trusted.items()}
    return Policy(
        policy.name,
        digest(directory, policy, parts),
        directory,
        policy.rails | unnamed_rails(directory, policy.rails),
        policy.output,
        redaction,
        parts,
        _canonical(
            {
                "settings": policy.redaction,
                "parts": {k: v for k, v in parts.items() if k.startswith(("redaction/", "actions/"))},
            }
        ),
        policy.budget_ms,
        trusted,
        policy.risk,
        policy.speculative,
        policy.claim or ClaimSettings(),
    )


def unnamed_rails(directory: Path, named: Mapping[str, RailSettings]) -> dict[str, RailSettings]:
    """Rails for the flows that NeMo would run and policy.yaml does not name: enforced, failing closed, answering in their own words."""
    have = {(rail.stage, rail.flow) for rail in named.values()}
    rails = {}
    for stage, flow in flows_of(directory):
        if (stage, flow) not in have:
            slug = re.sub(r"[^a-z0-9]+", "-", f"{flow} {stage}" if flow in rails else flow.lower()).strip("-")[:60]
            name = slug if slug not in named and slug not in rails else f"{stage}-{slug}"[:60]
            rails[name] = RailSettings(flow=flow, stage=stage, respond="refusal")
    return rails


def digest(directory: Path, policy: PolicyFile, parts: Mapping[str, str]) -> str:
    """The name of a policy by its content: any changed byte of a NeMo file or weight, or changed value of policy.yaml, changes it."""
    told = policy.model_dump(mode="json", exclude={key for key in ("risk", "claim") if getattr(policy, key) is None})
    total = hashlib.sha256(_canonical({"policy": told, "parts": dict(parts)}).encode())
    for name, content in files_of(directory).items():
        if name not in NOT_NEMOS:
            total.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def files_of(directory: Path) -> dict[str, bytes]:
    """The files that make a policy, by their path in it, in order: policy.yaml, the NeMo configuration, its own test cases."""
    paths = (path for path in directory.rglob("*") if path.suffix in NEMO_SUFFIXES and path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(paths)}


def _canonical(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _lines(node: yaml.Node | None, at: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], int]:
    if node is None:
        return {}
    lines = {at: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*at, str(key.value)))
            lines[(*at, str(key.value))] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*at, index))
    return lines


def _explained(file: Path, lines: dict[tuple[str | int, ...], int], error: ValidationError) -> PolicyError:
    found = error.errors(include_url=False, include_input=False)
    first = min(found, key=lambda one: one["type"] != "extra_forbidden")
    at = first["loc"]
    line = next((lines[at[:size]] for size in range(len(at), -1, -1) if at[:size] in lines), None)
    if first["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"rails": RailSettings, "output": OutputSettings, "claim": ClaimSettings}
        model = parts.get(str(at[0]), PolicyFile)
        return PolicyError(
            file,
            line,
            ".".join(map(str, at)),
            "unknown key",
            f"expected one of: {', '.join(sorted(model.model_fields))}",
        )
    message = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    return PolicyError(file, line, ".".join(map(str, at)), message)
