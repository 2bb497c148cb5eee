"""Splits the language model's layers over all workers (torch's FSDP2, arXiv 2304.11277), for bases
that do not fit one. A layer is gathered where it runs and released after it.

Parts that are not split are held whole by every worker: image encoder, embeddings, output layer,
mask modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ureca.errors import ConfigError
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.training.config import MllmTrainConfig
from ureca.models.mllm.training.freeze import get_parts
from ureca.models.training.distributed import Worker


def split_layers(
    model: Mllm, config: MllmTrainConfig, worker: Worker, device: torch.device
) -> None:
    """Split the layers of a model in main memory and move everything to `device`, layer by layer,
    before an optimiser gets it. With one worker nothing is split.

    Raises `ConfigError` for settings under which workers would wait for each other for ever, or a
    base that learns could not be written.
    """
    if config.rows_per_step % worker.count:
        raise ConfigError(
            f"shard: {config.rows_per_step} rows a step over {worker.count} workers: give a "
            "multiple, since all must run equally many passes"
        )
    if config.regions_per_picture > 1:
        raise ConfigError("shard: regions_per_picture must be 1, for the same reason")
    parts = get_parts(model, config)
    if parts.projector or parts.everything:
        raise ConfigError("shard: the image projector learns in an unsplit run only")
    if worker.count > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (worker.count,))
        for layer in model.language.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    model.to(device)


def gather_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with their parts gathered. All workers must call this in the same order."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this worker's part of a whole tensor, if `like` is split. All workers must call
    this.
    """
    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def load_parts(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors into the parameters of the same names, each worker its parts.

    Raises `ValueError` when the names differ.
    """
    if set(own) != set(tensors):
        raise ValueError("another set of parameters learns now than when it was saved")
    for name, tensor in tensors.items():
        own[name].copy_(split_like(tensor, own[name]))


def split_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Split each state (`checkpoints.get_optimizer_tensors`) as its parameter is split."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        name: split_like(tensor, parameters[int(name.partition(".")[0])])
        for name, tensor in tensors.items()
    }


def is_split(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether any of them is split."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def average_gradients(parameters: Iterable[nn.Parameter], worker: Worker) -> None:
    """Average gradients of parameters that every worker holds whole. Split ones are averaged where
    they are computed.
    """
    own = [p for p in parameters if not isinstance(p, DTensor)]
    if own:
        worker.average_gradients(own)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Run `clip_grad_norm_` over parameters of which some are split."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    squares = torch.stack([part.float().square().sum() for part in parts]).sum()
    torch.distributed.all_reduce(squares)
    for gradient in gradients:
        if not isinstance(gradient, DTensor):
            squares += gradient.float().square().sum()
    factor = (limit / (squares.sqrt() + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        local.mul_(factor)
