"""The server as a process: it starts without torch, has a valid description, and ends as it should."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
import yaml
from fastapi.openapi.models import OpenAPI
from pydantic import SecretStr
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli import app
from delf_engine.engine.state import EngineState
from delf_engine.errors import CheckpointError, ConfigError, FormatError
from delf_engine.serve import Settings, create_app, protocol
from delf_engine.serve.service import Service
from forkserver import Child
from helpers import image_bytes, raises, random_photo
from serving import Client, ready, started

SLOW = b"""POST /v1/search HTTP/1.1\r
Host: localhost\r
Content-Type: multipart/form-data; boundary=x\r
Content-Length: 1000\r
\r
--x"""
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "serve.md"


def described(client: Client) -> dict[str, Any]:
    token = "0123456789abcdef"
    answer: dict[str, Any] = client(token=SecretStr(token), bearer=token).get("/v1/openapi.json").json()
    return answer


def test_the_description_is_valid_and_names_every_refusal(client: Client) -> None:
    text = described(client)
    OpenAPI.model_validate(text)
    for path, routes in text["paths"].items():
        for method, route in routes.items():
            assert {"401", "413", "422", "429", "503"} <= set(route["responses"]), (method, path)
            assert route.get("summary"), (method, path)
            if path.startswith("/v1/"):
                assert route["security"] == [{"HTTPBearer": []}]
    operations = [route["operationId"] for routes in text["paths"].values() for route in routes.values()]
    assert len(operations) == len(set(operations))


def test_the_guide_shows_every_route_and_none_that_is_not_there(client: Client) -> None:
    there = {path: set(routes) for path, routes in described(client)["paths"].items()}
    guide = GUIDE.read_text("utf-8")
    curls = re.findall(r"curl (.*?)(?<!\\)\n", guide, re.DOTALL)
    shown: dict[str, set[str]] = {}
    for command in curls:
        found = re.search(r"\$AT(/[a-zA-Z0-9_/.]*)", command)
        assert found, command
        path = re.sub(r"^/v1/jobs/[0-9a-f]{16}", "/v1/jobs/{job_id}", found[1])
        method = re.search(r"-X ([A-Z]+)", command)
        posts = " -F " in command or " --json " in command
        shown.setdefault(path, set()).add(method[1].lower() if method else "post" if posts else "get")
    assert shown == there


def test_the_container_of_the_guide_serves_to_others_with_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, seen = GUIDE.read_text("utf-8"), []
    compose = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)[1])  # type: ignore[index]
    services = compose["services"]
    assert "ports" not in services["delf-engine"]  # it is reached through the proxy only
    assert services["delf-engine"]["environment"] == ["DELF_ENGINE_TOKEN"]
    used = {volume.partition(":")[0] for each in services.values() for volume in each["volumes"]}
    assert used == set(compose["volumes"])
    monkeypatch.setenv("DELF_ENGINE_TOKEN", "0123456789abcdef")
    monkeypatch.setattr("delf_engine.serve.run", lambda settings, _: seen.append(settings))
    shown = re.findall(r"docker run [^\n]*\\\n +delf-engine (serve .*)", guide)
    for command in [*shown, services["delf-engine"]["command"]]:
        CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert [(each.host, each.port, str(each.directory)) for each in seen] == 2 * [
        ("0.0.0.0", 8000, "/data/engine")
    ]


def test_without_a_photograph_there_is_no_torch(directory: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from delf_engine.serve import Settings, create_app
served = TestClient(create_app(Settings(directory=Path({str(directory)!r}))), "http://localhost")
assert served.get("/readyz").json() == {{"ready": False}}
assert served.get("/v1/images").json()["total"] == 6
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_server_is_ready_once_it_has_warmed_up(
    client: Client, warm: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    warm()
    go, load = threading.Event(), Service.load

    def slow(self: Service, state: EngineState) -> None:
        assert go.wait(30)
        load(self, state)

    monkeypatch.setattr(Service, "load", slow)
    served = client()
    first = served.get("/readyz")
    assert (first.status_code, first.json()) == (503, {"ready": False})
    assert served.get("/healthz").status_code == served.get("/v1/info").status_code == 200
    go.set()
    until = time.monotonic() + 60
    while served.get("/readyz").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_server_without_its_model_is_not_ready_and_its_log_says_why(
    client: Client, warm: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warm()

    def gone(*_: object) -> None:
        raise CheckpointError("m.safetensors: no such file")

    monkeypatch.setattr(Service, "load", gone)
    served: Any = client()
    served.app.state.service.close()
    assert "m.safetensors" in caplog.text
    assert served.get("/readyz").status_code == 503


@pytest.fixture
def server(directory: Path) -> Iterator[tuple[Child, str]]:
    """A running server and its address."""
    with started(directory, "--seconds", 3) as (process, at):
        ready(process, at)
        yield process, at


def test_a_server_that_is_told_to_end_ends_well(server: tuple[Child, str], directory: Path) -> None:
    process, at = server
    host, port = at.removeprefix("http://").split(":")
    photos = [image_bytes(random_photo(np.random.default_rng(i), 200, 150)) for i in range(20)]
    with socket.create_connection((host, int(port))) as slow, httpx.Client(base_url=at, timeout=30) as asks:
        slow.sendall(SLOW)
        slow.settimeout(20)
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]  # it does not wait for ever
        with socket.create_connection((host, int(port))) as old:
            old.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b" 200 " in old.recv(4096).split(b"\r\n")[0]
        huge = asks.get("/v1/info", headers={"X-Huge": "x" * 40_000})
        assert huge.status_code == 431
        assert asks.get("/v1/info").status_code == 200
        job = asks.post("/v1/images", files=[("files", ("a.png", photo)) for photo in photos]).json()
        with asks.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
            lines = events.iter_lines()
            assert any('"done":1' in line for line in lines)
            os.kill(process.pid, signal.SIGTERM)
            assert not any("Traceback" in line for line in lines)  # it ends by itself
    log = process.stdout.read()
    assert process.wait() in (0, -signal.SIGTERM)
    logged = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {200, 202, 408, 431} <= {line.get("status") for line in logged}
    assert "Traceback" not in log
    with de.Engine.open(directory) as engine:
        assert engine.check().whole
        kept = list((directory / "serve" / "photographs").iterdir())
        assert 6 + len(kept) == len(engine) < 26


def test_a_connection_on_which_no_request_begins_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_SECONDS", 0.3)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1)  # longer: a request that is answered is left alone
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def check() -> None:
        config = uvicorn.Config(answer, port=0, http=protocol.Protocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        for begun, answered in ((b"", False), (b"GET / HTTP/1.1\r\nHost: x\r\n", False), (WHOLE, True)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 204") == answered
            writer.close()
        server.should_exit = True
        await running

    asyncio.run(check())


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--folder", "x"], "NAME=PATH"),
        (["--folder", "x=nowhere"], "nowhere"),
        (["--cors", "https://example.org/"], "'https://example.org/'"),
        (["--token-file", "missing"], "missing"),
        (["--seconds", "0"], "seconds"),
    ],
)
def test_wrong_options_are_said(directory: Path, options: list[str], fact: str) -> None:
    result = CliRunner().invoke(app, ["serve", str(directory), *options], env={"DELF_ENGINE_TOKEN": ""})
    assert isinstance(result.exception, ConfigError)
    assert fact in str(result.exception)
    (directory / "serve").write_text("")  # which is to be a folder
    with raises(FormatError, str(directory)):
        create_app(Settings(directory=directory))
