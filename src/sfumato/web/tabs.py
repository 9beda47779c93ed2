"""Tabs of browsers, with their pictures and results: in memory only, and not accessible to other tabs."""

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from sfumato.web.jobs import Job

PICTURES, JOBS, TABS = 8, 24, 200
"""The largest numbers of pictures and of jobs of a tab, and of tabs. The oldest is forgotten first."""

IDLE = 3600.0
"""Seconds without a request after which a tab is forgotten."""


@dataclass(frozen=True, eq=False)
class TabPicture:
    """A picture of a tab, and the network's input for it."""

    name: str
    picture: Image.Image
    inputs: Tensor
    """`(1, C, H, W)`."""


@dataclass(eq=False)
class Tab:
    """A tab of a browser."""

    name: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """A random name. It is secret, as requests with it have access to the tab."""
    pictures: OrderedDict[str, TabPicture] = field(default_factory=OrderedDict)
    jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    last_request: float = field(default_factory=time.monotonic)

    def keep_picture(self, picture: TabPicture) -> None:
        """Keep a picture, and forget the oldest if there are too many."""
        self.pictures[picture.name] = picture
        if len(self.pictures) > PICTURES:
            self.pictures.popitem(last=False)

    def keep_job(self, job: Job) -> None:
        """Keep a job, and forget the oldest that have ended if there are too many."""
        self.jobs[job.name] = job
        ended = [name for name, entry in self.jobs.items() if entry.ended]
        for name in ended[: max(0, len(self.jobs) - JOBS)]:
            del self.jobs[name]


class Tabs:
    """All open tabs."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, Tab] = OrderedDict()

    def open(self) -> Tab:
        """A new tab. Idle tabs are forgotten, and if there are too many, the tab whose last request is longest ago."""
        now = time.monotonic()
        for name in [name for name, tab in self._tabs.items() if now - tab.last_request > IDLE]:
            del self._tabs[name]
        while len(self._tabs) >= TABS:
            self._tabs.popitem(last=False)
        tab = Tab()
        self._tabs[tab.name] = tab
        return tab

    def find(self, name: str) -> Tab | None:
        """The tab with this name, or `None`."""
        tab = self._tabs.get(name)
        if tab is not None:
            tab.last_request = time.monotonic()
            self._tabs.move_to_end(name)
        return tab
