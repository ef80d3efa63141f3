"""Scores and label queues in Arize Phoenix: each answer a span, each score an annotation that says who gave it, people's labels read back.

The only place of this package that knows Phoenix's client. Fails open for scores, and says so; what asks for labels raises, since somebody
waits for them. Texts are redacted before they leave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from evals.errors import EvalError
from evals.judges.personal_data import redact
from evals.online import JUDGE_CALL, LiveCall
from evals.report import Report
from evals.rollout.live import ArmCall
from evals.types import BUDGET_SPENT, Answer, Message, Score

PROJECT = "callgate-evals"
ONLINE = "callgate-online"
"""Tells our scores of live calls from what others write under the same names."""
STOPPED_BY_US = ("content_policy_violation", "guardrail_unavailable")


@dataclass(frozen=True, slots=True)
class Note:
    """What a judge wrote beside a live call; None: no score, and `reason` says why."""

    span: str
    metric: str
    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer that a person is to judge for one metric."""

    metric: str
    sample_id: str
    setting: str
    repeat: int


class Phoenix:
    """`url` is the server, without /v1."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        from phoenix.client import Client

        self._client: Any = Client(base_url=url, api_key=api_key)

    def record(self, report: Report, questions: Mapping[str, str], at: datetime) -> str:
        """The run: answers as spans, scores as annotations (CODE or LLM), the cases as a dataset. Returns where it is."""
        evidence = report.evidence
        scores: dict[tuple[str, str, int], list[Score]] = {}
        for score in evidence.scores:
            scores.setdefault((score.sample_id, score.setting, score.repeat), []).append(score)
        exact = {metric.name: metric.exact for metric in evidence.metrics}
        self._spans(report, evidence.answers, questions, at)
        annotations = [
            _annotation(report, answer, score, "CODE" if exact.get(score.metric) else "LLM")
            for answer in evidence.answers
            for score in scores.get((answer.sample_id, answer.setting, answer.repeat), [])
        ]
        for first in range(0, len(annotations), 500):
            # Not sync: spans arrive by a queue, and annotations that wait in it for their span are not refused.
            self._client.spans.log_span_annotations(span_annotations=annotations[first : first + 500], sync=False)
        dataset = self._dataset(report, questions)
        for setting in (evidence.candidate.name, evidence.baseline.name):
            self._experiment(report, dataset, setting, scores, at)
        return (
            f"{len(evidence.answers)} spans, {len(annotations)} annotations in project {PROJECT}, "
            f"2 experiments on dataset {dataset.name}"
        )

    def queue(
        self,
        report: Report,
        wanted: Sequence[Wanted],
        questions: Mapping[str, str],
        meant: Mapping[str, str],
        at: datetime,
    ) -> str:
        """Spans of exactly the answers that people are asked to label, with pass and fail offered beside them by the metric's name; `meant`
        says of each metric what makes a reply pass.
        """
        keys = {(one.sample_id, one.setting, one.repeat) for one in wanted}
        answers = [a for a in report.evidence.answers if (a.sample_id, a.setting, a.repeat) in keys]
        self._offer(queue_project(report), {one.metric: meant.get(one.metric, "") for one in wanted})
        self._spans(report, answers, questions, at, project=queue_project(report))
        return f"{len(answers)} answers in project {queue_project(report)}"

    def _offer(self, project: str, metrics: Mapping[str, str]) -> None:
        """pass and fail to click on, for each metric, in a project; done again it changes nothing."""
        http = self._client._client
        values = [{"label": "pass", "score": 1.0}, {"label": "fail", "score": 0.0}]
        wanted: list[tuple[str, str, dict[str, Any]]] = [("projects", project, {"name": project})]
        for name, meant in metrics.items():
            config = {
                "name": name, "description": meant, "type": "CATEGORICAL",
                "optimization_direction": "MAXIMIZE", "values": values,
            }  # fmt: skip
            wanted.append(("annotation_configs", name, config))
        for kind, name, document in wanted:
            if http.get(f"v1/{kind}/{name}").status_code == 404:
                http.post(f"v1/{kind}", json=document).raise_for_status()
        for name in metrics:
            http.put(f"v1/projects/{project}/annotation_configs/{name}").raise_for_status()

    def labels(self, report: Report, wanted: Sequence[Wanted]) -> dict[tuple[str, str, str, int], bool]:
        """What people (annotator kind HUMAN) said of the wanted answers, 'pass' or 'fail'; the last word of each counts.

        Raises EvalError for any other word, since a label that is guessed is worse than none.
        """
        project = queue_project(report)
        by_span = {span_id(report, one.sample_id, one.setting, one.repeat, project): one for one in wanted}
        if not by_span:
            return {}
        found: dict[tuple[str, str, str, int], bool] = {}
        annotations = self._client.spans.get_span_annotations(span_ids=list(by_span), project_identifier=project)
        for annotation in sorted(annotations, key=lambda one: str(one.get("updated_at") or "")):
            one = by_span.get(annotation["span_id"])
            if (
                one is None
                or annotation.get("annotator_kind") != "HUMAN"
                or annotation["name"] not in {w.metric for w in wanted}
            ):
                continue
            word = str((annotation.get("result") or {}).get("label") or "").strip().lower()
            if word not in ("pass", "fail"):
                raise EvalError(f"{one.sample_id}: label {annotation['name']!r} is neither pass nor fail")
            found[annotation["name"], one.sample_id, one.setting, one.repeat] = word == "pass"
        return found

    def calls(self, project: str, since: datetime, limit: int) -> list[LiveCall]:
        """Calls of models that began since then, with the passages that their trace retrieved; those of judges are left out."""
        spans = self._client.spans.get_spans(
            project_identifier=project, start_time=since, span_kind=["LLM", "RETRIEVER"], limit=limit, timeout=30
        )
        passages = {span["context"]["trace_id"]: _passages(span) for span in spans if span["span_kind"] == "RETRIEVER"}
        return [
            _live_call(span, passages.get(span["context"]["trace_id"], ()))
            for span in spans
            if span["span_kind"] == "LLM" and not is_judges(span)
        ]

    def arm_calls(self, project: str, model: str, since: datetime, limit: int) -> list[ArmCall]:
        """The calls of a model since then that a rollout gave to one arm or the other, without their texts. Raises EvalError where there are more than `limit`:
        those that would be left out hung the longest.
        """
        spans = self._client.spans.get_spans(
            project_identifier=project, start_time=since, span_kind=["LLM"], attributes={"gen_ai.request.model": model},
            limit=limit, timeout=30,
        )  # fmt: skip
        _refuse_more_than(limit, spans)
        return [
            _arm_call(span) for span in spans if span["attributes"].get("callgate.assigned") and not is_judges(span)
        ]

    def retrieved(self, project: str, since: datetime, limit: int) -> frozenset[str]:
        """Traces since then that retrieved passages. Raises as `arm_calls`."""
        spans = self._client.spans.get_spans(
            project_identifier=project, start_time=since, span_kind=["RETRIEVER"], limit=limit, timeout=30
        )
        _refuse_more_than(limit, spans)
        return frozenset(span["context"]["trace_id"] for span in spans if _passages(span))

    def notes(self, project: str, spans: Collection[str], judges: Mapping[str, str]) -> list[Note]:
        """What `annotate` wrote of these spans for these metrics; a number of another judge than that of the metric is no score. What people and other tools
        wrote under the same name is not among them.
        """
        ids, found = list(spans), []
        for first in range(0, len(ids), 100):
            notes = self._client.spans.get_span_annotations(
                span_ids=ids[first : first + 100], project_identifier=project, include_annotation_names=list(judges)
            )
            found += [_note(note, judges.get(note["name"])) for note in notes if _is_ours(note)]
        return found

    def judged(self, project: str, spans: Collection[str], metrics: Collection[str]) -> set[tuple[str, str]]:
        """Which spans `annotate` gave a score of which metric already; a budget that was spent is none, and may be asked again."""
        ids, found = list(spans), set()
        for first in range(0, len(ids), 100):
            notes = self._client.spans.get_span_annotations(
                span_ids=ids[first : first + 100], project_identifier=project, include_annotation_names=list(metrics)
            )
            found |= {(note["span_id"], note["name"]) for note in notes if _is_ours(note) and not _is_unpaid(note)}
        return found

    def annotate(self, span: str, score: Score, *, exact: bool, about: Mapping[str, str]) -> None:
        """A score on a live span (a sampled call); written again, it replaces itself."""
        data = {
            "span_id": span,
            "name": score.metric,
            "annotator_kind": "CODE" if exact else "LLM",
            "identifier": ONLINE,
            "result": _result(score),
            "metadata": dict(about),
        }
        self._client.spans.log_span_annotations(span_annotations=[data], sync=True)

    def _spans(
        self,
        report: Report,
        answers: Sequence[Answer],
        questions: Mapping[str, str],
        at: datetime,
        project: str = PROJECT,
    ) -> None:
        spans = [_span(report, answer, questions.get(answer.sample_id, ""), at, project) for answer in answers]
        if project == queue_project(report):
            spans = [_blind(span, answer.sample_id) for span, answer in zip(spans, answers, strict=True)]
        for first in range(0, len(spans), 200):
            try:
                self._client.spans.log_spans(project_identifier=project, spans=spans[first : first + 200], timeout=30)
            except Exception as error:
                # The same run recorded twice, or more of it asked for: Phoenix takes none of a batch of which it has some.
                known = {one["span_id"] for one in getattr(error, "duplicate_spans", ())}
                if not known:
                    raise
                rest = [span for span in spans[first : first + 200] if span["context"]["span_id"] not in known]
                if rest:
                    self._client.spans.log_spans(project_identifier=project, spans=rest, timeout=30)

    def _experiment(
        self,
        report: Report,
        dataset: Any,
        setting: str,
        scores: Mapping[tuple[str, str, int], Sequence[Score]],
        at: datetime,
    ) -> None:
        """One side's answers and scores beside the dataset, so that Phoenix compares the two; one request each. Never twice."""
        evidence = report.evidence
        name = f"{setting} {report.digest.rpartition(':')[2][:12]}"
        if any(one["name"] == name for one in self._client.experiments.list(dataset_id=dataset.id)):
            return
        about = {"setting": setting, "report": report.digest, "verdict": report.gate.verdict.value}
        experiment = self._client.experiments.create(
            dataset_id=dataset.id, experiment_name=name, experiment_metadata=about, repetitions=evidence.repeats
        )
        examples = {example["metadata"]["case"]: example["id"] for example in dataset.examples}
        exact = {metric.name: metric.exact for metric in evidence.metrics}
        for answer in evidence.answers:
            if answer.setting != setting or answer.sample_id not in examples:
                continue
            run = self._client.experiments.log_run(
                experiment_id=experiment["id"],
                dataset_example_id=examples[answer.sample_id],
                output=_shown(answer),
                start_time=at,
                end_time=at + timedelta(milliseconds=answer.latency_ms),
                repetition_number=answer.repeat + 1,
                error=answer.error,
                trace_id=_trace_id(span_id(report, answer.sample_id, setting, answer.repeat)),
            )
            for score in scores.get((answer.sample_id, setting, answer.repeat), ()):
                kind = "CODE" if exact.get(score.metric) else "LLM"
                result = _result(score)
                self._client.experiments.log_evaluation(
                    experiment_run_id=run["id"], name=score.metric, annotator_kind=kind, start_time=at, **result
                )

    def _dataset(self, report: Report, questions: Mapping[str, str]) -> Any:
        evidence = report.evidence
        name = f"callgate-{evidence.suite}-{evidence.dataset_digest[-12:]}"
        try:
            return self._client.datasets.get_dataset(dataset=name)
        except Exception:  # noqa: BLE001 - its client raises one kind for all: not there
            cases = evidence.cases
            return self._client.datasets.create_dataset(
                name=name,
                inputs=[{"question": redact(questions.get(case.id, ""))} for case in cases],
                metadata=[{"case": case.id, "conversation": case.conversation, "slice": case.slice} for case in cases],
                timeout=30,
            )


def choose(report: Report, metric: str, labels: int) -> tuple[Wanted, ...]:
    """Answers to label, at random by conversation and both sides of each pair: the correction assumes a random part of the cases.

    Drawn with the digest of the evidence as seed, so that who draws again draws the same. At least `labels` answers where there are as many.
    """
    evidence = report.evidence
    seed = int(hashlib.sha256(f"{evidence.digest()}/{metric}".encode()).hexdigest()[:16], 16)
    conversations = sorted({case.conversation for case in evidence.cases if metric in case.metrics})
    order = np.random.default_rng(seed).permutation(len(conversations))
    found: list[Wanted] = []
    for number in order:
        if len(found) >= labels:
            break
        for case in evidence.cases:
            if case.conversation == conversations[number] and metric in case.metrics:
                sides = (evidence.candidate.name, evidence.baseline.name)
                found += [Wanted(metric, case.id, side, repeat) for side in sides for repeat in range(evidence.repeats)]
    return tuple(found)


def needed(report: Report) -> Iterator[tuple[str, int]]:
    """Metrics whose judge is not trusted yet, and how many labels would decide that."""
    for comparison in report.comparisons:
        more = comparison.trust.labels_needed
        if not comparison.trust.may_decide and more:
            yield comparison.metric, more


def queue_project(report: Report) -> str:
    """By its evidence: once some labels are known the report is another one, and what it asks for next joins what was asked before."""
    return f"callgate-labels-{report.evidence_digest.rpartition(':')[2][:12]}"


def span_id(report: Report, sample: str, setting: str, repeat: int, project: str = PROJECT) -> str:
    """Of one answer of one run in one project: the same whenever it is asked for."""
    return hashlib.sha256(f"{project}/{report.evidence_digest}/{sample}/{setting}/{repeat}".encode()).hexdigest()[:16]


def _span(report: Report, answer: Answer, question: str, at: datetime, project: str) -> dict[str, Any]:
    text = answer.error or _shown(answer)
    span = span_id(report, answer.sample_id, answer.setting, answer.repeat, project)
    trace = _trace_id(span)
    return {
        "name": f"{answer.setting}: {answer.sample_id}",
        "context": {"trace_id": trace, "span_id": span},
        "span_kind": "LLM",
        "parent_id": None,
        "start_time": at.isoformat(),
        "end_time": (at + timedelta(milliseconds=answer.latency_ms)).isoformat(),
        "status_code": "ERROR" if answer.error else "OK",
        "status_message": answer.error or "",
        "attributes": {
            "input.value": redact(question),
            "output.value": text,
            "callgate.suite": report.evidence.suite,
            "callgate.setting": answer.setting,
            "callgate.report": report.digest,
            "llm.token_count.prompt": answer.prompt_tokens,
            "llm.token_count.completion": answer.completion_tokens,
        },
        "events": [],
    }


def is_judges(span: Mapping[str, Any]) -> bool:
    """Whether it is of a judge's own call."""
    return str(span["attributes"].get("session.id") or "").startswith(f"{JUDGE_CALL}.")


def _blind(span: dict[str, Any], sample: str) -> dict[str, Any]:
    """For people who label: nothing that tells which side an answer is of."""
    shown = {name: value for name, value in span["attributes"].items() if name in ("input.value", "output.value")}
    return {**span, "name": sample, "end_time": span["start_time"], "attributes": shown}


def _live_call(span: Mapping[str, Any], contexts: tuple[str, ...]) -> LiveCall:
    attributes = span["attributes"]
    roles = _numbered(attributes, "llm.input_messages", "message.role")
    texts = _numbered(attributes, "llm.input_messages", "message.content")
    started, ended = (datetime.fromisoformat(span[name]) for name in ("start_time", "end_time"))
    about = {name: attributes.get(f"callgate.{name}") for name in ("deployment", "arm")}
    about["model"] = attributes.get("llm.model_name")
    return LiveCall(
        conversation=_conversation(span),
        span_id=span["context"]["span_id"],
        started=started,
        messages=tuple(Message(role, text) for role, text in zip(roles, texts, strict=False)),
        text=str(attributes.get("output.value") or ""),
        contexts=contexts,
        latency_ms=(ended - started).total_seconds() * 1000,
        prompt_tokens=int(attributes.get("llm.token_count.prompt") or 0),
        completion_tokens=int(attributes.get("llm.token_count.completion") or 0),
        about={name: str(value) for name, value in about.items() if value},
    )


def _arm_call(span: Mapping[str, Any]) -> ArmCall:
    attributes, context = span["attributes"], span["context"]
    error = str(attributes.get("callgate.error_code") or "")
    given_up = error == "client_hung_up" and not attributes.get("output.value")  # whoever still reads has been answered
    failed = error not in ("", "client_hung_up", *STOPPED_BY_US) or given_up
    return ArmCall(
        span=context["span_id"],
        trace=context["trace_id"],
        conversation=_conversation(span),
        at=datetime.fromisoformat(span["start_time"]),
        assigned=str(attributes["callgate.assigned"]),
        arm=str(attributes.get("callgate.arm") or ""),
        failed=failed or span["status_code"] == "ERROR",
        blocked=attributes.get("callgate.finish_reason") == "content_filter",
        drawn=not attributes.get("callgate.kept"),
        elsewhere=bool(attributes.get("callgate.fallbacks")),
        silent="llm.input_messages.0.message.content" not in attributes,
    )


def _conversation(span: Mapping[str, Any]) -> str:
    """The call id that the application gave, else the trace."""
    return str(span["attributes"].get("session.id") or span["context"]["trace_id"])


def _refuse_more_than(limit: int, spans: Sequence[Any]) -> None:
    if len(spans) >= limit:
        raise EvalError(f"{limit} or more spans at one look; trace a smaller share of the calls")


def _passages(span: Mapping[str, Any]) -> tuple[str, ...]:
    return _numbered(span["attributes"], "retrieval.documents", "document.content")


def _note(note: Mapping[str, Any], judge: str | None) -> Note:
    result = note.get("result") or {}
    value, reason = _in_range(result.get("score")), ""
    if (note.get("metadata") or {}).get("judge") != judge:
        value, reason = None, "scored by another judge than in the report"
    elif value is None:
        reason = f"not scored: {result.get('explanation') or 'no number in [0, 1]'}"[:100]
    return Note(note["span_id"], note["name"], value, reason)


def _is_unpaid(note: Mapping[str, Any]) -> bool:
    result = note.get("result") or {}
    return result.get("score") is None and BUDGET_SPENT in str(result.get("explanation") or "")


def _is_ours(note: Mapping[str, Any]) -> bool:
    return note.get("identifier") == ONLINE and note["annotator_kind"] != "HUMAN"


def _in_range(value: Any) -> float | None:
    """A score, or None for what is no number in [0, 1]."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None


def _numbered(attributes: Mapping[str, Any], prefix: str, name: str) -> tuple[str, ...]:
    """The values of prefix.0.name, prefix.1.name and so on."""
    found: list[str] = []
    while (value := attributes.get(f"{prefix}.{len(found)}.{name}")) is not None:
        found.append(str(value))
    return tuple(found)


def _trace_id(span: str) -> str:
    return hashlib.sha256(f"trace/{span}".encode()).hexdigest()[:32]


def _shown(answer: Answer) -> str:
    return "(blocked by policy)" if answer.blocked else redact(answer.text)


def _annotation(report: Report, answer: Answer, score: Score, kind: str) -> dict[str, Any]:
    span = span_id(report, answer.sample_id, answer.setting, answer.repeat)
    return {
        "span_id": span,
        "name": score.metric,
        "annotator_kind": kind,
        "result": _result(score),
        "metadata": {"judge": score.judge},
    }


def _result(score: Score) -> dict[str, Any]:
    """A score that could not be had is the label 'not scored' and no number."""
    if score.value is None:
        return {"label": "not scored", "explanation": score.reason}
    return {"score": score.value, "label": "pass" if score.value >= 0.5 else "fail", "explanation": score.reason}
