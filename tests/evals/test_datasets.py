"""A dataset is named by its content, and every fault in it by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.datasets import load_dataset
from evals.errors import DatasetError


def case(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": "hi"}], "expect": {"max_words": 5}} | changes


def write(path: Path, *cases: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in cases), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n  \n", "empty"),
        ("{nope\n", ":1: not a JSON object"),
        ("[" * 100_000, ":1: not a JSON object"),
        (json.dumps({"id": "a", "expect": {"max_words": 5}}), ":1: messages: field required"),
        (json.dumps(case("a", expect={})), "expect: says nothing"),
        (json.dumps(case("a", expect={"colour": 1})), "expect.colour"),
        (json.dumps(case("a")) + "\n" + json.dumps(case("a")), ":2: id 'a' was already used on line 1"),
        (json.dumps(case("a", messages=[])), "messages"),
        ("3", ":1: the document"),
    ],
)
def test_a_fault_is_named_with_its_line_and_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"cases\.jsonl") as caught:
        load_dataset(path)
    assert message in str(caught.value)


def test_a_fault_does_not_repeat_what_the_case_says(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", case("a", messages=[{"role": "robot", "content": "my card is 4111"}]))
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert "4111" not in str(caught.value)


def test_the_digest_ignores_order_and_spacing_but_no_word(tmp_path: Path) -> None:
    one = load_dataset(write(tmp_path / "1.jsonl", case("a"), case("b")))
    (tmp_path / "2.jsonl").write_text(json.dumps(case("b"), indent=None) + "\n\n" + json.dumps(case("a")) + "\n")
    other = load_dataset(tmp_path / "2.jsonl")
    changed = load_dataset(write(tmp_path / "3.jsonl", case("a"), case("b", expect={"max_words": 6})))
    assert one.digest == other.digest != changed.digest


def test_shards_part_the_samples_and_never_a_conversation(tmp_path: Path) -> None:
    cases = [case(f"c{n}", conversation=f"talk{n % 5}") for n in range(17)]
    whole = load_dataset(write(tmp_path / "c.jsonl", *cases))
    shards = [whole.shard(index, 3) for index in range(3)]
    assert sorted(s.id for shard in shards for s in shard.samples) == sorted(s.id for s in whole.samples)
    talks = [{s.conversation for s in shard.samples} for shard in shards]
    assert not any(talks[a] & talks[b] for a, b in ((0, 1), (1, 2), (0, 2)))
    with pytest.raises(DatasetError, match="counted 1 to 3"):
        whole.shard(3, 3)
