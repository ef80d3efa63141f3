"""`callgate rag`: ask a knowledge base which passages answer a question. Vectors come from a running gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True, help="Ask a knowledge base. Example: callgate rag ask 'How do I block my card?'"
)


@app.callback()
def main() -> None:
    """Ask a knowledge base. Example: callgate rag ask 'How do I block my card?'"""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What a caller would ask.")],
    articles: Annotated[Path, typer.Option(help="Folder of Markdown articles.")] = Path("rag/knowledge"),
    url: Annotated[str, typer.Option(help="The gateway, for embeddings.")] = "http://127.0.0.1:8080/v1",
    limit: Annotated[int, typer.Option(min=1, max=20, help="How many passages.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print the passages that answer a question, best first. The key is read from CALLGATE_API_KEY."""
    from rag.retrieve import Knowledge

    async def run() -> list[Any]:
        knowledge = Knowledge(_gateway_embeddings(url, os.environ.get("CALLGATE_API_KEY", "")))
        try:
            await knowledge.start(articles)
            return await knowledge.retrieve(question, limit)
        finally:
            await knowledge.aclose()

    try:
        passages = asyncio.run(run())
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(3) from None
    if as_json:
        print(json.dumps([{"id": p.id, "title": p.title, "score": p.score, "text": p.text} for p in passages]))
        return
    for number, passage in enumerate(passages, 1):
        print(
            f"[{number}] {passage.title} ({passage.id}, {passage.score:.4f})\n    {' '.join(passage.text.split())[:300]}"
        )


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Where the index is kept. A gateway that uses it must be stopped.")],
    articles: Annotated[Path, typer.Option(help="Folder of Markdown articles.")] = Path("rag/knowledge"),
    url: Annotated[str, typer.Option(help="The gateway, for embeddings.")] = "http://127.0.0.1:8080/v1",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Index articles ahead of time; nothing is embedded if they did not change. Example: callgate rag index .callgate/handbook"""
    from rag.retrieve import Knowledge

    embedded = 0

    async def run() -> int:
        embed = _gateway_embeddings(url, os.environ.get("CALLGATE_API_KEY", ""))

        async def counted(texts: Sequence[str]) -> Any:
            nonlocal embedded
            embedded += len(texts)
            return await embed(texts)

        knowledge = Knowledge(counted, folder)
        try:
            await knowledge.start(articles)
            return len(knowledge)
        finally:
            await knowledge.aclose()

    try:
        passages = asyncio.run(run())
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(3) from None
    if as_json:
        print(json.dumps({"passages": passages, "embedded": embedded, "folder": str(folder)}))
        return
    print(f"{passages} passages are indexed in {folder}; {embedded} of them were embedded now")


def _gateway_embeddings(url: str, key: str) -> Any:
    import urllib.error
    import urllib.request

    import numpy as np

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"--url must be an address of a gateway such as http://127.0.0.1:8080/v1, not '{url}'")

    def fetch(texts: Sequence[str]) -> Any:
        body = json.dumps({"model": "all-minilm-l6-v2", "input": list(texts)}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{url}/embeddings", body, headers)  # noqa: S310 (http or https, checked above)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                data = json.load(response)["data"]
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection open
            raise OSError(
                f"the gateway at {url} gave no embeddings ({error}); start it, and set CALLGATE_API_KEY"
            ) from None
        return np.array([row["embedding"] for row in data], dtype=np.float32)

    async def embed(texts: Sequence[str]) -> Any:
        return await asyncio.to_thread(fetch, texts)

    return embed
