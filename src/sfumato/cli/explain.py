"""`sfumato explain`: its options, and the choice between masks of one method and maps of several."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import naming
from sfumato.cli.compare import compare
from sfumato.cli.device import AUTO, Device
from sfumato.cli.errors import reporting_errors
from sfumato.cli.evidence import Wanted, bundled
from sfumato.cli.masks import explain_with_masks
from sfumato.cli.outputs import Overwrite, Resume
from sfumato.cli.queries import BatchSize, Request, prepared
from sfumato.cli.questions import Details, check_score


def explain(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Pictures, or folders of them. For a model of clips or volumes: animated GIF or WebP, or arrays in .npy, .npz "
            "or .safetensors.",
        ),
    ],
    model: naming.Model = "lite0",
    checkpoint: naming.Checkpoint = None,
    labels: naming.Labels = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A class, by index or label, or the number of an output; may be repeated. [default: the top class]"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="A method, or several, separated by commas; see `sfumato methods`.")
    ] = "extremal",
    layer: Annotated[
        str | None, typer.Option(help="The layer, for methods that use one. [default: the model's own]")
    ] = None,
    areas: Annotated[
        str | None,
        typer.Option(help="Fractions of the picture to show. [default: the method's; of extremal 0.05,0.1,0.2]"),
    ] = None,
    game: Annotated[
        str | None,
        typer.Option(
            help="preserve: what suffices for the answer; delete: without which it is lost; "
            "dual: both. [default: the method's; of extremal preserve]"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the ascent. [default: the method's; of extremal 150]")
    ] = None,
    smallest: Annotated[
        float | None,
        typer.Option(metavar="KEEP", help="Find the smallest area that keeps this share of the score, e.g. 0.9."),
    ] = None,
    certificate: Annotated[
        bool,
        typer.Option(
            "--certificate",
            help="Test what each explanation may claim: whether the places suffice, are mostly needed, are better than chance, "
            "are the only ones. Takes two to three times as long as the search.",
        ),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What `sfumato calibrate` wrote for this model, for --certificate.", show_default=False
        ),
    ] = None,
    survival: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What `sfumato calibrate --survival` wrote, for --certificate.", show_default=False
        ),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PICTURE",
            help="Another picture, on which the set is pasted, for --certificate; may be repeated.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new folder for the pictures, results and certificates, with a manifest of hashes; in place of --out.",
            show_default=False,
        ),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="The right class of the pictures, to be noted in a --bundle.", show_default=False
        ),
    ] = None,
    alternatives: Annotated[
        bool,
        typer.Option("--alternatives", help="Draw the outlines of what each restart of the search found for itself."),
    ] = False,
    score: Annotated[
        str | None,
        typer.Option(
            help="What is asked. Of a class, its logit, probability, log-odds, or sigmoid for networks with several labels; or "
            "entropy (doubt), regression (an output that estimates a number), region (a class in --box or --mask of a "
            "segmentation), box (a detector's box), similarity (of embeddings, to the picture --to). Detectors are asked "
            "about a box. [default: the method's; of extremal logit]"
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="L,T,R,B",
            help="Left, top, right and bottom in pixels of the picture, for --score box or region. [default: the box of which "
            "the detector is surest]",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A picture of the same size that is white in the region, for --score region.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE", help="The picture to compare with, for --score similarity.", show_default=False
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of all random numbers. [default: 0]")] = None,
    set_: naming.Setting = None,
    device: Device = AUTO,
    batch: BatchSize = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("sfumato-out"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Find the parts of pictures that decide a network's answer. Writes a figure, masks and a summary for each of them."""
    with reporting_errors():
        from sfumato.data import labels as names_of_classes
        from sfumato.games import GAMES
        from sfumato.models.clips import check_takes_pictures
        from sfumato.models.questions import OTHERS
        from sfumato.scores import AUTO as AUTO_LINK
        from sfumato.scores import OF_A_CLASS, SIGMOID, link_of_meaning
        from sfumato.settings import as_json

        naming.check_share("--smallest", smallest)
        naming.check_choice("--game", game, tuple(GAMES))
        check_score(score, tuple(OF_A_CLASS))
        details = Details(box, mask, to)
        details.check(score, len(images))
        naming.check_count("--steps", steps, 150)
        fractions = None if areas is None else naming.fractions(areas, "--areas")
        options = {"areas": fractions, "game": game, "steps": steps, "seed": seed, "layer": layer}
        if score not in OTHERS:
            options["score"] = score
        given = {name: value for name, value in options.items() if value is not None}
        methods = naming.build_methods(method, given, set_ or [])
        first = next(iter(methods.values()))
        draws_masks = len(methods) == 1 and naming.makes_masks(first)
        if smallest is not None and not (draws_masks and first.finds_smallest):
            without = ", without --layer" if layer else ""
            raise ValueError(
                f"--smallest is for one method that makes masks of an area, e.g. --method extremal{without}"
            )
        if smallest is not None and first.game.drop:
            raise ValueError(f"--smallest is for masks that keep the score; got --game {game}. Write --game preserve")
        if alternatives and not draws_masks:
            raise ValueError("--alternatives is for one method that makes masks, e.g. --method extremal")
        wanted = Wanted(certificate or bundle is not None, calibration, survival, tuple(background or ()))
        if wanted.certificate and score in OTHERS:
            option = "--certificate" if bundle is None else "--bundle"
            raise ValueError(f"{option} tests the answer of a class; leave it out, or leave out --score {score}")
        _check_evidence(wanted, draws_masks, smallest is not None, layer)
        _check_bundle(bundle, overwrite or resume, expected)
        folder = out if bundle is None else bundle
        request = Request(
            images,
            model,
            folder,
            target or [],
            checkpoint,
            device,
            batch,
            overwrite,
            resume,
            labels,
            bundle is None,
            score if score in OTHERS else None,
            details,
        )
        links = {link_of_meaning(one.score) for one in methods.values()}
        link = links.pop() if len(links) == 1 else SIGMOID if SIGMOID in links else AUTO_LINK
        with prepared(request, link) as task:
            if wanted.certificate:
                check_takes_pictures(task.classifier, "--certificate" if bundle is None else "--bundle")
            right = None if expected is None else names_of_classes.find(task.classifier.labels, expected)
            with task.working(), bundled(bundle, task, {"method": as_json(first)}, right) as keep:
                if draws_masks:
                    for explanation in explain_with_masks(task, first, smallest, fractions, alternatives, wanted):
                        keep(explanation.query)
                else:
                    compare(task, methods)


def _check_evidence(wanted: Wanted, draws_masks: bool, smallest: bool, layer: str | None) -> None:
    """Raise `ValueError` for options about evidence that do not go with the others."""
    if wanted.certificate and (not draws_masks or smallest):
        without = " and without --layer" if layer else ""
        raise ValueError(
            f"--certificate is for the sets of one method, --method extremal or extremal-order, without --smallest{without}"
        )
    files = [("--calibration", wanted.calibration), ("--survival", wanted.survival)]
    for option, file in [*files, *(("--background", file) for file in wanted.backgrounds)]:
        if file is not None and not wanted.certificate:
            raise ValueError(f"{option} is for --certificate; write both")
        if file is not None and not file.is_file():
            raise ValueError(f"{option}: there is no file {str(file)!r}")


def _check_bundle(bundle: Path | None, again: bool, expected: str | None) -> None:
    """Raise `ValueError` for a folder that cannot become a bundle, and for options that do not go with one."""
    if bundle is None:
        if expected is not None:
            raise ValueError("--expected is for --bundle; write both")
        return
    from sfumato.evidence.bundle import check_new

    if again:
        raise ValueError("--bundle is for a new folder; leave out --overwrite and --resume")
    check_new(bundle)
