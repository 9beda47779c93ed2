"""The command line. Each command has a file: `sfumato explain`, `channels`, `demo`, `models`, `methods`, `layers`, `bench`,
`report` and `serve`.

Exit codes: 0 success · 1 some pictures could not be used, the others have results · 2 there are no results, and a
sentence on stderr says why · 130 interrupted.
"""

from pathlib import Path
from typing import Annotated

import typer

# torch takes seconds to import. Modules that need it are imported inside the commands.
from sfumato.cli import bench, channels, demo, explain, layers, lists, report, serve

DEMO_STEPS = 100

app = typer.Typer(
    help="Find the smallest part of a picture that a network needs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the script `sfumato`."""
    app(prog_name="sfumato")


app.command()(explain.explain)
app.command()(channels.channels)


@app.command("demo")
def _demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-demo")) -> None:
    """Explain three sample pictures with the small classifier of the extra `demo`."""
    demo.explain_samples(out, DEMO_STEPS)


app.command()(lists.models)
app.command()(lists.methods)
app.command()(layers.layers)
app.add_typer(bench.app, name="bench")
app.command()(report.report)
app.command()(serve.serve)
