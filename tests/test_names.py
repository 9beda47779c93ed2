"""The public names come from one table, at their first use, and citations from what was used."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato
from sfumato.settings import public_path


def test_every_public_name_is_there():
    names = sfumato.__all__
    assert sorted(names) == sorted(dir(sfumato)) == sorted(set(names))
    assert {"RISE", "Method", "citation", "plots", "DELETE"} <= set(names)
    assert all(getattr(sfumato, name) is not None for name in names)
    namespace = {}
    exec("from sfumato import *", namespace)  # noqa: S102
    assert set(names) <= set(namespace)


def test_every_method_is_exported_by_its_line_alone():
    assert set(sfumato.methods.__all__) <= set(sfumato.__all__)
    stub = Path(sfumato.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert not any(f" as {name}\n" in stub for name in sfumato.methods.__all__)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'sfumato' has no attribute 'Nothing'"):
        _ = sfumato.Nothing


def test_a_misspelt_name_gets_the_near_one():
    with pytest.raises(AttributeError, match="'ExtremalPertubation'; did you mean ExtremalPerturbation"):
        _ = sfumato.ExtremalPertubation
    code = "import sfumato; sfumato.ExtremalPertubation"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.lower().count("did you mean") == 1, "Python adds no suggestion of its own"


def test_neither_import_nor_names_nor_citations_need_torch():
    code = (
        "import sys, sfumato; print(sfumato.__version__, len(sfumato.__all__), 'petsiuk2018rise' in "
        "sfumato.citation('sfumato:RISE'), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split()[2:] == ["True", "False"]


def keys(*used):
    return [line.partition("{")[2].rstrip(",") for line in sfumato.citation(*used).splitlines() if line.startswith("@")]


def test_a_citation_is_of_what_was_used():
    extremal = sfumato.ExtremalPerturbation(ascent=sfumato.EvolutionAscent())
    assert keys(extremal) == ["fong2019understanding", "salimans2017evolution", "sfumato"]
    assert keys(sfumato.ExtremalPerturbation) == ["fong2019understanding", "sfumato"]
    assert keys(sfumato.Deconvnet(), sfumato.Deconvnet) == ["zeiler2014visualizing", "sfumato"]
    captum = sfumato.Captum("captum:IntegratedGradients")
    assert keys(captum) == ["kokhlikyan2020captum", "sundararajan2017axiomatic", "sfumato"]
    assert keys(sfumato.Captum("Occlusion")) == ["kokhlikyan2020captum", "zeiler2014visualizing", "sfumato"]
    assert keys(sfumato.metrics.Randomisation) == ["adebayo2018sanity", "sfumato"]
    assert keys(sfumato.ExtremalPerturbation()) == ["fong2019understanding", "osher1988fronts", "sfumato"]
    assert "@article{osher1988fronts," in sfumato.citation(sfumato.LevelSet)
    assert keys() == ["sfumato"]


def test_parts_and_functions_have_their_papers():
    inversion = ["mahendran2015understanding", "fong2019understanding"]
    assert keys(sfumato.Pixels()) == ["mahendran2015understanding", "sfumato"]
    assert keys(sfumato.Fourier()) == ["olah2017feature", "sfumato"]
    assert "@article{olah2017feature," in sfumato.citation(sfumato.Fourier)
    assert keys(sfumato.invert) == [*inversion, "olah2017feature", "sfumato"]
    assert keys("sfumato:invert") == [*inversion, "sfumato"]
    assert keys(sfumato.Blur(), sfumato.Noise) == ["fong2017interpretable", "sfumato"]
    assert keys("sfumato.metrics:Monotonicity", "sfumato.metrics:SufficientArea") == [
        "fong2019understanding",
        "sfumato",
    ]
    assert keys(sfumato.behaviour.Presence, sfumato.behaviour.Invariance) == ["fong2017interpretable", "sfumato"]
    assert keys("sfumato.behaviour:strongest") == ["fong2017interpretable", "bates2021distribution", "sfumato"]


def test_a_setting_that_is_on_has_a_paper(tmp_path, monkeypatch):
    (tmp_path / "own_switch.py").write_text(
        "from dataclasses import dataclass\n"
        'PAPERS = {"crisp=True": "A. Nobody, B. Somebody: *A switch*, ICML 2031"}\n'
        "@dataclass\nclass Own:\n    crisp: bool = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("own_switch").Own
    assert keys(cls()) == ["nobody2031switch", "sfumato"]
    assert keys(cls(crisp=False)) == keys("sfumato:Fade") == ["sfumato"]


def test_an_inversion_is_cited_as_it_was_made():
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    target = net(torch.rand(1, 1, 6, 6)).detach()
    settings = {"shape": (1, 6, 6), "mean": None, "std": None, "steps": 1, "prior": sfumato.Pixels()}
    assert keys(sfumato.invert(net, "0", target, **settings)) == [
        "mahendran2015understanding",
        "fong2019understanding",
        "sfumato",
    ]


def test_every_method_has_a_paper():
    for name in sfumato.methods.__all__:
        assert len(keys(getattr(sfumato, name))) > 1, name


def test_a_result_is_cited_as_it_was_made():
    import torch

    result = sfumato.RISE(samples=4, cells=2)(lambda x: x.flatten(1), torch.rand(1, 1, 4, 4), 0)
    assert keys(result) == ["petsiuk2018rise", "sfumato"]


def test_what_cannot_be_cited():
    with pytest.raises(
        ValueError, match=r"citation\(\) takes methods, metrics, their parts, classes and functions, and results; got 3"
    ):
        sfumato.citation(3)
    for path in ("extremal", "sfumato:Rise", "nowhere:RISE", "sfumato:smalest"):
        with pytest.raises(ValueError, match=rf"knows no class or function '{path}'; give its path"):
            sfumato.citation(path)


def test_no_class_has_the_name_of_another_that_is_exported():
    """Files name a class by what exports its name, so the name must be that of one class."""
    for module in pkgutil.walk_packages(sfumato.__path__, "sfumato."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name and "." not in value.__qualname__:
                home, _, name = public_path(value).partition(":")
                assert getattr(importlib.import_module(home), name) is value
