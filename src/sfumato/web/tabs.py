"""What a tab of the browser has: its pictures and results, in memory, seen by nobody else, and forgotten when it is gone."""

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from sfumato.web.desk import Job

PICTURES, JOBS, TABS = 8, 24, 200
"""What is kept of a tab, and how many tabs: the oldest goes first."""

IDLE = 3600.0
"""Seconds after which a tab that asks nothing is forgotten."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture of a tab, and the network's input for it."""

    name: str
    picture: Image.Image
    inputs: Tensor
    """`(1, C, H, W)`."""


@dataclass(eq=False)
class Tab:
    """One tab of somebody's browser."""

    name: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Nobody can guess it: who knows it is the tab."""
    pictures: OrderedDict[str, Shown] = field(default_factory=OrderedDict)
    jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    seen: float = field(default_factory=time.monotonic)

    def keep_picture(self, shown: Shown) -> None:
        self.pictures[shown.name] = shown
        if len(self.pictures) > PICTURES:
            self.pictures.popitem(last=False)

    def keep_job(self, job: Job) -> None:
        self.jobs[job.name] = job
        ended = [name for name, each in self.jobs.items() if each.ended]
        for name in ended[: max(0, len(self.jobs) - JOBS)]:
            del self.jobs[name]


class Tabs:
    """All tabs that are known."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, Tab] = OrderedDict()

    def open(self) -> Tab:
        """A new one. Those that have asked nothing for long are forgotten; where there are too many, the one of longest ago."""
        now = time.monotonic()
        for name in [name for name, tab in self._tabs.items() if now - tab.seen > IDLE]:
            del self._tabs[name]
        while len(self._tabs) >= TABS:
            self._tabs.popitem(last=False)
        tab = Tab()
        self._tabs[tab.name] = tab
        return tab

    def of(self, name: str) -> Tab | None:
        """The tab of that name, if there is one."""
        tab = self._tabs.get(name)
        if tab is not None:
            tab.seen = time.monotonic()
            self._tabs.move_to_end(name)
        return tab
