"""Expressions for the beginnings of what a pattern's value can be, so that a stream holds back only what may still become one.

The beginnings of a regular language are regular again, so RE2 finds the earliest place from which the end of a text is such a beginning in one
linear pass. Context before a value is left out: more may be held than needed, never less. Validators and look-behind are not its affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from guardrails.detectors.pattern import Pattern

_CLASS = re.compile(r"\\[pP](?:\{\^?\w+\}|[A-Z])")  # a Unicode class, which Python's parser does not know
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")
_HEX = re.compile(r"\\x\{([0-9a-fA-F]+)\}")
_PRIVATE = 0xF0000  # stands for a Unicode class while Python parses
# Unicode classes are widened to all that is not ASCII: the automaton of \p{L} in UTF-8 alone is larger than all else.
_WIDER = {r"\p{L": r"A-Za-z\x{80}-\x{10ffff}", r"\p{N": r"0-9\x{80}-\x{10ffff}"}
_ANY = r"\x{00}-\x{10ffff}"
_AT = {
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
    "AT_BEGINNING": "(?m:^)",
    "AT_END": "(?m:$)",
    "AT_BEGINNING_STRING": r"\A",
    "AT_END_STRING": r"\z",
}


def beginnings(patterns: Iterable[Pattern]) -> Callable[[str], int]:
    """A function of a text: where the earliest possible beginning of a value starts that reaches to the text's end, or its length.

    Values without white space are not its affair: whoever asks holds the last word whole. Of an expression that cannot be taken apart, anything of
    up to its ``longest`` characters counts as a beginning.
    """
    import re2

    options = re2.Options()
    options.max_mem = 256 << 20
    options.log_errors = False
    parts = dict.fromkeys(beginning for pattern in patterns if (beginning := beginning_of(pattern)))
    compiled = re2.compile(rf"(?:{'|'.join(parts)})\z", options)

    def earliest(text: str) -> int:
        match = compiled.search(text)
        place: int = match.start() if match is not None else len(text)
        return place

    return earliest


def beginning_of(pattern: Pattern) -> str:
    """RE2 for every beginning of every value of a pattern, the empty one included; empty where no value can hold white space."""
    classes: list[str] = []

    def private(match: re.Match[str]) -> str:
        classes.append(match[0])
        return chr(_PRIVATE + len(classes) - 1)

    source = _HEX.sub(lambda match: re.escape(chr(int(match[1], 16))), pattern.regex)
    try:
        if _POSIX.search(source):  # a class by its POSIX name, which Python would read as letters
            raise _Unknown
        tree = re._parser.parse(_CLASS.sub(private, source))  # type: ignore[attr-defined]  # as in regex_safety
        writer = _Writer(classes)
        value = _value_of(tree, tree.state.groupdict.get("v"))
        if not any(_reads_space(str(op), argument, classes) for op, argument in value):
            return ""
        flags = "(?i:" if tree.state.flags & re.IGNORECASE else "(?:"
        return f"{flags}{writer.beginning(value)})"
    except (re.error, _Unknown):
        return rf"(?s:.{{0,{min(pattern.longest, 1000)}}})"


class _Unknown(Exception):
    """A construct that is not known here."""


def _value_of(tree: Any, group: int | None) -> list[Any]:
    """The part of the tree that is the value, with the flags that hold there; the whole where no group is named."""
    if group is None:
        return list(tree)
    found = _group(list(tree), group)
    if found is None:
        raise _Unknown
    return found


def _group(nodes: list[Any], group: int) -> list[Any] | None:
    for node in nodes:
        op, argument = str(node[0]), node[1]
        if op == "SUBPATTERN":
            if argument[0] == group:
                return [node]
            inner = _group(list(argument[3]), group)
            if inner is not None:
                return [(node[0], (None, argument[1], argument[2], inner))] if argument[1] or argument[2] else inner
        elif op in ("MAX_REPEAT", "MIN_REPEAT"):
            inner = _group(list(argument[2]), group)
            if inner is not None:
                return inner
        elif op == "BRANCH":
            for branch in argument[1]:
                inner = _group(list(branch), group)
                if inner is not None:
                    return inner
    return None


def _reads_space(op: str, argument: Any, classes: list[str]) -> bool:
    """Whether a node can read white space."""
    if op == "SUBPATTERN":
        return any(_reads_space(str(o), a, classes) for o, a in argument[3])
    if op == "BRANCH":
        return any(_reads_space(str(o), a, classes) for branch in argument[1] for o, a in branch)
    if op in ("MAX_REPEAT", "MIN_REPEAT"):
        return any(_reads_space(str(o), a, classes) for o, a in argument[2])
    if op == "AT":
        return False
    if op == "IN":
        negated = str(argument[0][0]) == "NEGATE"
        reads = any(_reads_space(str(o), a, classes) for o, a in argument if str(o) != "NEGATE")
        return not reads if negated else reads
    if op == "RANGE":
        return bool(argument[0] <= ord(" ") <= argument[1] or argument[0] <= ord("\t") <= argument[1])
    if op == "CATEGORY":
        return str(argument) in ("CATEGORY_SPACE", "CATEGORY_NOT_DIGIT", "CATEGORY_NOT_WORD")
    if op == "LITERAL" and argument >= _PRIVATE:
        name = classes[argument - _PRIVATE]
        return name.startswith(r"\P") or "Z" in name
    return chr(argument).isspace() if op == "LITERAL" else True


class _Writer:
    """Writes Python's parse tree back as RE2, whole or as all its beginnings."""

    def __init__(self, classes: list[str]) -> None:
        self._classes = classes

    def whole(self, nodes: Iterable[Any]) -> str:
        return "".join(self._node(str(op), argument) for op, argument in nodes)

    def beginning(self, nodes: Iterable[Any]) -> str:
        out = ""
        for op, argument in reversed(list(nodes)):
            name = str(op)
            if name == "AT":
                out = f"(?:{_at(argument)}{out})?"
            else:
                out = (
                    f"(?:{self._beginning(name, argument)}|{self._node(name, argument)}{out})"
                    if out
                    else (self._beginning(name, argument))
                )
        return out

    def _beginning(self, op: str, argument: Any) -> str:
        if op == "SUBPATTERN":
            return _flagged(argument, self.beginning(argument[3]))
        if op == "BRANCH":
            return "(?:" + "|".join(self.beginning(branch) for branch in argument[1]) + ")"
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, body = argument
            body = list(body)
            if len(body) == 1 and str(body[0][0]) not in ("SUBPATTERN", "BRANCH", "MAX_REPEAT", "MIN_REPEAT"):
                return f"(?:{self.whole(body)}){_times(0, most)}"
            fewer = most if most == re._constants.MAXREPEAT else most - 1  # type: ignore[attr-defined]
            return f"(?:{self.whole(body)}){_times(0, fewer)}{self.beginning(body)}"
        return f"(?:{self._node(op, argument)})?"

    def _node(self, op: str, argument: Any) -> str:
        if op == "LITERAL":
            return self._character(argument)
        if op == "NOT_LITERAL":
            return f"[^{self._character(argument)}]"
        if op == "ANY":
            return "(?s:.)"
        if op == "AT":
            return _at(argument)
        if op == "IN":
            return self._in(argument)
        if op == "BRANCH":
            return "(?:" + "|".join(self.whole(branch) for branch in argument[1]) + ")"
        if op == "SUBPATTERN":
            return _flagged(argument, self.whole(argument[3]))
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, body = argument
            return f"(?:{self.whole(body)}){_times(least, most)}"
        raise _Unknown

    def _in(self, items: Any) -> str:
        if str(items[0][0]) == "NEGATE" and any(str(op) == "LITERAL" and code >= _PRIVATE for op, code in items):
            return f"[{_ANY}]"
        out = ""
        for op, argument in items:
            name = str(op)
            if name == "NEGATE":
                out += "^"
            elif name == "RANGE":
                out += f"{self._character(argument[0], inside=True)}-{self._character(argument[1], inside=True)}"
            elif name == "CATEGORY":
                out += _category(str(argument))
            else:
                out += self._character(argument, inside=True)
        return f"[{out}]"

    def _character(self, code: int, *, inside: bool = False) -> str:
        if _PRIVATE <= code < _PRIVATE + len(self._classes):
            known = next((wide for name, wide in _WIDER.items() if name in self._classes[code - _PRIVATE]), _ANY)
            return known if inside else f"[{known}]"
        return rf"\x{{{code:x}}}"


def _at(argument: Any) -> str:
    if str(argument) not in _AT:
        raise _Unknown
    return _AT[str(argument)]


def _category(name: str) -> str:
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[name.removeprefix("CATEGORY_").removeprefix("NOT_")]
    return "\\" + (letter.upper() if "_NOT_" in name else letter)


def _times(least: int, most: Any) -> str:
    return f"{{{least},}}" if most == re._constants.MAXREPEAT else f"{{{least},{most}}}"  # type: ignore[attr-defined]


def _flagged(argument: Any, inside: str) -> str:
    _, on, off, _ = argument
    flags = ("i" if on & re.IGNORECASE else "") + ("-i" if off & re.IGNORECASE else "")
    return f"(?{flags}:{inside})"
