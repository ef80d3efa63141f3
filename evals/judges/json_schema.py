"""The part of JSON Schema that golden cases use: type, properties, required, enum, items, bounds and lengths.

A keyword outside this part is an error when the dataset is loaded, never silently ignored. No references, no formats.
"""

from __future__ import annotations

from typing import Any

_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "enum",
        "items",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    }
)


def unknown_keywords(schema: Any) -> tuple[str, ...]:
    """Keywords of `schema` that would not be checked, and schemas that are not an object, by name."""
    if not isinstance(schema, dict):
        return (f"{schema!r} in place of a schema",)
    unknown = [key for key in schema if key not in _KEYWORDS]
    nested = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return (*unknown, *(key for child in nested for key in unknown_keywords(child)))


def faults(value: Any, schema: dict[str, Any], place: str = "$") -> list[str]:
    """What is wrong with `value`, by JSON path; empty if it is valid."""
    wanted = schema.get("type")
    if wanted is not None and not _is(value, wanted):
        return [f"{place}: not of type {wanted}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: not one of the {len(schema['enum'])} allowed values")
    found += _bounds(value, schema, place)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{place}.{name}: missing" for name in schema.get("required", []) if name not in value]
        if schema.get("additionalProperties") is False:
            found += [f"{place}: unexpected key" for name in value if name not in properties]
        for name, child in properties.items():
            if name in value:
                found += faults(value[name], child, f"{place}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += faults(item, schema["items"], f"{place}[{index}]")
    return found


def _bounds(value: Any, schema: dict[str, Any], place: str) -> list[str]:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    text = len(value) if isinstance(value, str) else None
    items = len(value) if isinstance(value, list) else None
    limits: list[tuple[str, float | None, int]] = [
        ("minimum", number, 1),
        ("minLength", text, 1),
        ("minItems", items, 1),
    ]
    limits += [("maximum", number, -1), ("maxLength", text, -1), ("maxItems", items, -1)]
    return [
        f"{place}: breaks {keyword} {schema[keyword]}"
        for keyword, size, sign in limits
        if keyword in schema and size is not None and sign * size < sign * schema[keyword]
    ]


def _is(value: Any, wanted: str | list[str]) -> bool:
    if isinstance(wanted, list):
        return any(_is(value, one) for one in wanted)
    if isinstance(value, bool):
        return wanted == "boolean"
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "null": type(None),
    }
    return wanted in kinds and isinstance(value, kinds[wanted])
