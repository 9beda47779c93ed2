"""The modes in which a model and its masks are computed, independent of the modes of the caller."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.model.effects import Model

T = TypeVar("T")


@dataclass
class Outermost:
    """A state of the whole process that contexts set and restore, also if several threads do so at the same time.

    Within a thread, each context restores the state from before it. Among threads, the last one to leave restores the state
    from before the first one entered. One lock guards all reads and writes: two threads that ask torch for its random state at
    the same moment can deadlock, as one has the interpreter's lock and the other that of the generator.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    lock: threading.RLock = field(default_factory=threading.RLock)
    depths: dict[int, int] = field(default_factory=dict)
    """The number of nested contexts, by thread."""
    before: Any = None

    @contextmanager
    def __call__(self, begin: Callable[[], object]) -> Iterator[None]:
        """A context that calls `begin` to set the state, and restores it at the end."""
        thread = threading.get_ident()
        with self.lock:
            state = self.read()
            if not self.depths:
                self.before = state
            self.depths[thread] = self.depths.get(thread, 0) + 1
            begin()
        try:
            yield
        finally:
            with self.lock:
                self.depths[thread] -= 1
                if self.depths[thread]:
                    self.write(state)
                else:
                    del self.depths[thread]
                    if not self.depths:
                        self.write(self.before)


@dataclass(frozen=True)
class Surroundings:
    """How a model and its masks are computed: the caller's autocast, which applies to the model and not to the masks, the seed
    of the random numbers that the model draws, and whether an accelerator must compute exactly."""

    device_type: str
    autocast: bool
    dtype: torch.dtype
    seed: int = 0
    deterministic: bool = False
    """On CUDA: whether float32 products have full precision, by kernels that give the same sums each time."""

    @classmethod
    def now(cls, device: torch.device, seed: int = 0, deterministic: bool = False) -> "Surroundings":
        """Surroundings with the caller's present autocast state for the device."""
        kind = device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return cls(kind, *autocast, seed, deterministic)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A context with gradients enabled and autocast disabled, whatever the caller's modes.

        The global random state begins with the seed, so that a model that draws random numbers has the same outputs for the
        same seed. It is restored at the end.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(self.device_type, enabled=False))
            if self.deterministic:
                stack.enter_context(PRECISION(lambda: _set_precision(EXACT)))
            stack.enter_context(RANDOM(lambda: torch.default_generator.manual_seed(self.seed)))
            if self.device_type == "cuda":
                stack.enter_context(CUDA_RANDOM(lambda: torch.cuda.manual_seed(self.seed)))
            yield

    def iterate(self, steps: Iterator[T]) -> Iterator[T]:
        """The items of an iterator that computes in these surroundings. Between the items, the caller's own modes apply."""
        while True:
            with self.computing():
                step = next(steps, None)
            if step is None:
                return
            yield step

    @property
    def rounding(self) -> float:
        """The largest difference of two ways to compute the same value, as a share of the largest value: 0 for full float32
        precision, more under autocast or where TF32 is possible."""
        if self.autocast:
            return 8 * torch.finfo(self.dtype).eps
        return 1e-2 if self.device_type != "cpu" and not self.deterministic else 0.0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A context with the caller's autocast, in which the model runs."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.autocast):
            yield

    def call(self, model: Model, inputs: Float[Tensor, "N ..."], *arguments: Any, **named: Any) -> Any:
        """The model's outputs under the caller's autocast. It gets a copy of the inputs, which it may change in place."""
        with self.calling():
            return model(inputs.clone(), *arguments, **named)


def _precision() -> tuple[bool, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_precision(flags: tuple[bool, ...]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags[:2]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags[2:4]
    torch.use_deterministic_algorithms(flags[4], warn_only=flags[5])


EXACT = (False, False, True, False, True, True)
"""No TF32, deterministic kernels, no search for the fastest kernel, and a warning if no kernel is deterministic."""

RANDOM = Outermost(torch.get_rng_state, torch.set_rng_state)
CUDA_RANDOM = Outermost(torch.cuda.get_rng_state, torch.cuda.set_rng_state)
"""The random state of the current device. Other devices are not seeded."""

PRECISION = Outermost(_precision, _set_precision)
