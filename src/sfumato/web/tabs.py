"""Tabs of browsers, with their pictures and results: in memory only, and not accessible to other tabs."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from sfumato.web.jobs import Job

PICTURES, JOBS, TABS, OF_CLIENT = 8, 24, 200, 24
"""The largest numbers of pictures and of jobs of a tab, of tabs, and of tabs of one client. The oldest is forgotten first."""

MEMORY = 512 * 2**20
"""The bytes that the pictures and results of all tabs may have."""

IDLE = 3600.0
"""Seconds without a request after which a tab is forgotten."""


@dataclass(frozen=True, eq=False)
class TabPicture:
    """A picture of a tab, and the network's input for it."""

    name: str
    content: bytes
    """The file. A decoded picture can be thousands of times larger."""
    inputs: Tensor
    """`(1, C, H, W)`."""
    file: str = "picture.png"
    """The name of the file, for what is made of it."""
    size: tuple[int, int] = (0, 0)
    """The width and height of the picture, upright, in its own pixels."""
    model: int = 0
    """The number of the network that it is prepared for."""

    @property
    def memory(self) -> int:
        """Its bytes."""
        return len(self.content) + self.inputs.nbytes


@dataclass(eq=False)
class Tab:
    """A tab of a browser."""

    client: str = ""
    """Who opened it: the address of the machine."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """A random name. It is secret, as requests with it have access to the tab."""
    pictures: OrderedDict[str, TabPicture] = field(default_factory=OrderedDict)
    jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    last_request: float = field(default_factory=time.monotonic)

    def keep_picture(self, picture: TabPicture) -> None:
        """Keep a picture, and forget the oldest if there are too many."""
        self.pictures[picture.name] = picture
        self.pictures.move_to_end(picture.name)
        if len(self.pictures) > PICTURES:
            self.pictures.popitem(last=False)

    def same_picture(self, picture: TabPicture, model: int) -> str:
        """The name that a picture has for another network, if it was prepared for it before; else an empty one.

        The picture is then not the next to be forgotten.
        """
        self.pictures.move_to_end(picture.name)
        found = (one.name for one in self.pictures.values() if one.content is picture.content and one.model == model)
        return next(found, "")

    def keep_job(self, job: Job) -> None:
        """Keep a job, and forget the oldest that have ended if there are too many."""
        self.jobs[job.name] = job
        ended = [name for name, entry in self.jobs.items() if entry.ended]
        for name in ended[: max(0, len(self.jobs) - JOBS)]:
            del self.jobs[name]

    @property
    def memory(self) -> int:
        """The bytes of its pictures and results."""
        return sum(picture.memory for picture in self.pictures.values()) + sum(job.memory for job in self.jobs.values())

    def forget_oldest(self) -> bool:
        """Forget the oldest result; if there is none, the oldest picture. Returns whether there was one."""
        ended = [name for name, job in self.jobs.items() if job.ended and job.memory]
        if ended:
            del self.jobs[ended[0]]
        elif self.pictures:
            self.pictures.popitem(last=False)
        else:
            return False
        return True


class Tabs:
    """All open tabs."""

    def __init__(self) -> None:
        self._tabs: OrderedDict[str, Tab] = OrderedDict()

    def __iter__(self) -> Iterator[Tab]:
        return iter(self._tabs.values())

    def open(self, client: str = "") -> Tab:
        """A new tab. Idle tabs are forgotten, and if there are too many, the tab whose last request is longest ago."""
        now = time.monotonic()
        for name in [name for name, tab in self._tabs.items() if now - tab.last_request > IDLE]:
            del self._tabs[name]
        own = [name for name, tab in self._tabs.items() if tab.client == client]
        for name in own[: max(0, len(own) + 1 - OF_CLIENT)]:
            del self._tabs[name]
        while len(self._tabs) >= TABS:
            self._tabs.popitem(last=False)
        tab = Tab(client)
        self._tabs[tab.name] = tab
        return tab

    def find(self, name: str) -> Tab | None:
        """The tab with this name, or `None`."""
        tab = self._tabs.get(name)
        if tab is not None:
            tab.last_request = time.monotonic()
            self._tabs.move_to_end(name)
        return tab

    def close(self, name: str) -> None:
        """Forget a tab, with its pictures and results."""
        self._tabs.pop(name, None)

    def keep_within_memory(self) -> None:
        """Forget the oldest results and pictures if all together have too many bytes.

        They are those of the client that has most bytes, and of its tab whose last request is longest ago.
        """
        memory = {tab.name: tab.memory for tab in self}
        while sum(memory.values()) > MEMORY:
            of_clients: dict[str, int] = {}
            for tab in self:
                of_clients[tab.client] = of_clients.get(tab.client, 0) + memory[tab.name]
            largest = max(of_clients, key=lambda client: of_clients[client])
            tab = next(tab for tab in self if tab.client == largest and memory[tab.name])
            tab.forget_oldest()
            memory[tab.name] = tab.memory
