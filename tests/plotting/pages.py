"""Reading a page as a browser does, to say what is in it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

_ALONE = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """A page taken apart; wrong nesting is an error.

    Attributes
    ----------
    tags : list of (tag, attributes)
    words : str
        All text but the style's.
    images : list of PIL images
        Decoded from the data URIs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_bytes().decode("utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == [], f"never closed: {self._open}"
        self.images = [self._image(attributes["src"]) for tag, attributes in self.tags if tag == "img"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _ALONE:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.words += data

    @staticmethod
    def _image(source: str) -> Image.Image:
        head, data = source.split(",", 1)
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
        return image

    def check_self_contained(self) -> None:
        """Fail if anything in the page could ask for something outside it."""
        assert {tag for tag, _ in self.tags} <= {
            *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "p", "a", "b", "br"),
            *("ul", "li", "div", "span", "img", "figure", "figcaption", "table", "tr", "th", "td"),
            *("details", "summary", "ol", "wbr", "svg", "rect", "line", "text"),
        }
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                assert not name.startswith("on"), f"{tag} has a script in {name}"
                assert name in {"charset", "content", "http-equiv", "name", "lang", "id", "class", "src", "alt",
                                "width", "height", "title", "href", "scope", "role", "aria-label", "aria-hidden",
                                "x", "y", "x1", "x2", "y1", "y2", "text-anchor", "dominant-baseline"}  # fmt: skip
                if name == "href":
                    assert re.fullmatch(r"#q\d+", value)
        assert "url(" not in self.style
        assert "@import" not in self.style
        policy = next(a["content"] for tag, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; img-src data:;")
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(set(ids)) == len(ids)
        assert {a["href"][1:] for _, a in self.tags if "href" in a} <= set(ids)
