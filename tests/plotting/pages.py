"""Reading a page as a browser does, to say what is in it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

_ALONE = {"meta", "img", "br"}
_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "p", "a", "b", "br", "meter"),
    *("ul", "ol", "li", "div", "span", "img", "figure", "figcaption", "table", "tr", "th", "td", "details"),
    *("summary", "svg", "path"),
}
_ATTRIBUTES = {
    *("charset", "content", "http-equiv", "name", "lang", "id", "class", "src", "alt", "width", "height", "title"),
    *("href", "scope", "max", "value", "viewbox", "preserveaspectratio", "d"),
}
_POLICY = (
    r"default-src 'none'; img-src data:; style-src 'sha256-([A-Za-z0-9+/=]+)'; base-uri 'none'; form-action 'none'"
)


@dataclass
class Element:
    """One element: its attributes, and all text in it, white space as one blank."""

    tag: str
    attributes: dict[str, str]
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()


class Page(HTMLParser):
    """A page taken apart; wrong nesting is an error, and so is anything that could ask for things outside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []  # in the order in which they begin
        self._open: list[Element] = []
        self.feed(path.read_bytes().decode("utf-8"))
        self.close()
        assert self._open == [], f"never closed: {self._open}"
        self.images: list[Image.Image] = []  # photographs, decoded
        self.charts: list[bytes] = []  # SVG files
        for image in self.find("img"):
            kind, _, data = image.attributes["src"].partition(";base64,")
            content = base64.b64decode(data, validate=True)
            if kind == "data:image/svg+xml":
                ElementTree.fromstring(content)
                self.charts.append(content)
            else:
                assert kind == "data:image/jpeg"
                self.images.append(Image.open(io.BytesIO(content)))
                self.images[-1].load()
        self._check_self_contained()

    def find(self, tag: str, class_: str | None = None) -> list[Element]:
        """Return the elements of a tag, of a class if one is given."""
        return [e for e in self.elements if e.tag == tag and (class_ is None or class_ in e.classes)]

    def texts(self, tag: str, class_: str | None = None) -> list[str]:
        """Return the text of each element of a tag."""
        return [element.text for element in self.find(tag, class_)]

    @property
    def words(self) -> str:
        """All text of the page."""
        return self.texts("body")[0]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all tables, a list a row."""
        cells: list[list[str]] = []
        for element in self.elements:
            if element.tag == "tr":
                cells.append([])
            elif element.tag in ("th", "td"):
                cells[-1].append(element.text)
        return cells

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag == "br":
            self.handle_data(" ")
        if tag not in _ALONE:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.parts.append(data)

    def _check_self_contained(self) -> None:
        assert {element.tag for element in self.elements} <= _TAGS
        assert {name for element in self.elements for name in element.attributes} <= _ATTRIBUTES
        (style,) = ("".join(element.parts) for element in self.find("style"))
        assert "url(" not in style
        assert "@import" not in style
        policies = [e.attributes["content"] for e in self.find("meta") if "http-equiv" in e.attributes]
        stated = re.fullmatch(_POLICY, policies[0])
        assert stated is not None
        assert base64.b64decode(stated[1]) == hashlib.sha256(style.encode()).digest()
        ids = [element.attributes["id"] for element in self.elements if "id" in element.attributes]
        assert len(set(ids)) == len(ids)
        assert {link.attributes["href"] for link in self.find("a")} <= {f"#{name}" for name in ids}
