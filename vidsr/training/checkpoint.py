"""A training run on disk: tensors in safetensors, the rest in readable JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from vidsr.errors import MediaError, ModelError
from vidsr.files import appearing


def save(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write `<path>.safetensors` and, for reading, `<path>.json`.

    The facts are kept inside the tensor file too, so that the two can never disagree.

    Raises:
        MediaError: the disk is full or not writable; the checkpoint before this one stays.
    """
    text = json.dumps(facts, indent=2)
    write_tensors(path.with_suffix(".safetensors"), tensors, {"facts": text})
    with replacing(path.with_suffix(".json")) as part:
        part.write_text(text + "\n", encoding="utf-8")


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a `.safetensors` file whole or not at all.

    Raises:
        MediaError: the disk is full or not writable; what was there before stays.
    """
    # Clones, since safetensors refuses tensors that share memory.
    whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with replacing(path) as part:
        part.write_bytes(serialize(whole, metadata))  # its own save_file makes files of mode 0600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well.

    Raises:
        MediaError: for any OSError within the block; what was there before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as part:
            yield part
    except OSError as exc:
        raise MediaError(
            f"{path}: cannot be written ({exc.strerror or exc}); what was there before is untouched"
        ) from exc


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        ModelError: nothing there, or damaged.
    """
    file = path.with_suffix(".safetensors")
    try:
        with safe_open(file, framework="pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            facts = json.loads((handle.metadata() or {})["facts"])
    except OSError as exc:
        raise ModelError(f"{file}: no checkpoint to resume from ({exc.strerror or exc})") from exc
    except (SafetensorError, KeyError, ValueError) as exc:
        raise ModelError(f"{file} is not a whole checkpoint: {exc}") from exc
    return tensors, facts


def network_tensors(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors under `prefix/`."""
    return {f"{prefix}/{key}": value for key, value in network.state_dict().items()}


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments under `prefix/<parameter>/<moment>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{number}/{moment}": torch.as_tensor(value)
        for number, moments in state.items()
        for moment, value in moments.items()
    }


def restore_network(prefix: str, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `network_tensors` took.

    Raises:
        ModelError: the checkpoint is of a network of another shape.
    """
    start = f"{prefix}/"
    state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    expected = network.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        ours = tuple(expected[key].shape) if key in expected else "no such tensor"
        theirs = tuple(state[key].shape) if key in state else "no such tensor"
        if ours != theirs:
            raise ModelError(
                f"the checkpoint is of another network: for {start}{key} it has {theirs}, this "
                f"training {ours}; resume with the sizes that it was begun with"
            )
    network.load_state_dict(state)


def restore_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{prefix}/"):
            _, number, moment = key.split("/")
            state.setdefault(int(number), {})[moment] = _laid_out_like(
                parameters[int(number)], value
            )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment in its parameter's memory format; in another one Adam leaves its fast path."""
    if value.shape != parameter.shape:
        return value  # Adam's step counter
    return torch.empty_like(parameter).copy_(value)
