"""The modes in which a model and its masks are computed, whatever modes the caller is in."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from sfumato.model.effects import Model

T = TypeVar("T")


@dataclass
class Outermost:
    """A state of the whole process that comes out as it went in, although several threads change it meanwhile.

    Within a thread each context restores what it found; of several threads the last one out, what the first one found. All
    reading and writing is under one lock: two threads that ask torch for the state of its random numbers at the same moment
    may wait for each other for ever, one with the interpreter, the other with the generator.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    lock: threading.RLock = field(default_factory=threading.RLock)
    depths: dict[int, int] = field(default_factory=dict)
    """By thread, how many contexts deep it is."""
    before: Any = None

    @contextmanager
    def __call__(self, begin: Callable[[], object]) -> Iterator[None]:
        """A context that begins by setting the state."""
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
    """How a model and its masks are computed: the caller's autocast state, which holds for the model and not for the masks,
    the seed of whatever the model itself draws, and whether an accelerator may round."""

    device_type: str
    autocast: bool
    dtype: torch.dtype
    seed: int = 0
    deterministic: bool = False
    """On CUDA, float32 products in full precision and by kernels that give the same sums each time."""

    @classmethod
    def now(cls, device: torch.device, seed: int = 0, deterministic: bool = False) -> "Surroundings":
        kind = device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return cls(kind, *autocast, seed, deterministic)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Gradients on and float32 arithmetic, whatever the caller's modes.

        The global random state begins with the seed, so that a model that draws gives the same for the same seed, and comes
        out as it went in.
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

    def each(self, steps: Iterator[T]) -> Iterator[T]:
        """The items of an iterator that computes in these surroundings, handed over in the caller's own modes."""
        while True:
            with self.computing():
                step = next(steps, None)
            if step is None:
                return
            yield step

    @property
    def rounding(self) -> float:
        """How far two ways to compute the same may lie apart, as a share of the largest value: much under autocast or TF32."""
        if self.autocast:
            return 8 * torch.finfo(self.dtype).eps
        return 1e-2 if self.device_type != "cpu" and not self.deterministic else 0.0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """The caller's autocast, under which the model runs."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.autocast):
            yield

    def call(self, model: Model, inputs: Tensor, *arguments: Any, **named: Any) -> Any:
        """The model's outputs, under the caller's autocast. What it gets is a copy, which it may change in place."""
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
"""No TF32, deterministic kernels, no search for the fastest one, and a warning where there is no deterministic one."""

RANDOM = Outermost(torch.get_rng_state, torch.set_rng_state)
CUDA_RANDOM = Outermost(torch.cuda.get_rng_state, torch.cuda.set_rng_state)
"""Of the current device, which is the only one that is seeded."""

PRECISION = Outermost(_precision, _set_precision)
