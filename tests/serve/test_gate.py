"""Who may ask, from where; what every answer wears; what is logged and counted."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from delf_engine.config import parse_config
from delf_engine.errors import ConfigError
from delf_engine.serve import Settings, access, read_token
from delf_engine.serve.access import COOKIE, Access
from delf_engine.serve.gate import HEADERS
from delf_engine.serve.logs import JsonLines
from delf_engine.serve.photographs import Photographs
from delf_engine.serve.settings import is_loopback
from helpers import raises
from serving import Client

TOKEN = "0123456789abcdef-secret"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "127.0.0.1.evil.org", "localhost.evil.org", ""])
def test_any_other_address_needs_a_token(host: str) -> None:
    assert not is_loopback(host)
    with raises(ConfigError, "DELF_ENGINE_TOKEN"):
        parse_config(Settings, {"directory": Path("e"), "host": host}, where="serve")


def test_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("DELF_ENGINE_TOKEN", raising=False)
    assert read_token(None) is None
    token = read_token(tmp_path / "token")
    assert token is not None
    assert token.get_secret_value() == TOKEN
    assert TOKEN not in repr(Settings(directory=tmp_path, token=token))
    monkeypatch.setenv("DELF_ENGINE_TOKEN", "short")
    with raises(ConfigError, "16"):
        parse_config(Settings, {"directory": tmp_path, "token": read_token(None)}, where="serve")
    with raises(ConfigError, "no"):
        read_token(tmp_path / "no")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer é"],
)
def test_without_the_token_nothing_is_answered(client: Client, tmp_path: Path, header: str | None) -> None:
    (tmp_path / "token").write_text(TOKEN)
    served = client(token=read_token(tmp_path / "token"), host="0.0.0.0")
    headers: Any = {} if header is None else {"Authorization": header.encode("latin-1")}
    for route in ("/v1/info", "/metrics", "/v1/openapi.json", "/v1/nothing"):
        assert served.get(route, headers=headers).json()["code"] == "no_token"
    assert served.get("/healthz", headers=headers).status_code == 200
    assert served.get("/readyz", headers=headers).status_code == 200
    good = {"Authorization": f"Bearer {TOKEN}", "Host": "photos.example.org"}
    assert served.get("/v1/info", headers=good).status_code == 200


def test_a_cookie_stands_for_the_token_without_holding_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    served = client(token=read_token(tmp_path / "token"), cors=("https://page.org",))
    assert served.post("/login", data={"token": f"{TOKEN}x"}).json()["code"] == "wrong_token"
    answer = served.post("/login", data={"token": TOKEN}, headers={"Origin": "https://localhost"})
    assert (answer.status_code, TOKEN in answer.headers["set-cookie"]) == (204, False)
    assert {"HttpOnly", "SameSite=strict", "Secure"} <= set(answer.headers["set-cookie"].split("; "))
    value = re.search(rf"{COOKIE}=([^;]+)", answer.headers["set-cookie"])
    assert value is not None

    def status(cookie: str, **headers: str) -> int:
        return served.get("/v1/info", headers={"Cookie": f"{COOKIE}={cookie}", **headers}).status_code

    assert served.post("/login", data={"token": "x" * 2_000_000}).status_code == 413  # nobody knows who sends it
    served.cookies.clear()
    until, _, mac = value[1].partition(".")
    assert status(value[1]) == 200
    assert status(Access(TOKEN).cookie()) == 200  # of another server with this token
    forged = (f"{int(until) + 1}.{mac}", f"x.{mac}", f"{value[1]}0", Access(f"{TOKEN}x").cookie())
    for wrong in ("", TOKEN, until, *forged):
        assert status(wrong) == 401
    assert status(value[1], Origin="https://page.org") == 401  # programs of other origins send the token
    monkeypatch.setattr(access.time, "time", lambda: int(until) + 1.0)
    assert status(value[1]) == 401


def test_wrong_tokens_are_not_tried_without_end(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    served = client(token=read_token(tmp_path / "token"))
    now = 100.0
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))

    def tried(token: str) -> tuple[int, str | None]:
        answer = served.post("/login", data={"token": token})
        return answer.status_code, answer.headers.get("retry-after")

    for _ in range(10):
        assert tried(f"{TOKEN}x") == (401, None)
        now += 1.0
    assert tried(f"{TOKEN}x") == tried(TOKEN) == (429, "50")
    assert served.get("/v1/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    now += 50.0  # one more may be tried, no more than ten within a minute
    assert [tried(f"{TOKEN}x"), tried(TOKEN)] == [(401, None), (429, "1")]
    now += 1.0
    assert tried(TOKEN) == (204, None)


def test_a_request_that_names_no_host(client: Client) -> None:
    served, unnamed = client(), {"Host": ""}
    assert [served.get(route, headers=unnamed).status_code for route in ("/healthz", "/readyz")] == [200, 200]
    answer = served.get("/v1/info", headers=unnamed)
    assert (answer.status_code, answer.json()["code"]) == (400, "no_host")


def test_pages_tell_nothing_and_static_files_lie_in_one_folder(client: Client, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    served = client(token=read_token(tmp_path / "token"))
    for view in ("", "compare", "library", "verdicts", "login"):
        answer = served.get(f"/{view}")
        assert (answer.status_code, answer.text.count("needs JavaScript")) == (200, 1)
        assert not re.search(r"[0-9]\.png|<script>|<style| style=| on[a-z]+=", answer.text)
    answer = served.get("/static/page.css")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
    assert served.get("/static/page.css", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    for path in ("../gate.py", "%2e%2e/gate.py", "..%2fgate.py", "/etc/passwd", ""):
        assert served.get(f"/static/{path}").status_code in (401, 404)


def test_pages_of_others_may_not_ask(client: Client) -> None:
    served = client()
    for headers in (
        {"Host": "evil.org"},  # its name leads here: DNS rebinding
        {"Host": "127.0.0.1.evil.org"},
        {"Origin": "http://evil.org"},  # a form may be sent from anywhere
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = served.post("/v1/search", data={"id": "0.png"}, headers=headers)
        assert (answer.status_code, answer.json()["code"][:7]) == (403, "foreign")
        assert "access-control-allow-origin" not in answer.headers
    own = served.get("/v1/info", headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


def test_an_origin_that_is_named_may(client: Client, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    served = client(cors=("https://page.org",), token=read_token(tmp_path / "token"))
    ask = {"Origin": "https://page.org", "Access-Control-Request-Method": "GET"}
    assert served.options("/v1/info", headers=ask).headers["access-control-allow-origin"] == "https://page.org"
    assert served.options("/v1/info", headers={**ask, "Origin": "https://evil.org"}).status_code == 403
    told = served.get("/v1/info", headers={"Origin": "https://page.org", "Authorization": f"Bearer {TOKEN}"})
    assert told.headers["access-control-allow-origin"] == "https://page.org"
    assert served.get("/v1/info", headers={"Origin": "https://page.org"}).status_code == 401


def test_every_answer_wears_the_headers_and_a_request_id(client: Client) -> None:
    served = client()
    for route, given in (("/v1/info", "my-id.1"), ("/v1/nothing", "a b\n"), ("/healthz", "x" * 65)):
        answer = served.get(route, headers={"X-Request-ID": given})
        assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items() or all(
            answer.headers[name] == value for name, value in HEADERS.items()
        )
        assert (answer.headers["x-request-id"] == given) == (given == "my-id.1")
        assert answer.headers["cache-control"] == "no-store"
        assert served.head(route).status_code == answer.status_code
    assert "unsafe-inline" not in HEADERS["Content-Security-Policy"]


def test_what_breaks_is_logged_and_not_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of /home/ada")

    monkeypatch.setattr(Photographs, "open", broken)
    with caplog.at_level(logging.INFO, "delf_engine.serve"):
        answer = client().post("/v1/search", data={"id": "0.png"}, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (500, "failed", "mine")
    assert "secret" not in answer.text
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    line = next(each for each in lines if each.get("request_id") == "mine")
    assert "secret of /home/ada" in line["exception"]
    assert (line["route"], line["status"], line["method"], line["level"]) == ("/v1/search", 500, "POST", "warning")


def test_values_are_not_echoed_and_queries_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "delf_engine.serve"):
        answer = client().get("/v1/photograph", params={"id": "my secret.png", "side": "my secret"})
    assert answer.json()["errors"][0]["loc"] == ["query", "side"]
    assert "secret" not in answer.text
    assert "secret" not in "".join(JsonLines().format(record) for record in caplog.records)


def test_figures(client: Client) -> None:
    served = client()
    served.post("/v1/search", data={"id": "0.png", "confirm": 0})
    served.get("/v1/photograph", params={"id": "0.png"})
    served.get("/v1/some/where")
    text = served.get("/metrics").text
    assert 'delf_engine_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in text
    assert 'route="none",status="404"' in text  # what strangers ask for makes no new figures
    for stage in ("wait", "extract", "candidates", "answer", "picture"):
        assert f'delf_engine_stage_seconds_count{{stage="{stage}"}}' in text
    assert "delf_engine_images 6.0" in text


def test_a_server_that_goes_down_says_so(client: Client) -> None:
    served: Any = client()
    served.app.state.service.stopping = True
    assert served.get("/readyz").status_code == 503
    assert served.get("/healthz").status_code == 200
    answer = served.get("/v1/info")
    assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
    assert "retry-after" in answer.headers
