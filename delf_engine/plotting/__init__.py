"""Pictures of results: matches between two photographs, attention, rankings.

Every function returns a matplotlib `Figure` of its own, which a notebook shows and `save_figure` writes; pyplot
and its global state are never touched, so pictures can be drawn in any thread and without a display.
"""

from __future__ import annotations

from delf_engine.plotting.attention import draw_attention
from delf_engine.plotting.canvas import figure_pixels, save_figure
from delf_engine.plotting.curves import draw_reliability, draw_roc
from delf_engine.plotting.matches import draw_matches, save_matches
from delf_engine.plotting.overlay import OverlayMode, draw_overlay
from delf_engine.plotting.ranking import draw_ranking

__all__ = [
    "OverlayMode",
    "draw_attention",
    "draw_matches",
    "draw_overlay",
    "draw_ranking",
    "draw_reliability",
    "draw_roc",
    "figure_pixels",
    "save_figure",
    "save_matches",
]
