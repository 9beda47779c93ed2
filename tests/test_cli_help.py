"""What `--help` says is true, and what the command line says of warnings and completion."""

import re
import subprocess
import sys
import warnings

import pytest
from typer.testing import CliRunner

from sfumato import cli
from sfumato.cli.errors import reporting_errors
from sfumato.games import GAMES
from sfumato.methods import ExtremalChannels, ExtremalPerturbation


def text_of(*words):
    done = CliRunner().invoke(cli.app, [*words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def test_the_defaults_of_explain_are_those_of_the_method():
    said, method = text_of("explain", "-h"), ExtremalPerturbation()
    areas = ",".join(f"{area:g}" for area in method.areas)
    for default in (areas, method.game, str(method.steps), method.score):
        name = default if isinstance(default, str) else next(n for n, g in GAMES.items() if g == default)
        assert f"[default: the method's; of extremal {name}]" in said
    assert method.seed == 0
    assert "seed of all random numbers. [default: 0]" in said


def test_the_default_of_channels_is_that_of_the_method():
    assert f"[default: the method's, {ExtremalChannels(layer='a').steps}]" in text_of("channels", "-h")


@pytest.mark.parametrize("words", [["-h"], ["explain", "-h"], ["bench", "-h"], ["bench", "run", "-h"]])
def test_help_has_a_short_option_everywhere(words):
    assert text_of(*words) == text_of(*words[:-1], "--help")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell):
    variables = {"_SFUMATO_COMPLETE": f"complete_{shell}", "COMP_WORDS": "sfumato expl", "COMP_CWORD": "1"}
    variables |= {"_TYPER_COMPLETE_ARGS": "sfumato expl", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = CliRunner().invoke(cli.app, [], env=variables, prog_name="sfumato")
    assert "explain" in done.stdout, done.output
    assert "channels" not in done.stdout


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, FutureWarning])
def test_a_warning_is_one_line_without_code(category, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with reporting_errors():
            warnings.warn("something\nis odd", category, stacklevel=1)
    assert capsys.readouterr().err == "sfumato: something is odd\n"


def test_help_needs_no_torch():
    code = "import sys; import sfumato.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.match("False", done.stdout)
