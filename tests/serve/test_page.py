"""The page in a real browser: what people do with it, what it says when something fails, whom it never asks."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from pydantic import SecretStr

import delf_engine as de
from delf_engine.serve import Settings, access, create_app
from helpers import image_bytes, random_photo, write_image

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SECONDS = 30  # to wait for anything, on a machine that is busy
expect.set_options(timeout=SECONDS * 1000)
TOKEN = "0123456789abcdef-secret"
VIEWS = ("/", "/?id=0-0.png", "/compare", "/compare?a=0-0.png&b=0-1.png", "/library", "/verdicts", "/login")
PLACES, VIEWS_OF_EACH, SHIFT = 13, 2, 16
IMAGES = PLACES * VIEWS_OF_EACH
FAILED_LOAD = "Failed to load resource"  # of an answer that is a refusal: the browser always says so


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield browser
        browser.close()


def wall(place: int, view: int = 0) -> Any:
    """A photograph of a wall; the next view is shifted to the right."""
    pixels = random_photo(np.random.default_rng(place), 220, 120)
    return pixels[:, SHIFT * view : SHIFT * view + 160]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An engine of walls, each from two sides: ids are ``PLACE-VIEW.png``."""
    folder = tmp_path_factory.mktemp("page")
    for place in range(PLACES):
        for view in range(VIEWS_OF_EACH):
            write_image(folder / "walls" / f"{place}-{view}.png", wall(place, view))
    with de.Engine.create(folder / "e", model=tiny_model, root=folder / "walls") as engine:
        engine.add(folder / "walls")
    return folder / "e"


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[str]:
    """Serve an engine from a thread; yield the address."""
    app = create_app(Settings(directory=directory, threads=2, decoders=1, **options))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(library: Path) -> Iterator[str]:
    """The address of a server that takes small files only."""
    with running(library, max_bytes=200_000, folders={"more": library.parent / "walls"}) as at:
        httpx.post(f"{at}/v1/search", files={"file": image_bytes(wall(0))}, timeout=120).raise_for_status()
        yield at


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, server: str) -> Iterator[Opened]:
    """Open pages, in a browser of its own; in the end none may have had an error or asked another host."""
    problems: list[str] = []
    asked: set[str] = set()

    def note(text: str, kind: str = "error") -> None:
        if kind in ("error", "warning") and FAILED_LOAD not in text:
            problems.append(text)

    with ExitStack() as stack:

        def open_page(path: str, at: str = server, **options: Any) -> Page:
            context = browser.new_context(base_url=at, **options)
            stack.callback(context.close)
            context.set_default_timeout(SECONDS * 1000)
            page = context.new_page()
            page.on("console", lambda message: note(message.text, message.type))
            page.on("pageerror", lambda error: note(str(error)))
            page.on("request", lambda request: asked.add(request.url.split("/v1/")[0].split("/static/")[0]))
            page.goto(path)
            return page

        yield open_page
    assert problems == []
    assert all(re.match(r"(blob:)?http://127\.0\.0\.1:\d+", url) for url in asked), asked


def upload(name: str, content: bytes) -> Any:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def choose(page: Page, *files: Any, picker: str = "#pick") -> None:
    page.locator(f"{picker} input[type=file]").first.set_input_files(list(files))


def said(page: Page, *facts: str) -> None:
    """Expect a problem to be told."""
    for fact in facts:
        expect(page.locator("#problem")).to_contain_text(fact)


def fails(page: Page, path: str, status: int, code: str, **headers: str) -> None:
    """Let the next request of a path be refused, and later ones go through."""

    def refuse(route: Route) -> None:
        body = json.dumps({"code": code, "detail": "a detail"})
        route.fulfill(status=status, body=body, content_type="application/json", headers=headers)

    page.route(f"**{path}*", refuse, times=1)


def test_a_photograph_is_searched_for_and_the_address_says_so(opened: Opened, server: str) -> None:
    page = opened("/")
    expect(page.locator("#library-size")).to_contain_text(f"{IMAGES} photographs")
    choose(page, upload("mine.png", image_bytes(wall(3, 1))))
    first = page.locator("#hits .card").first
    expect(first).to_contain_text("3-1.png")
    expect(first).to_contain_text("Same place")
    assert re.search(r"[\d.]+ %.*\d inliers · [\d,]+ details", first.inner_text(), re.DOTALL)
    frame = first.locator(".frame")
    assert frame.evaluate("each => Number(each.getAttribute('width')) > 20")
    assert re.search(r"\?id=upload%3A[0-9a-f]{32}$", page.url)
    page.reload()
    expect(first).to_contain_text("3-1.png")
    answer = httpx.get(server + str(page.locator("#json").get_attribute("href"))).json()
    assert answer["hits"][0]["photo"]["ref"] == "3-1.png"

    expect(page.locator("#hits .card")).to_have_count(24)
    page.locator("#more").scroll_into_view_if_needed()
    expect(page.locator("#hits .card")).to_have_count(IMAGES)
    expect(page.locator("#more")).to_be_hidden()
    first.get_by_role("link", name="Search by it").click()
    expect(page.locator("#query-title")).to_have_text("3-1.png")
    expect(page.locator("#hits .card").first).to_contain_text("3-0.png")


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_a_photograph_is_pasted_or_dropped(opened: Opened, how: str) -> None:
    page = opened("/")
    data = base64.b64encode(image_bytes(wall(5))).decode()
    page.evaluate(
        """([how, data]) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0))
            const held = new DataTransfer(), Kind = how === "paste" ? ClipboardEvent : DragEvent
            held.items.add(new File([bytes], "x.png", {type: "image/png"}))
            document.body.dispatchEvent(new Kind(how, {clipboardData: held, dataTransfer: held, bubbles: true}))
        }""",
        [how, data],
    )
    expect(page.locator("#hits .card").first).to_contain_text("5-0.png")


def test_a_box_is_drawn_or_typed(opened: Opened) -> None:
    page = opened("/?id=2-1.png")
    expect(page.locator("#hits .card").first).to_contain_text("2-")
    place = page.locator("#canvas img").bounding_box()
    assert place is not None
    scale = place["width"] / 160
    page.mouse.move(place["x"] + 20 * scale, place["y"] + 100 * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + 100 * scale, place["y"] + 10 * scale, steps=4)
    page.mouse.up()
    fields = page.locator("#box input")
    drawn = [int(fields.nth(i).input_value()) for i in range(4)]
    np.testing.assert_allclose(drawn, [20, 10, 100, 100], atol=1)
    page.get_by_role("button", name="Search this part").click()
    page.wait_for_url(f"**box={'%2C'.join(map(str, drawn))}")
    expect(page.locator("#hits .card").first).to_contain_text("2-")

    for name, value in (("Left", 0), ("Top", 0), ("Right", 80), ("Bottom", 90)):
        page.get_by_label(name, exact=True).fill(str(value))
    assert page.locator("#canvas .frame").get_attribute("width") == "80"
    page.get_by_label("Bottom").press("Enter")
    page.wait_for_url("**box=0%2C0%2C80%2C90")
    page.get_by_role("button", name="Whole").click()
    page.wait_for_url(lambda url: "box" not in url)
    page.go_back()
    expect(page.get_by_label("Right")).to_have_value("80")


def test_two_photographs_are_compared(opened: Opened, server: str) -> None:
    page = opened("/compare")
    choose(page, upload("a.png", image_bytes(wall(4, 0))), picker="#pick-a")
    choose(page, upload("b.png", image_bytes(wall(4, 1))), picker="#pick-b")
    page.wait_for_url("**/compare?a=upload*b=upload*")
    expect(page.locator("#answer")).to_contain_text("The same place")
    pair = httpx.get(server + str(page.locator("#json").get_attribute("href"))).json()
    assert page.locator("#why").inner_text().lower().rstrip(".") == pair["judgement"]["why"].lower()
    expect(page.locator("#lines line")).to_have_count(len(pair["matches"]))
    expect(page.locator("#fine")).to_contain_text(f"{pair['judgement']['fine']['details']:,}")
    expect(page.locator("#coarse")).to_contain_text(f"{pair['judgement']['coarse']['inliers']:,} of")

    page.locator("#which").fill("2")  # as the keyboard moves it
    expect(page.locator("#which-said")).to_have_text(f"2 of {len(pair['matches'])}")
    x, y, _, _ = pair["matches"][1]
    expect(page.get_by_role("img", name=f"around {round(x)}, {round(y)}")).to_be_visible()
    drawn = "each => new Set(each.getContext('2d').getImageData(40, 40, 80, 80).data).size"
    assert all(page.locator(patch).evaluate(drawn) > 20 for patch in ("#patch-a", "#patch-b"))
    page.locator("#lines svg").hover(position={"x": 5, "y": 5})
    place = page.locator("#lines svg").bounding_box()
    assert place is not None
    x, y, _, _ = pair["matches"][0]
    page.mouse.move(place["x"] + x * place["height"] / 120, place["y"] + y * place["height"] / 120)
    expect(page.locator("#which-said")).not_to_have_text(f"2 of {len(pair['matches'])}")

    page.get_by_role("radio", name="coarse").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name=f"{len(pair['details']):,} fine")).to_be_checked()
    expect(page.locator("#lines line")).to_have_count(len(pair["details"]))
    expect(page.locator("#which-said")).to_have_text(f"1 of {len(pair['details'])}")
    x, y, _, _ = pair["details"][0]
    expect(page.get_by_role("img", name=f"around {round(x)}, {round(y)}")).to_be_visible()


def test_a_photograph_that_is_gone_is_chosen_again(opened: Opened) -> None:
    page = opened(f"/compare?a=upload:{'0' * 32}&b=4-1.png")
    said(page, "Choose it again")
    expect(page.locator("#pick-a img")).to_have_count(0)
    choose(page, upload("a.png", image_bytes(wall(4))), picker="#pick-a")
    page.wait_for_url("**/compare?a=upload*b=4-1.png")
    expect(page.locator("#answer")).to_contain_text("The same place")


def test_swipe_and_blend_follow_the_transform(opened: Opened) -> None:
    page = opened("/compare?a=4-0.png&b=4-1.png")
    layer, share = page.locator("#stage .a"), page.locator("#share")
    expect(layer).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    share.press("ArrowRight")
    expect(layer).to_have_css("clip-path", "inset(0px 49% 0px 0px)")
    page.get_by_label("Blend").check()
    expect(layer).to_have_css("clip-path", "none")
    expect(layer).to_have_css("opacity", "0.51")
    image = page.locator("#stage .a img")
    expect(image).not_to_have_css("transform", "none")  # until it has come
    left = "element => element.getBoundingClientRect().left"
    moved = image.evaluate(left) - page.locator("#stage").evaluate(left)
    scale = page.locator("#stage").evaluate("each => each.clientWidth") / 160
    assert moved / scale == pytest.approx(-SHIFT, abs=2)  # the second is shifted to the right


def test_a_verdict_is_kept_and_undone(opened: Opened, server: str) -> None:
    def kept() -> list[str]:
        return [each["verdict"] for each in httpx.get(f"{server}/v1/verdicts").json() if each["a"] == "7-0.png"]

    page = opened("/compare?a=7-0.png&b=8-0.png")
    same, alike = (page.get_by_role("button", name=name) for name in ("Same place", "Look-alike"))
    same.click()
    expect(page.locator("#said")).to_have_text("Kept.")
    alike.click()
    expect(alike).to_have_attribute("aria-pressed", "true")
    expect(same).to_have_attribute("aria-pressed", "false")
    assert kept() == ["look-alike"]
    page.reload()
    expect(alike).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Different").click()
    page.get_by_role("button", name="Undo").click()
    expect(alike).to_have_attribute("aria-pressed", "true")
    assert kept() == ["look-alike"]

    page.goto("/verdicts")
    expect(page.locator("#verdicts li")).to_contain_text(["Look-alikes"])
    assert "7-0.png,8-0.png,0,look-alike" in page.request.get("/v1/verdicts/pairs.csv").text()
    page.get_by_role("button", name="Forget").click()
    expect(page.locator("#none")).to_be_visible()
    assert kept() == []


def test_a_verdict_waits_for_those_that_are_kept(opened: Opened) -> None:
    page = opened("/")
    asked: list[Route] = []
    page.route("**/v1/verdicts", lambda route: asked.append(route))
    page.goto("/compare?a=7-0.png&b=8-0.png")
    same = page.get_by_role("button", name="Same place")
    expect(same).to_be_disabled()
    page.wait_for_function("() => !document.getElementById('pair').hidden")
    expect(same).to_be_disabled()
    while not asked:
        page.wait_for_timeout(10)
    asked[0].continue_()
    expect(same).to_be_enabled()


def test_a_calibration_is_shown_before_it_is_taken_over(opened: Opened) -> None:
    page = opened("/verdicts")
    page.get_by_role("button", name="Recalibrate").click()
    expect(page.locator("#job-said")).to_contain_text("too few")
    bins = [{"stated": 0.1, "share": 0.2, "pairs": 9}, {"stated": 0.9, "share": 0.8, "pairs": 16}]
    curve = {"pairs": 25, "error": 0.1, "auc": 0.9, "bins": bins}
    proposed = {"at": 0, "pairs": 25, "old": {**curve, "error": 0.2}, "new": curve}
    answers = {
        "GET": {"own": False, "trained_on": "walls", "proposed": proposed},
        "PUT": {"own": True, "trained_on": "25 verdicts", "proposed": None},
        "DELETE": {"own": False, "trained_on": "walls", "proposed": None},
    }
    page.route("**/v1/calibration", lambda route: route.fulfill(json=answers[route.request.method]))
    page.route("**/v1/calibration/proposal", lambda route: route.fulfill(json=answers[route.request.method]))
    page.reload()
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("#proposed")).to_be_hidden()
    page.reload()
    expect(page.locator("#curves svg")).to_have_count(2)
    expect(page.locator("#curves")).to_contain_text("20.0 %")
    assert page.locator("#curves polyline").nth(1).get_attribute("points") == "60,170 220,50"
    page.get_by_role("button", name="Take over").click()
    expect(page.locator("#in-use")).to_contain_text("25 verdicts")
    expect(page.locator("#proposed")).to_be_hidden()
    page.get_by_role("button", name="model's own").click()
    expect(page.locator("#in-use")).to_contain_text("walls")


def test_files_are_added_a_broken_one_is_named_and_others_are_removed(opened: Opened) -> None:
    page = opened("/library")
    expect(page.locator("#images .card")).to_have_count(IMAGES)
    good = image_bytes(wall(50))
    choose(page, upload("one.png", good), upload("broken.png", good[:300]), upload("two.png", good))
    expect(page.locator("#job-said")).to_contain_text("2 added, 1 failed")
    expect(page.locator("#job-report td")).to_have_text(["broken.png", re.compile("damaged")])
    expect(page.locator("#images-title")).to_have_text(f"{IMAGES + 2} photographs")
    page.reload()  # the address holds the job
    expect(page.locator("#job-report td").first).to_have_text("broken.png")

    for name in ("one.png", "two.png"):
        page.get_by_title(name, exact=True).click()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#sure-said")).to_contain_text("one.png, two.png")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#images-title")).to_have_text(f"{IMAGES + 2} photographs")
    page.locator("#remove").click()
    page.locator("#sure").get_by_role("button", name="Remove").click()
    expect(page.locator("#images-title")).to_have_text(f"{IMAGES} photographs")
    expect(page.locator("#status")).to_contain_text("2 photographs removed")

    for name in ("1-0.png", "1-1.png"):
        page.get_by_title(name, exact=True).click()
    page.get_by_role("button", name="Compare two").click()
    page.wait_for_url("**/compare?a=1-0.png&b=1-1.png")


def test_a_folder_is_added_a_job_cancelled_and_copies_are_listed(opened: Opened) -> None:
    page = opened("/library")
    job: dict[str, Any] = {"id": "0" * 16, "kind": "add", "state": "running", "done": 3, "total": 9, "created": 0}
    job |= {"added": [], "skipped": [], "failed": [], "copies": [], "error": None}

    def events(route: Route) -> None:
        name = "progress" if job["state"] == "running" else "end"
        body = f"retry: 50\nevent: {name}\ndata: {json.dumps(job)}\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    def told(route: Route) -> None:
        if route.request.method == "DELETE":
            job["state"] = "cancelled"
        route.fulfill(json=job)

    for asked in ("folders", "duplicates"):
        page.route(f"**/v1/{asked}", lambda route: route.fulfill(status=202, json=job))
    page.route("**/v1/jobs/*", told)
    page.route("**/v1/jobs/*/events", events)
    page.get_by_role("button", name="Add the folder more").click()
    expect(page.locator("#job-said")).to_have_text("3 of 9")
    assert page.locator("#progress").evaluate("each => each.position") == pytest.approx(1 / 3)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-said")).to_contain_text("Cancelled")
    copies = [{"a": "1-0.png", "b": "1-1.png", "kind": "crop", "score": 1}]
    job |= {"kind": "duplicates", "state": "done", "copies": copies}
    page.get_by_role("button", name="Find near-copies").click()
    expect(page.locator("#job-said")).to_have_text("Done: 1 pair.")
    expect(page.locator("#job-report li")).to_contain_text(["1-0.png and 1-1.png"])


def test_a_token_is_sent_once_and_a_cookie_follows(
    opened: Opened, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(library, tmp_path / "e")
    with running(tmp_path / "e", token=SecretStr(TOKEN)) as at:
        page = opened("/library?offset=0", at)
        page.wait_for_url("**/login?next=*")
        page.get_by_label("Token").fill("wrong")
        page.get_by_label("Token").press("Enter")
        said(page, "not the token")
        for _ in range(9):
            page.request.post("/login", form={"token": "wrong"})
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        said(page, "wrong tokens", "Try again in")
        monkeypatch.setattr(access, "_ATTEMPT_SECONDS", 0)
        page.get_by_role("button", name="Try again").click()  # with what was typed
        page.wait_for_url("**/library?offset=0")
        expect(page.locator("#images .card")).to_have_count(IMAGES)  # a request under way would ask for the token
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        page.goto("/library?offset=0")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/library?offset=0")
        expect(page.locator("#images .card")).to_have_count(IMAGES)
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
        assert TOKEN not in cookie["value"]
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        assert page.context.cookies() == []
        page.goto("/login?next=//evil.example/x")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        page.wait_for_url(f"{at}/")


def test_refusals_are_told_in_words_and_can_be_tried_again(opened: Opened) -> None:
    page = opened("/compare")
    fails(page, "/v1/search", 429, "busy", **{"Retry-After": "1"})
    page.goto("/?id=1-0.png")
    said(page, "busy", "Try again in 1 second")
    fails(page, "/v1/search", 503, "too_slow")
    page.get_by_role("button", name="Try again").click()
    said(page, "took too long")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#hits .card").first).to_contain_text("1-")
    expect(page.locator("#problem")).to_be_empty()

    page.get_by_text("Another photograph").click()
    choose(page, upload("big.png", bytes(300_000)), picker="#again")
    said(page, "too large", "0.29 MB")
    choose(page, upload("cut.png", image_bytes(wall(1))[:500]), picker="#again")
    said(page, "damaged")
    page.goto(f"/?id=upload:{'0' * 32}")
    said(page, "expired")
    expect(page.locator("#pick")).to_be_visible()
    page.context.set_offline(True)
    choose(page, upload("a.png", image_bytes(wall(1))))
    said(page, "cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#hits .card").first).to_contain_text("1-0.png")


def test_a_server_that_is_read_only_shows_nothing_that_changes(opened: Opened, library: Path) -> None:
    with running(library, readonly=True) as at:
        page = opened("/library", at)
        expect(page.locator("#images .card")).to_have_count(IMAGES)
        for name in ("Remove", "Find near-copies", "Choose files"):
            expect(page.get_by_text(name)).to_have_count(0)
        page.goto("/compare?a=1-0.png&b=1-1.png")
        expect(page.locator("#answer")).to_contain_text("place")
        expect(page.locator("#say")).to_have_count(0)
        expect(page.get_by_role("link", name="Verdicts")).to_have_count(0)


def test_every_view_fits_a_phone_has_names_and_is_dark_at_night(opened: Opened) -> None:
    page = opened("/", viewport={"width": 360, "height": 740}, color_scheme="dark")
    for path in VIEWS:
        page.goto(path)
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, path
        expect(page.locator("body")).to_have_css("background-color", "rgb(13, 17, 23)")
        assert page.locator("h1").count() == page.locator("main").count() == 1
        nameless = page.evaluate("""[...document.querySelectorAll("button, a, input, canvas, svg[role], progress")]
            .filter((each) => each.checkVisibility() && !each.textContent.trim() && !each.ariaLabel)
            .filter((each) => !each.labels?.length && !each.getAttribute("aria-labelledby"))
            .map((each) => each.outerHTML)""")
        nameless += page.evaluate("[...document.querySelectorAll('img:not([alt])')].map((each) => each.outerHTML)")
        assert nameless == [], path
    page.goto("/compare")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
