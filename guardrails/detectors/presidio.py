"""Microsoft Presidio's interface, both ways: a user's own recognisers run here, and ours run in Presidio's engine.

The only file that knows Presidio, imported when asked for. Our fast path never pays for its engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from guardrails.detectors.own import Recognizer
from guardrails.types import Finding

Find = Callable[[str], list[Finding]]


def load_recognizers(path: Path) -> list[Recognizer]:
    """The recognisers of a Presidio recogniser YAML, unchanged.

    Raises: ValueError naming the file when Presidio refuses it.
    """
    from presidio_analyzer.recognizer_registry import RecognizerRegistryProvider

    try:
        registry = RecognizerRegistryProvider(conf_file=str(path)).create_recognizer_registry()
        recognizers: list[Recognizer] = registry.get_recognizers(language="en", all_fields=True)
    except Exception as error:  # noqa: BLE001 - Presidio raises many kinds for a file it cannot use
        raise ValueError(f"{path}: Presidio refuses it: {type(error).__name__}: {str(error)[:200]}") from None
    return recognizers


def recognizers_in(modules: Iterable[ModuleType]) -> list[Recognizer]:
    """One of each EntityRecognizer class that these modules define, unchanged. Raises: ValueError naming one that cannot be made."""
    from presidio_analyzer import EntityRecognizer

    made: list[Recognizer] = []
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, EntityRecognizer) and value.__module__ == module.__name__:
                try:
                    made.append(value())
                except Exception as error:  # noqa: BLE001 - somebody else's code
                    raise ValueError(f"recogniser {value.__name__} cannot be made: {type(error).__name__}") from None
    return made


def as_recognizer(find: Find, kinds: Sequence[str], name: str = "CallgateRecognizer") -> Any:
    """Our finder as a Presidio EntityRecognizer, for use in a Presidio AnalyzerEngine."""
    from presidio_analyzer import EntityRecognizer, RecognizerResult

    class CallgateRecognizer(EntityRecognizer):  # type: ignore[misc]  # Presidio is untyped here
        def load(self) -> None:
            """Nothing: our finder is loaded."""

        def analyze(self, text: str, entities: Sequence[str], nlp_artifacts: Any = None) -> list[Any]:  # noqa: ARG002
            return [RecognizerResult(f.kind, f.start, f.end, f.score) for f in find(text) if f.kind in entities]

    return CallgateRecognizer(supported_entities=list(kinds), name=name)
