"""The HTML of a page: its frame and style, names made safe, tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from delf_engine.errors import ConfigError
from delf_engine.support.files import replacing

__all__ = ["check_path", "definitions", "document", "move_html", "short_name", "table", "text", "write_page"]

# Not allowed in HTML, and those that turn the direction of writing: a name could pose as another.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--quiet:#59636e;--page:#fff;--card:#f6f8fa;--rule:#d0d7de;
--yes:#1a7f37;--no:#b35900;--wrong:#cf222e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--quiet:#9198a1;--page:#0d1117;--card:#161b22;
--rule:#30363d;--yes:#3fb950;--no:#e3a04f;--wrong:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--page);color:var(--ink);
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.2rem;margin:2rem 0 .6rem;padding-top:1rem;
border-top:1px solid var(--rule)}h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.3rem 0}a{color:inherit}.quiet{color:var(--quiet)}.note{border-left:4px solid var(--no);
background:var(--card);padding:.5rem .8rem;margin:.8rem 0}
img{display:block;max-width:100%;height:auto;border-radius:4px}
ul.strip{display:flex;gap:.7rem;overflow-x:auto;list-style:none;margin:0;padding:0 0 .6rem}
.card{flex:0 0 12rem;background:var(--card);border:1px solid var(--rule);border-top:4px solid var(--rule);
border-radius:6px;padding:.5rem;font-size:.8rem}
.card.yes{border-top-color:var(--yes)}.card.wrong{border-top-color:var(--wrong)}
.photo{height:9rem;display:flex;align-items:center;justify-content:center}
.photo img{max-height:100%;width:auto;object-fit:contain}
.gone{width:100%;height:100%;min-height:6rem;border:2px dashed var(--rule);border-radius:4px;display:flex;
flex-direction:column;align-items:center;justify-content:center;text-align:center;padding:.4rem;
color:var(--quiet);font-size:.8rem;overflow:hidden}
.up,.same{color:var(--yes)}.down,.other{color:var(--no)}.bad{color:var(--wrong)}
figure{margin:.8rem 0}figure img{width:auto;background:#fff}figcaption{color:var(--quiet);font-size:.9rem}
.verdict{display:inline-block;color:#fff;background:#b35900;border-radius:6px;padding:.2rem .7rem;
font-weight:600}.verdict.yes{background:#1a7f37}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .7rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{margin:.6rem 0}summary{cursor:pointer}
""".strip()

# The browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: object) -> str:
    """Return a value as text that is nothing but text in HTML, in an attribute too."""
    return escape(_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def short_name(image_id: str) -> str:
    """Return the last part of an id that is a path, or the id."""
    return os.path.basename(image_id.rstrip("/")) or image_id


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return a whole page; `style` is added to the one that all pages have."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}{style}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: Iterable[int] = ()) -> str:
    """Return a table of texts, which it makes safe.

    Parameters
    ----------
    head : iterable of str
        Empty: no head.
    rows : iterable of iterable of str
    numbers : iterable of int
        Columns, from 0, that hold numbers and stand to the right.
    """
    right = set(numbers)

    def row(cells: Iterable[str], tag: str) -> str:
        marked = ((' class="number"' if i in right else "", text(cell)) for i, cell in enumerate(cells))
        return "<tr>" + "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in marked) + "</tr>"

    names = list(head)
    inside = (row(names, "th") if names else "") + "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{inside}</table></div>'


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values, which it makes safe."""
    inside = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows)
    return f'<div class="wide"><table>{inside}</table></div>'


def move_html(said: str, rise: int) -> str:
    """Return how far an image has moved, coloured by the direction."""
    kind = "up" if rise > 0 else "down" if rise < 0 else "quiet"
    return f'<span class="{kind}">{text(said)}</span>'


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page, before any work is done for it.

    Raises
    ------
    ConfigError
        If its name does not end in .html or .htm, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: the name of a report must end in .html")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written: there is no folder {path.parent}")
    return path


def write_page(path: Path, page: str) -> int:
    """Write a page whole or not at all, and return its size in bytes.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    content = page.encode("utf-8")
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    return len(content)
