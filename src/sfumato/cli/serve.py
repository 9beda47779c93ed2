"""`sfumato serve`: the explorer, a page in the browser."""

import ipaddress
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.device import AUTO, Device, choose, in_words, place
from sfumato.cli.errors import reporting_errors
from sfumato.cli.tables import console
from sfumato.settings import listed

OWN = "own"
"""Written for a file that a model does not need, as it has its own."""


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model; see `sfumato models`. May be repeated: then the page can ask two of them the same question, and "
            "show both answers side by side. [default: lite0]",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A state dict for the model, written by torch.save or safetensors; code in the file is not run. With several "
            f"models, one for each in their order; `{OWN}` for the model's own weights. [default: the model's own weights]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at. By default, only this machine can reach it; at 0.0.0.0 all can that know the token "
            "in the printed address."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free port.", min=0, max=65535)] = 8765,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further name that the server answers to, such as that of a proxy; may be repeated.",
            show_default=False,
        ),
    ] = None,
    device: Device = AUTO,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Names of the classes: text with one in each line, or JSON. With several models, one for each in their order; "
            f"`{OWN}` for the model's own names. [default: the checkpoint's or the model's]",
            show_default=False,
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings", help="Load the model for its embeddings, without its classifier, to compare pictures."
        ),
    ] = False,
) -> None:
    """Serve a page that shows what a network needs to see; Ctrl-C ends it."""
    with reporting_errors():
        try:
            from sfumato.web.app import explorer_app
            from sfumato.web.guard import Hosts, in_address, is_loopback
            from sfumato.web.slow_clients import server
            from sfumato.web.warm_up import warm_up
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'the page needs {error.name}, which is not installed; run: pip install "sfumato[ui]"', name=error.name
            ) from error
        from sfumato import models
        from sfumato.models.clips import check_takes_pictures

        names = model or ["lite0"]
        checkpoints, names_of_classes = (
            _files(given, option, names) for given, option in ((checkpoint, "--checkpoint"), (labels, "--labels"))
        )
        allowed = list(allowed_host or ())
        Hosts.of(host, allowed)  # before the model is loaded
        token = "" if is_loopback(host) else secrets.token_urlsafe(16)
        with _listen(host, port) as listener:
            port = listener.getsockname()[1]
            chosen = choose(device)
            classifiers = []
            for name, weights, classes in zip(names, checkpoints, names_of_classes, strict=True):
                classifier = models.load(name, weights, classes, embeddings)
                check_takes_pictures(classifier, "the page")
                place(classifier.net, chosen)
                for remark in models.remarks(classifier):
                    console().print(f"{remark}.", soft_wrap=True)
                warm_up(classifier)
                classifiers.append(classifier)
            app = explorer_app(classifiers, host, allowed, token)
            listener.listen()  # who opens the address as soon as it is told waits for the answer, and is not refused
            where = in_words(chosen, device)
            address = f"http://{in_address(_reachable(host))}:{port}/{f'#token={token}' if token else ''}"
            console().print(f"{address} shows what {_listed(names)} to see, on {where}; Ctrl-C ends it", soft_wrap=True)
            if token:
                console().print(
                    "Other machines can reach it. Give the address only to people who may use it: who has the token can use "
                    "this machine to explain pictures, and the connection is not encrypted.",
                    soft_wrap=True,
                )
            server(app).run(sockets=[listener])


def _files(given: Sequence[str] | None, option: str, models: Sequence[str]) -> list[Path | None]:
    """The file of each model; `None` for its own. Raises `ValueError` unless there is one for each."""
    if not given:
        return [None] * len(models)
    if len(given) != len(models):
        raise ValueError(
            f"{option} is given once for each model, in their order; there are {len(models)} models, and {len(given)} of it. "
            f"Write {option} {OWN} where the model has its own"
        )
    return [None if file == OWN else Path(file) for file in given]


def _listed(models: Sequence[str]) -> str:
    """The models, with the verb.

    >>> _listed(["lite0"]), _listed(["lite0", "timm:resnet50", "mine"])
    ('lite0 needs', 'lite0, timm:resnet50 and mine need')
    """
    return f"{listed(models)} {'needs' if len(models) == 1 else 'need'}"


def _reachable(host: str) -> str:
    """The host for an address that other machines can open: this machine's own address, if it listens at all of them."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent, but a route is chosen
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. It is opened before the model is loaded, so that the error of a used port comes early."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen at {host}:{port} ({error.strerror}); use another --port, or 0 for any free port"
        ) from error
    return listener
