"""`callgate rag` against an embeddings service on loopback that speaks OpenAI's wire with the real MiniLM behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rag.cli import app
from serving.embedding.minilm import MiniLM

ARTICLES = str(Path(__file__).parents[2] / "rag" / "knowledge")
KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = MiniLM()

    class Embeddings(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            allowed = self.headers["authorization"] == f"Bearer {KEY}" and self.path == "/v1/embeddings"
            rows = [{"index": n, "embedding": v.tolist()} for n, v in enumerate(model.embed(body["input"]))]
            answer = json.dumps({"object": "list", "data": rows} if allowed else {"error": {}}).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Embeddings) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLGATE_API_KEY", KEY)


@pytest.mark.usefixtures("keyed")
def test_ask_prints_passages_for_people_and_for_machines(url: str) -> None:
    asked = ["ask", "somebody stole my card", "--articles", ARTICLES, "--url", url, "--limit", "2"]
    people, machines = CliRunner().invoke(app, asked), CliRunner().invoke(app, [*asked, "--json"])
    assert (people.exit_code, machines.exit_code) == (0, 0)
    found = json.loads(machines.stdout)
    assert found[0]["id"].split("#")[0] == "lost-or-stolen-card"
    assert len(found) == 2
    assert found[0]["score"] >= found[1]["score"]
    assert people.stdout.startswith("[1] Lost or stolen cards")


@pytest.mark.usefixtures("keyed")
def test_index_embeds_once_and_not_again(url: str, tmp_path: Path) -> None:
    command = ["index", str(tmp_path / "store"), "--articles", ARTICLES, "--url", url, "--json"]
    first, second = (json.loads(CliRunner().invoke(app, command).stdout) for _ in range(2))
    assert first["embedded"] == first["passages"] == second["passages"] > 20
    assert second["embedded"] == 0


@pytest.mark.parametrize("command", [["ask", "a question"], ["index", "store"]])
def test_what_is_missing_is_a_sentence_and_exit_code_3(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLGATE_API_KEY", "wrong-secret")
    for options, said in (
        (["--articles", ARTICLES, "--url", url], "401"),
        (["--articles", ARTICLES, "--url", "ftp://x"], "--url"),
        (["--articles", str(tmp_path), "--url", url], "no articles"),
    ):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 3, (options, result.output, result.exception)
        assert said in result.stderr
        assert "wrong-secret" not in result.output
