"""`sfumato demo`: explanations of the sample pictures, and a figure of all of them."""

from pathlib import Path

import typer

from sfumato.cli.errors import reporting_errors
from sfumato.cli.masks import explain_with_masks
from sfumato.cli.queries import Request, prepared


def explain_samples(out: Path, steps: int) -> None:
    """Explain each sample picture with its top class. Results of an earlier demo are replaced."""
    with reporting_errors():
        from sfumato import ExtremalPerturbation, plots, samples

        # In full precision, so that processors with and without bfloat16 draw the same figure.
        method = ExtremalPerturbation(areas=(0.05, 0.1, 0.2), steps=steps, precision="full")
        request = Request(samples.paths(), "lite0", out, overwrite=True)
        with prepared(request) as task, task.working():
            explanations = list(explain_with_masks(task, method))
        results = [explanation.result for explanation in explanations]
        pictures = [explanation.query.picture for explanation in explanations]
        names = task.question.names
        titles = [f"{one.query.source.stem}: {names[one.query.target]}" for one in explanations]
        probabilities = [one.probabilities.tolist() for one in explanations if one.probabilities is not None]
        wholes = [one.whole_probability for one in explanations if one.whole_probability is not None]
        figure = plots.overview(results, pictures, titles, task.classifier, probabilities, wholes)
        plots.save(figure, out / "demo.png")
        typer.echo(f"All in one figure: {out / 'demo.png'}")
