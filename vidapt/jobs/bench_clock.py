"""A clock for the parts of a training step, and how parts are timed without the product knowing of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from time import process_time
from typing import Any

import torch
from torch import Tensor

Place = tuple[Any, str]
"""A module or class, and the name of a function in it."""


class Clock:
    """Processor time of this process by part; of parts inside each other only the innermost runs."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the block for ``name``, without that of parts inside it."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken

    def _settle(self) -> None:
        now = process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def watched(clock: Clock, parts: dict[str, Sequence[Place]], losses: dict[str, Sequence[Place]]) -> Iterator[None]:
    """Let the clock see functions of the product inside the block.

    Args:
        clock: What counts.
        parts: Functions by the part that they are.
        losses: Functions that return a loss, by part: their backward pass counts for the part, too; see ``apart``.
    """
    with ExitStack() as stack:
        for wrap, table in ((_timed, parts), (apart, losses)):
            for name, places in table.items():
                for place in places:
                    stack.enter_context(_replaced(place, partial(wrap, clock, name)))
        yield


@contextmanager
def _replaced(place: Place, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    owner, name = place
    before = getattr(owner, name)
    setattr(owner, name, change(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _timed(clock: Clock, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with clock.part(name):
            return function(*args, **kwargs)

    return run


def apart(clock: Clock, name: str, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same loss with its backward pass taken at once, so that both count for the part ``name``.

    The gradients with respect to the tensors that it is given wait for the backward pass of the step, which only
    multiplies them by what arrives there.
    """

    @wraps(loss)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        given: list[Tensor] = []
        leaves: list[Tensor] = []

        def cut(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.requires_grad):
                return value
            given.append(value)
            leaves.append(value.detach().requires_grad_())
            return leaves[-1]

        with clock.part(name):
            value = loss(*(cut(argument) for argument in args), **{key: cut(kwargs[key]) for key in kwargs})
            if not value.requires_grad:
                return value
            gradients = torch.autograd.grad(value, leaves, allow_unused=True)
            attached: Tensor = _Attached.apply(value.detach(), gradients, *given)
            return attached

    return run


class _Attached(torch.autograd.Function):
    """A scalar whose gradients with respect to some tensors are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *given: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if known is None else grad * known for known in ctx.gradients)
