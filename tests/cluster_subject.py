"""Models for tests on a cluster: a module that tests copy into a folder of their own, from where workers import it."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from sfumato.models import Classifier
from sfumato.models.classifier import Preparation

DEATHS = Path(__file__).with_name("deaths")
"""A folder of tokens: each lets one process die."""

PRESENT = Path(__file__).with_name("present")
"""A folder of the processes that have come; none is expected where there is no such folder."""

CLASSES = ("disc", "square", "stripes")


class Network(nn.Module):
    """Small, with random weights that are always the same."""

    def __init__(self, fault=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Tanh(),
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Tanh(),
                nn.AdaptiveAvgPool2d(4),
            )
            self.head = nn.Linear(128, len(CLASSES))
        self.fault = fault

    def forward(self, inputs):
        if self.fault:
            self.fault()
        return self.head(self.layers(inputs).flatten(1))


def classifier(fault=None):
    return Classifier("small", Network(fault).eval(), Preparation(size=32, resize=32), CLASSES)


def sound():
    return classifier()


def mortal():
    """Kills its worker, the parent of its process, as often as there are tokens."""
    return classifier(_die)


def greedy():
    return classifier(_want_memory)


def sociable():
    """Waits until two processes are at work."""
    return classifier(_meet)


def _meet():
    if PRESENT.exists() and "CLUSTER_DRIVER" not in os.environ:
        (PRESENT / str(os.getpid())).touch()
        deadline = time.monotonic() + 600
        while len(list(PRESENT.iterdir())) < 2:
            assert time.monotonic() < deadline, "nobody else came"
            time.sleep(0.05)


def _die():
    for token in DEATHS.glob("*"):
        with suppress(FileNotFoundError):
            token.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)  # until this process sees it


def _want_memory():
    if Path(__file__).with_name("plenty").exists():
        return
    raise MemoryError("cannot have 64 GiB")
