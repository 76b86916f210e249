import errno
import stat

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vidsr.errors import MediaError, ModelError
from vidsr.training import checkpoint


def trained_network():
    """A convolution in channels_last after two steps of Adam, and its optimizer."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.rand(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return network, optimizer


def test_tensors_and_facts_survive(tmp_path):
    tensors = {"a": torch.rand(2, 3), "b": torch.arange(4).t()}
    checkpoint.save(tmp_path / "run" / "checkpoint", tensors, {"step": 3, "log": [{"loss": 0.1}]})
    loaded, facts = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert facts == {"step": 3, "log": [{"loss": 0.1}]}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint.json", "checkpoint.safetensors"]


def test_others_may_read_what_is_written(tmp_path):
    checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.safetensors", "plain")]
    assert modes[0] == modes[1]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})

    def write_half(part, content):
        with part.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", write_half)
    with pytest.raises(MediaError, match=r"No space left on device.*untouched"):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": 2})
    tensors, facts = checkpoint.load(path)
    assert facts == {"step": 1}
    assert torch.equal(tensors["a"], torch.ones(2))
    assert not list(tmp_path.glob("*.part"))


def test_an_optimizer_is_put_back_with_its_memory_format():
    network, optimizer = trained_network()
    fresh = torch.optim.Adam(network.parameters(), lr=0.01)
    stored = {
        k: v.clone().contiguous()
        for k, v in checkpoint.optimizer_tensors("adam", optimizer).items()
    }
    checkpoint.restore_optimizer("adam", fresh, stored)
    for weight in network.parameters():
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(fresh.state[weight][moment], optimizer.state[weight][moment])
        assert fresh.state[weight]["exp_avg"].stride() == weight.stride()


def test_a_network_is_put_back_and_another_one_refused():
    network, _ = trained_network()
    tensors = checkpoint.network_tensors("network", network)
    tensors |= {"network2/weight": torch.zeros(1)}
    fresh = nn.Conv2d(3, 4, 3)
    checkpoint.restore_network("network", fresh, tensors)
    assert torch.equal(fresh.weight, network.weight)
    with pytest.raises(
        ModelError, match=r"another network: for network/bias it has \(4,\), this training \(5,\)"
    ):
        checkpoint.restore_network("network", nn.Conv2d(3, 5, 3), tensors)


def test_missing_foreign_and_damaged_checkpoints_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no checkpoint to resume from"):
        checkpoint.load(tmp_path / "gone")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "foreign")
    checkpoint.save(tmp_path / "cut", {"a": torch.zeros(99)}, {})
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-9])
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "cut")
