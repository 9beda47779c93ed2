"""The command line. Each command has a file: `sfumato explain`, `channels`, `demo`, `models`, `methods`, `layers`, `bench`,
`report`, `compare-models`, `calibrate`, `verify` and `serve`.

Exit codes: 0 success · 1 some pictures could not be used, the others have results · 2 there are no results, and a
sentence on stderr says why · 3 a limit is not kept, or a bundle is not as it was written · 130 interrupted.
"""

from pathlib import Path
from typing import Annotated

import typer

# torch takes seconds to import. Modules that need it are imported inside the commands.
from sfumato.cli import bench, calibrate, channels, compare_models, demo, explain, layers, lists, report, serve, verify
from sfumato.cli.commands import Commands
from sfumato.cli.tables import first_sentence

DEMO_STEPS = 100

WIDEST = 10_000
"""The help uses the whole width of the terminal, up to so many columns."""


def _version(wanted: bool) -> None:
    """Print the version of sfumato, and exit."""
    if wanted:
        import sfumato

        typer.echo(f"sfumato {sfumato.__version__}")
        raise typer.Exit


class Main(Commands):
    """The commands of `sfumato`. A picture in the place of a command is answered by what to write."""

    def meant(self, word: str) -> str:
        return f"To explain pictures, write: sfumato explain {word}" if Path(word).exists() else ""


app = typer.Typer(
    cls=Main,
    help="Find the smallest part of a picture that suffices for a network's answer, or without which the answer is lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": WIDEST, "help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the script `sfumato`."""
    app(prog_name="sfumato")


@app.callback(help=app.info.help)
def _options(
    version: Annotated[  # it acts in its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """The options of `sfumato` itself."""


app.command()(explain.explain)
app.command()(channels.channels)


@app.command("demo")
def _demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("sfumato-demo"),
) -> None:
    """Explain three sample pictures with the small classifier of the extra `demo`."""
    demo.explain_samples(out, DEMO_STEPS)


app.command()(lists.models)
app.command()(lists.methods)
app.command()(layers.layers)
app.add_typer(bench.app, name="bench")
app.command()(report.report)
app.command()(compare_models.compare_models)
app.command()(calibrate.calibrate)
app.command()(verify.verify)
app.command()(serve.serve)

for commands in (app, bench.app):  # whole sentences, which are wrapped; the default is a cut line
    for command in commands.registered_commands:
        command.short_help = first_sentence(command.callback.__doc__)
    for group in commands.registered_groups:
        group.short_help = bench.app.info.help
