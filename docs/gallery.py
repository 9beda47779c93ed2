"""What the gallery needs: the order of the examples, and the figures that `sfumato.plots` makes, without pyplot."""

from typing import Any
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

FIRST = (
    *("growing_areas", "methods", "score_against_area", "max_convolution", "against_2017", "weight_randomisation"),
    *("channel_counts", "inversions", "class_channels"),
)


def order(name: str) -> tuple[int, str]:
    """Where the example of that file name stands: the paper's first figures first, the others by name."""
    stem = name.removeprefix("plot_").removesuffix(".py")
    return FIRST.index(stem) if stem in FIRST else len(FIRST), name


_seen: WeakSet[Figure] = WeakSet()


def loose(_block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """The reST for figures that an example has in its variables since the last block, but for pyplot's own.

    It goes before sphinx-gallery's scraper of those, which closes them: an open one has a manager, a closed one has none.
    """
    found = [value for value in block_vars["example_globals"].values() if isinstance(value, Figure)]
    paths = []
    for figure in dict.fromkeys(found):
        if figure not in _seen and figure.canvas.manager is None:
            paths.append(next(block_vars["image_path_iterator"]))
            figure.savefig(paths[-1], format="png")
        _seen.add(figure)
    return figure_rst(paths, gallery_conf["src_dir"])
