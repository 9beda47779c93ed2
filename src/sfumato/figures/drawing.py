"""A figure that a notebook shows, without pyplot and without a magic command."""

import io

from matplotlib.figure import Figure

from sfumato.figures.letters import draw_all_letters


class Drawing(Figure):
    """A figure of matplotlib. A notebook shows only those of pyplot by itself, and of others their size in words."""

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        draw_all_letters(self)
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
