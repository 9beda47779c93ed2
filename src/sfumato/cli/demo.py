"""`sfumato demo`: the sample pictures, each explained, and all in one figure."""

from pathlib import Path

import typer

from sfumato.cli.masks import explain_with_masks
from sfumato.cli.speaking import speaking_plainly


def explain_samples(out: Path, steps: int) -> None:
    """Explain the sample pictures, each with its top class."""
    with speaking_plainly():
        from sfumato import ExtremalPerturbation, plots, samples

        method = ExtremalPerturbation(areas=(0.05, 0.1, 0.2), steps=steps)
        _, done = explain_with_masks(samples.paths(), "lite0", [], method, out)
        titles = [f"{each.query.source.stem}: {each.query.label}" for each in done]
        rows = [each.result for each in done], [each.picture for each in done]
        plots.save(plots.overview(*rows, titles), out / "demo.png")
        typer.echo(f"All in one figure: {out / 'demo.png'}")
