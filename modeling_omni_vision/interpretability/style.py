"""The style sheet of every figure: colours that colour-blind people tell apart, on white, at sizes readable at 100 %.

Whatever draws a figure takes its colours from here; `plots.save` gives it the rest by `dress`.
"""

from matplotlib.figure import Figure


DPI, FONT = 130, "DejaVu Sans"
# Ink, lines and the accent are those of the pages: interop/page/colours.css.
OURS, INK, LINE, EDGE = "#0b57a4", "#16191d", "#d5dae0", "#7b8590"
TRUTH, THIRD, GREY = "#c0392b", "#e0a030", "#6b7280"
# Petroff's ten colours (https://arxiv.org/abs/2107.02270), for more kinds than three.
KINDS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MAP_COLOURS = "viridis"  # as bright for the colour-blind, and grey where it is printed
RIGHT_COLOURS, WRONG_COLOURS = "Blues", "Oranges"


def dress(figure: Figure) -> None:
    """Give a figure the looks of all: quiet frames that charts have at two sides alone, grids behind what is drawn."""
    for axes in figure.axes:
        axes.set_axisbelow(True)
        axes.tick_params(which="both", color=EDGE, labelcolor=INK)
        axes.spines[:].set(color=EDGE, linewidth=0.8)
        if not axes.images:
            axes.spines[["top", "right"]].set_visible(False)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            if text.get_color() == "black":
                text.set_color(INK)


__all__ = ["DPI", "EDGE", "FONT", "GREY", "INK", "KINDS", "LINE", "MAP_COLOURS", "OURS", "RIGHT_COLOURS", "THIRD"]
__all__ += ["TRUTH", "WRONG_COLOURS", "dress"]
