"""The sheet every figure is drawn on: Matplotlib in, an SVG element for a page out.

Text and axes are drawn in one reserved colour, which becomes `currentColor`: a figure takes the colour of the page's
text, so it reads on light, dark and paper. The same data give the same bytes: no date is written, and ids are derived
from the figure's name.
"""

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stands for the page's own text colour; no other thing is drawn in it.
INK = "#010203"
_STYLE: dict[str, Any] = (
    {
        "svg.fonttype": "none",
        # Names are text, dollars and all.
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "lines.linewidth": 1.2,
        "axes.titlelocation": "left",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "figure.constrained_layout.use": True,
    }
    | {f"{name}.color": INK for name in ("text", "xtick", "ytick")}
    | {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
    }
)


class Canvas:
    """A context with a styled figure; on leaving, `svg` holds its text.

    Args:
        name: of the figure, unique on its page.
        width, height: inches.
    """

    svg: str
    figure: "Figure"

    def __init__(self, name: str, width: float, height: float) -> None:
        self.name, self.size = name, (width, height)

    def __enter__(self) -> "Canvas":
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        # The salt makes the ids of a page's figures differ: they share one document.
        self._style = mpl.rc_context(_STYLE | {"svg.hashsalt": self.name})
        self._style.__enter__()
        self.figure = Figure(figsize=self.size)
        FigureCanvasSVG(self.figure)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                out = io.StringIO()
                self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
                self.svg = _inline(out.getvalue())
        finally:
            self._style.__exit__(None, None, None)


def _inline(svg: str) -> str:
    """An SVG document as an element of a page: no prolog or metadata, text in the page's colour and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    return svg.replace(INK, "currentColor").strip()
