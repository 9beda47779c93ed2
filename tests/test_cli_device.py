"""The option --device: which device it takes, and what is said."""

import pytest
import torch

from sfumato.cli.device import choose, in_words, place


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("name", "device"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_a_gpu_is_taken_if_there_is_one(name, device):
    assert choose(name) == torch.device(device)


@pytest.mark.usefixtures("none")
def test_without_a_gpu_it_is_the_processor():
    assert choose("auto") == torch.device("cpu")


@pytest.mark.usefixtures("none")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "--device cuda: PyTorch finds no such device here. Write --device cpu"),
        ("mps", "--device mps: PyTorch finds no such device here"),
        ("gpu", "--device is auto, cpu, cuda or mps; got 'gpu'. Write --device "),
        ("cpu:3", "--device cpu:3: there is no such device; expected cpu. Write --device cpu"),
    ],
)
def test_what_is_not_there_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        choose(name)


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected cuda:0 to cuda:1"):
        choose("cuda:2")


def test_the_line_names_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert in_words(torch.device("cuda:1"), "auto") == "cuda:1 (Some GPU)"


def test_a_network_that_cannot_be_moved_is_one_sentence():
    class Fixed(torch.nn.Module):
        def to(self, *_):
            raise RuntimeError("CUDA out of memory.\nAnd much more")

    with pytest.raises(
        ValueError, match=r"^the model cannot be moved to cpu: CUDA out of memory\. Write --device cpu$"
    ):
        place(Fixed(), torch.device("cpu"))
