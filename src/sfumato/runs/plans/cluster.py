"""Workers on a Ray cluster: how many, and what each needs of a machine."""

from dataclasses import dataclass

from sfumato.settings import check_number


@dataclass(frozen=True)
class Cluster:
    """How a plan's work is spread over a cluster.

    - `actors`: how many workers; `None` for as many as the machines have room for, now and as machines come and go.
    - `cpus`, `gpus`: what a worker has to itself. `gpus=0.25` lets four workers share a GPU, each with its own copy of the
      models; above 1 it is a whole number.
    - `in_flight`: chunks that a worker has been sent and not yet answered, so that it need not wait for the next.
    - `retries`: how often a chunk is sent again after the worker that was at it died; then it is left open.
    - `logs`: whether what the workers print is shown.
    """

    actors: int | None = None
    cpus: float = 1
    gpus: float = 0.0
    in_flight: int = 2
    retries: int = 3
    logs: bool = False

    def __post_init__(self) -> None:
        for name, least in (("actors", 1), ("in_flight", 1), ("retries", 0)):
            value = getattr(self, name)
            if name == "actors" and value is None:
                continue
            check_number(name, value, "a whole number", least=least)
            if not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number; got {value!r}")
        check_number("cpus", self.cpus, "a number of processors", least=0)
        check_number("gpus", self.gpus, "a number of GPUs, or a fraction of one", least=0)
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be at most 1, or a whole number; got {self.gpus}")
        if self.cpus == self.gpus == 0:
            raise ValueError("a worker needs a part of a machine; got cpus=0 and gpus=0")
        if not isinstance(self.logs, bool):
            raise ValueError(f"logs must be true or false; got {self.logs!r}")

    def check_device(self, device: str) -> None:
        """Raise `ValueError` unless a worker will find the plan's device."""
        if device.startswith("cuda") and not self.gpus:
            raise ValueError(
                f"device = {device!r} needs GPUs, and workers are given none; say how many under [ray], e.g. gpus = 1, or "
                "gpus = 0.5 for two workers on each"
            )
        if device.startswith("cuda:"):
            raise ValueError(f'device = {device!r}: a worker sees its own GPUs only; say device = "cuda"')

    def fitting(self, cpus: float, gpus: float) -> int:
        """How many workers a machine has room for.

        >>> Cluster(cpus=2, gpus=0.4).fitting(cpus=16, gpus=3)
        6
        """
        limits = []
        if self.cpus:
            limits.append(int(cpus / self.cpus + 1e-9))
        if self.gpus:
            limits.append(int(gpus / self.gpus) if self.gpus > 1 else int(gpus) * int(1 / self.gpus + 1e-9))
        return min(limits)
