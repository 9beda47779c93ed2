"""What is said of a keyword that a class, a call or a function does not take: one sentence with the word to write instead."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

ITERATIONS = ("steps", "samples")
TARGETS = ("targets", "target")

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "area": ("areas",),
    "baseline": ("perturbation", "value"),
    "baselines": ("perturbation", "value"),
    "category": TARGETS,
    "class_idx": TARGETS,
    "class_index": TARGETS,
    "cls": TARGETS,
    "image": ("inputs", "picture"),
    "images": ("inputs", "pictures"),
    "img": ("inputs", "picture"),
    "input": ("inputs",),
    "input_tensor": ("inputs",),
    "iterations": ITERATIONS,
    "label": TARGETS,
    "layer_name": ("layer",),
    "layers": ("layer",),
    "max_blur": ("max_sigma",),
    "max_iter": ITERATIONS,
    "n_iter": ITERATIONS,
    "n_perturb_samples": ("samples",),
    "n_samples": ("samples", "steps"),
    "n_steps": ITERATIONS,
    "net": ("model",),
    "network": ("model",),
    "num_cells": ("cells",),
    "num_iter": ITERATIONS,
    "num_iterations": ITERATIONS,
    "num_levels": ("levels", "perturbation"),
    "num_masks": ("samples",),
    "num_samples": ("samples", "steps"),
    "picture": ("inputs",),
    "radius": ("tolerance",),
    "random_seed": ("seed",),
    "random_state": ("seed",),
    "reward_func": TARGETS,
    "root": ("path",),
    "saliency_layer": ("layer",),
    "sigma": ("max_sigma", "mask"),
    "step": ("mask",),
    "target": ("targets",),
    "target_layer": ("layer",),
    "target_layers": ("layer",),
    "variant": ("game",),
    "weights": ("checkpoint",),
    "x": ("inputs",),
}
"""Words of other libraries, and what they may be called here, the likeliest first."""

NEEDLESS: Mapping[str, str] = {
    "cuda": "everything runs on the device of the inputs: write model.to(device), inputs.to(device)",
    "device": "everything runs on the device of the inputs: write model.to(device), inputs.to(device)",
    "batch_size": "as many rows go through the model as fit into memory",
    "print_iter": "give progress to the call, a function of each step",
    "verbose": "give progress to the call, a function of each step",
}
"""Words of other libraries for what is asked for in another way here."""


def listed(names: Iterable[str]) -> str:
    """Names as a part of a sentence.

    >>> listed(["Blur"]), listed(["Blur", "Fade"]), listed(["Blur", "Fade", "Noise"])
    ('Blur', 'Blur and Fade', 'Blur, Fade and Noise')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


SIMILAR = 3
"""How many similar names an error names."""


def near(name: str, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: the most similar names, or those that hold it; or nothing.

    >>> near("resnet5", ["resnet50", "vgg16"])
    '; did you mean resnet50?'
    >>> near("linear", ["grad-cam", "linear-approximation"])
    '; did you mean linear-approximation?'
    """
    names = list(names)
    similar = difflib.get_close_matches(name, names)
    if not similar:
        part = name.casefold()
        similar = [other for other in names if part in re.split(r"[^a-z0-9]+", other.casefold())][:SIMILAR]
        similar = similar or [other for other in names if len(part) > 2 and other.casefold().startswith(part)][:SIMILAR]
    return f"; did you mean {' or '.join(similar)}?" if similar else ""


def meant(word: str, known: Collection[str]) -> list[str]:
    """The known words that a word of another library stands for.

    >>> meant("max_iter", ["areas", "steps"]), meant("areas", ["areas"]), meant("colour", ["areas"])
    (['steps'], ['areas'], [])
    """
    return [other for other in (word, *SYNONYMS.get(word, ())) if other in known][:1]


def instead(word: str, known: Collection[str]) -> str:
    """The end of the sentence: what to write, or all that there is.

    >>> instead("max_iter", ["areas", "steps"]), instead("colour", ["areas", "steps"])
    ('; did you mean steps?', '; it takes areas and steps')
    """
    if similar := meant(word, known):
        return f"; did you mean {similar[0]}?"
    if word in NEEDLESS:
        return f"; {NEEDLESS[word]}"
    return near(word, known) or (f"; it takes {listed(known)}" if known else "")


def no_setting(name: str, word: str, known: Collection[str], call: Collection[str]) -> str:
    """The sentence about a setting that a class does not have. `call` are the arguments of its objects' call, if they have one.

    >>> no_setting("RISE", "target", ["samples"], ["model", "inputs", "targets"])
    "RISE has no setting 'target', as targets is an argument of the call: write RISE(…)(model, inputs, targets)"
    """
    if not meant(word, known) and (argument := meant(word, call)):
        end = f", as {argument[0]} is an argument of the call: write {name}(…)({_filled(call)})"
    else:
        end = instead(word, known)
        if "arguments" in known and not meant(word, known):  # those of a method of another library
            end += f"; those of the library's own method: arguments={{{word!r}: …}}"
    return f"{name} has no setting {word!r}{end}"


def no_argument(name: str, word: str, known: Collection[str], settings: Collection[str] | None) -> str:
    """The sentence about an argument that a function does not take, or the call of an object with these settings.

    >>> no_argument("RISE", "samples", ["model", "inputs"], ["samples"])
    "a call of RISE takes no 'samples', as samples is a setting: write RISE(samples=…)(model, inputs)"
    """
    if settings is None:
        return f"{name} takes no {word!r}{instead(word, known)}"
    if not meant(word, known) and (setting := meant(word, settings)):
        end = f", as {setting[0]} is a setting: write {name}({setting[0]}=…)({_filled(known)})"
    else:
        end = instead(word, known)
    return f"a call of {name} takes no {word!r}{end}"


def _filled(call: Collection[str]) -> str:
    """The arguments of a call as they are written."""
    return ", ".join(name for name in call if name != "progress")
