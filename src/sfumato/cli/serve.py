"""`sfumato serve`: the explorer page, for people who want to look."""

import socket
from typing import Annotated

import typer

from sfumato.cli.naming import Checkpoint, Model
from sfumato.cli.speaking import speaking_plainly
from sfumato.cli.tables import console


def serve(
    model: Model = "lite0",
    checkpoint: Checkpoint = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; by default this machine alone can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8765,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
) -> None:
    """Open a page on which one looks at what a network needs to see; Ctrl-C ends it."""
    with speaking_plainly():
        try:
            from sfumato.web.app import serving
            from sfumato.web.patience import server
            from sfumato.web.rehearsal import rehearse
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'the page needs {error.name}, which is not installed; run: pip install "sfumato[ui]"', name=error.name
            ) from error
        from sfumato import models

        with _listening(host, port) as listener:
            port = listener.getsockname()[1]
            classifier = models.load(model, checkpoint)
            classifier.net.to(device)
            rehearse(classifier)
            shown = f"[{host}]" if ":" in host else host
            console().print(f"http://{shown}:{port}/ shows what {classifier.name} needs to see; Ctrl-C ends it")
            server(serving(classifier, shown, port)).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """The socket, taken before the model is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen at {host}:{port} ({error.strerror}); take another --port, or 0 for any"
        ) from error
    return listener
