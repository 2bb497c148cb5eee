"""Several processes, one run: each learns from its part of every batch, gradients are averaged.

`torchrun --nproc-per-node 2 -m ureca.models.training.train CONFIG`. On CPUs that is faster than two
threads in one process, whose small operations wait for each other. Without `torchrun` there is one
worker and nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")
_PATIENCE = timedelta(hours=6)  # the leader may first compute the features of a new data set


@dataclass(frozen=True)
class Worker:
    """This process's place among `count` workers."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker logs and saves for all."""
        return self.rank == 0

    def part(self, groups: Sequence[Item]) -> list[Item]:
        """Every `count`-th of the groups; parts of one batch have equal size up to one."""
        return list(groups[self.rank :: self.count])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all workers; one message for all of them."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, mean in zip(gradients, _like(flat / self.count, gradients), strict=True):
            gradient.copy_(mean)

    def in_turn(self, build: Callable[[], Item]) -> Item:
        """What `build` returns; the leader goes first, so that files are written once."""
        if self.leads:
            built = build()
        self.wait()
        return built if self.leads else build()

    def wait(self) -> None:
        """Until all workers are here."""
        if self.count > 1:
            torch.distributed.barrier()


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where it is available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


@contextmanager
def joined(device: torch.device) -> Iterator[Worker]:
    """`join` for the length of a run."""
    worker = join(device)
    try:
        yield worker
    finally:
        if worker.count > 1:
            torch.distributed.destroy_process_group()


def join(device: torch.device) -> Worker:
    """Become one of `torchrun`'s workers; alone when there is no `torchrun`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Worker()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    return Worker(torch.distributed.get_rank(), torch.distributed.get_world_size())


def _like(flat: Tensor, shapes: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view_as(shape) for part, shape in zip(parts, shapes, strict=True)]
