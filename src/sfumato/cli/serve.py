"""`sfumato serve`: the explorer, a page in the browser."""

import socket
from typing import Annotated

import typer

from sfumato.cli.device import AUTO, Device, choose, in_words, place
from sfumato.cli.errors import reporting_errors
from sfumato.cli.naming import Checkpoint, Model
from sfumato.cli.tables import console


def serve(
    model: Model = "lite0",
    checkpoint: Checkpoint = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at. By default, only this machine can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free port.", min=0, max=65535)] = 8765,
    device: Device = AUTO,
) -> None:
    """Serve a page that shows what a network needs to see; Ctrl-C ends it."""
    with reporting_errors():
        try:
            from sfumato.web.app import explorer_app
            from sfumato.web.slow_clients import server
            from sfumato.web.warm_up import warm_up
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'the page needs {error.name}, which is not installed; run: pip install "sfumato[ui]"', name=error.name
            ) from error
        from sfumato import models

        with _listen(host, port) as listener:
            port = listener.getsockname()[1]
            chosen = choose(device)
            classifier = models.load(model, checkpoint)
            place(classifier.net, chosen)
            warm_up(classifier)
            url_host = f"[{host}]" if ":" in host else host
            where = in_words(chosen, device)
            console().print(
                f"http://{url_host}:{port}/ shows what {classifier.name} needs to see, on {where}; Ctrl-C ends it",
                soft_wrap=True,
            )
            server(explorer_app(classifier, url_host, port)).run(sockets=[listener])


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
