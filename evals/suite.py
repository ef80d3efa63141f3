"""suite.yaml, parsed and checked: the dataset, the targets, the metrics and judges, and the limits of the gate.

An unknown key, metric, check or target is an error that names its place. The JSON Schema in suite.schema.json is
generated from the models here. Does not ask anybody anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evals.datasets import Dataset, describe, load_dataset
from evals.digests import digest
from evals.drift import Anchor, AnchorScores, load_anchors, load_lock
from evals.errors import DatasetError, SuiteError
from evals.judges.checks import AMOUNTS, CHECKS
from evals.judges.json_schema import unknown_keywords
from evals.judges.structured import NEEDS
from evals.types import Limits, PromoteWhen, Setting

Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
CheckName = Literal[
    "facts", "no_leak", "refusal", "valid_json", "citation", "tone", "length", "tool_calls", "latency", "tokens", "cost"
]
By = Literal[
    "question", "pairwise",
    "ragas/faithfulness", "ragas/answer_relevancy", "ragas/context_precision", "ragas/context_recall",
    "deepeval/tone", "deepeval/professionalism", "deepeval/faithfulness", "deepeval/role_adherence",
]  # fmt: skip


SHIPPED = Path(__file__).parent / "suites"
_LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceModel(_Strict):
    """US dollars per million tokens."""

    prompt_usd: Decimal = Field(default=Decimal(0), ge=0)
    completion_usd: Decimal = Field(default=Decimal(0), ge=0)


class TargetModel(_Strict):
    """A model, what it is told first and how it is sampled."""

    model: str = Field(min_length=1, description="Model or alias as the server at --url knows it.")
    system: str | None = Field(default=None, description="System message put before every case.")
    parameters: dict[str, Any] = Field(
        default={}, description="Sampling parameters: temperature, ...; of seed follows one for each case and repeat."
    )
    version: str = Field(default="unversioned", description="Change it when the model behind the alias changes.")
    price: PriceModel = PriceModel()


class JudgeModel(_Strict):
    """A language model that judges: by a question of ours, in pairs, or as Ragas and DeepEval ask it."""

    model: str = Field(min_length=1)
    question: str | None = Field(
        default=None, min_length=10, description="Answered with yes (1) or no (0); for pairwise, which reply is better."
    )
    embedding_model: str | None = Field(default=None, description="For ragas/answer_relevancy, at the same address.")
    version: str = Field(min_length=1)
    parameters: dict[str, Any] = {}
    price: PriceModel = PriceModel()


class MetricModel(_Strict):
    """One number a case: by a deterministic check or by a judge."""

    name: Name
    check: CheckName | None = None
    judge: Name | None = None
    panel: list[Name] | None = Field(default=None, min_length=2, description="Judges whose majority counts.")
    local: Literal["faithfulness"] | None = Field(default=None, description="The small local head; needs contexts.")
    most: float | None = Field(
        default=None,
        gt=0,
        description="For latency (ms), tokens and cost (US dollars) of an answer: what is still good.",
    )
    by: By = Field(default="question", description="How the judge is asked.")
    decides: bool = Field(default=True, description="False: shown, never part of the verdict.")
    primary: bool = Field(default=False, description="With promote_when better: one of these must improve.")
    margin: float = Field(default=0.05, gt=0, le=1, description="How much worse is still acceptable, as a share.")

    @model_validator(mode="after")
    def _one_source(self) -> MetricModel:
        if sum(source is not None for source in (self.check, self.judge, self.panel, self.local)) != 1:
            raise ValueError("a metric has exactly one of check, judge, panel and local")
        if (self.check in AMOUNTS) != (self.most is not None):
            raise ValueError(f"most is for the checks {', '.join(AMOUNTS)}, and needed there")
        if self.by != "question" and self.judge is None:
            raise ValueError("by says how a judge is asked: it needs judge")
        return self


class LimitsModel(_Strict):
    """What the gate is held to."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Accepted chance of a false promotion.")
    promote_when: PromoteWhen = PromoteWhen.BETTER
    min_conversations: int = Field(default=8, ge=2)
    max_not_scored: float = Field(default=0.1, ge=0, lt=1, description="Share of pairs of a deciding metric.")
    min_kappa: float = Field(default=0.6, gt=0, lt=1, description="Lower bound of a deciding judge's kappa.")
    min_labels: int = Field(default=50, ge=10)
    sequential: bool = Field(
        default=False, description="Look after every ten conversations and stop as soon as the verdict is known."
    )


class BudgetModel(_Strict):
    """Hard limits of one run, retries and judges included."""

    max_requests: int | None = Field(default=None, ge=1)
    max_cost_usd: Decimal | None = Field(default=None, gt=0)
    deadline_s: float = Field(default=120.0, gt=0, description="For one request with all its retries.")


class SuiteModel(_Strict):
    """An evaluation suite of Callgate."""

    name: Name
    version: str = Field(min_length=1)
    dataset: str = Field(description="JSONL file, relative to suite.yaml.")
    targets: dict[Name, TargetModel] = Field(min_length=1)
    metrics: list[MetricModel] = Field(min_length=1)
    judges: dict[Name, JudgeModel] = {}
    anchors: str | None = Field(default=None, description="JSONL of labelled answers that lock the judges (see drift).")
    repeats: int = Field(default=1, ge=1, le=100)
    limits: LimitsModel = LimitsModel()
    budget: BudgetModel = BudgetModel()

    @model_validator(mode="after")
    def _known_names(self) -> SuiteModel:
        names = [metric.name for metric in self.metrics]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"metric {name!r} is listed twice")
        for metric in self.metrics:
            for name in [*([metric.judge] if metric.judge else []), *(metric.panel or [])]:
                if name not in self.judges:
                    raise ValueError(f"metric {metric.name!r}: judge {name!r} is not one of {sorted(self.judges)}")
                if metric.by in ("question", "pairwise") and self.judges[name].question is None:
                    raise ValueError(
                        f"metric {metric.name!r}: judge {name!r} needs a question to be asked by {metric.by}"
                    )
        if self.limits.promote_when is PromoteWhen.BETTER and not any(m.primary and m.decides for m in self.metrics):
            raise ValueError("promote_when better needs at least one metric with primary: true that decides")
        return self

    @model_validator(mode="after")
    def _priced(self) -> SuiteModel:
        """Dollars are no limit, and no metric, on a model whose price nobody names, nor on a reply of any length."""
        limited = self.budget.max_cost_usd is not None
        asked: list[tuple[str, TargetModel | JudgeModel]] = [*self.targets.items()]
        if limited or any(metric.check == "cost" for metric in self.metrics):
            for name, model in [*asked, *(self.judges.items() if limited else ())]:
                if "price" not in model.model_fields_set:
                    free = "{prompt_usd: 0, completion_usd: 0}"
                    raise ValueError(f"dollars need the price of {name!r}; of a model of your own, price: {free}")
                if limited and model.price.completion_usd and not _LENGTHS & model.parameters.keys():
                    raise ValueError(f"budget.max_cost_usd needs max_tokens in the parameters of {name!r}")
        return self


@dataclass(frozen=True, slots=True)
class Suite:
    model: SuiteModel
    dataset: Dataset
    digest: str
    anchors: tuple[Anchor, ...] = ()
    locked: tuple[AnchorScores, ...] = ()

    @property
    def limits(self) -> Limits:
        return Limits(**self.model.limits.model_dump())

    def looked_at_early(self) -> Suite:
        """The same suite, sequential."""
        limits = self.model.limits.model_copy(update={"sequential": True})
        return replace(self, model=self.model.model_copy(update={"limits": limits}))

    def setting(self, name: str) -> Setting:
        """Raises SuiteError with the names there are."""
        if name not in self.model.targets:
            raise SuiteError(f"target {name!r} is not in the suite; it has {', '.join(sorted(self.model.targets))}")
        target = self.model.targets[name]
        return Setting(name, target.model, target.system, tuple(sorted(target.parameters.items())), target.version)


def find_suite(name: str) -> Path:
    """The folder of a shipped suite by its name, or `name` itself where that is a path to a folder or a suite.yaml."""
    path = Path(name)
    if path.is_file():
        return path.parent
    if (path / "suite.yaml").is_file():
        return path
    if name in shipped_suites():
        return SHIPPED / name
    nearest = get_close_matches(name, shipped_suites(), 1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise SuiteError(
        f"no suite at {name!r}: {hint}give a folder with a suite.yaml, or one of {', '.join(shipped_suites())}"
    )


def shipped_suites() -> list[str]:
    """Their names, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/suite.yaml"))


def load_suite(folder: Path) -> Suite:
    """Raises SuiteError or DatasetError naming the file, the key and what would be right."""
    path = folder / "suite.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read ({type(error).__name__})") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: not YAML: {error}") from error
    try:
        model = SuiteModel.model_validate(document)
    except ValidationError as error:
        raise SuiteError(f"{path}: {describe(error, _keys())}") from error
    dataset = load_dataset(folder / model.dataset)
    for sample in dataset.samples:
        unknown = unknown_keywords(sample.expect.json_schema) if sample.expect.json_schema is not None else ()
        if unknown:
            raise DatasetError(f"{folder / model.dataset}: case {sample.id!r}: json_schema: not checked: {unknown[0]}")
    for metric in model.metrics:
        missing = _missing(metric, dataset)
        if missing is not None:
            raise SuiteError(f"{path}: metric {metric.name!r}: no case of the dataset has what {missing}")
    anchors = load_anchors(folder / model.anchors) if model.anchors else ()
    strange = {anchor.metric for anchor in anchors} - {metric.name for metric in model.metrics}
    if strange:
        raise SuiteError(f"{path}: anchors of metrics that the suite does not have: {', '.join(sorted(strange))}")
    locked = load_lock(lock_path(folder, model.anchors)) if model.anchors else ()
    return Suite(model, dataset, digest(model.model_dump(mode="json")), anchors, locked)


def _keys() -> set[str]:
    """Every key that a suite may have, wherever it belongs."""
    schema = SuiteModel.model_json_schema()
    return {name for one in (schema, *schema["$defs"].values()) for name in one.get("properties", ())}


def _missing(metric: MetricModel, dataset: Dataset) -> str | None:
    """What no case has for a metric; None where at least one case has all of it."""
    kind = CHECKS.get(metric.check or "")
    if kind is not None:
        return None if any(map(kind.applies, dataset.samples)) else f"check {metric.check} needs"
    needs = ("contexts",) if metric.local is not None else NEEDS.get(metric.by, ())
    if any(all(getattr(sample.expect, need) for need in needs) for sample in dataset.samples):
        return None
    return f"{metric.local or metric.by} needs: {' and '.join(needs)} under expect"


def lock_path(folder: Path, anchors: str) -> Path:
    return (folder / anchors).with_suffix(".lock.json")


def json_schema() -> dict[str, Any]:
    """The published schema of suite.yaml (draft 2020-12)."""
    schema = SuiteModel.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
