"""Runs training in several processes. Each processes its part of every batch, and gradients are
averaged.

`torchrun --nproc-per-node 2 -m ureca.models.training.train CONFIG`. On CPUs that is faster than two
threads in one process, whose small operations wait for each other. Without `torchrun` there is one
worker and no communication.
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
_PATIENCE = timedelta(hours=6)  # long: the leader may first compute the features of a new data set


@dataclass(frozen=True)
class Worker:
    """This process among `count` workers."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker logs and saves for all."""
        return self.rank == 0

    def part(self, groups: Sequence[Item]) -> list[Item]:
        """Return every `count`-th group. Parts of one batch differ in size by at most one."""
        return list(groups[self.rank :: self.count])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all workers, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, mean in zip(
            gradients, _split_like(flat / self.count, gradients), strict=True
        ):
            gradient.copy_(mean)

    def in_turn(self, build: Callable[[], Item]) -> Item:
        """Call `build` on the leader first, then on the others, so that files are written once."""
        if self.leads:
            built = build()
        self.wait()
        return built if self.leads else build()

    def wait(self) -> None:
        """Wait until all workers are here."""
        if self.count > 1:
            torch.distributed.barrier()


def select_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA if it is available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


@contextmanager
def join_workers(device: torch.device) -> Iterator[Worker]:
    """Join the workers for the duration of a run."""
    worker = join(device)
    try:
        yield worker
    finally:
        if worker.count > 1:
            torch.distributed.destroy_process_group()


def join(device: torch.device) -> Worker:
    """Join `torchrun`'s workers; return one worker if there is no `torchrun`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Worker()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    return Worker(torch.distributed.get_rank(), torch.distributed.get_world_size())


def _split_like(flat: Tensor, shapes: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view_as(shape) for part, shape in zip(parts, shapes, strict=True)]
