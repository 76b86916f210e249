import dataclasses
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from family import tiny_model, tiny_twins
from safetensors.torch import save_file

from vidsr.errors import ModelError
from vidsr.evaluation.evaluate import read_picture
from vidsr.evaluation.metrics import to_tensor
from vidsr.models import card as card_module
from vidsr.models.card import ModelCard
from vidsr.models.compact import Compact, CompactOptions
from vidsr.models.load import (
    Weights,
    build,
    check,
    describe,
    find_twin,
    load,
    load_mixed,
    read_state,
    resolve,
)
from vidsr.models.rrdb import RRDBNet, RRDBOptions
from vidsr.models.srgan import MSRResNet, SRGANGenerator, SRGANOptions

NETWORKS = {
    "compact": Compact(CompactOptions(scale=3, channels=6, blocks=2)),
    "compact-x2": Compact(CompactOptions(scale=2, channels=5, blocks=1)),
    "srgan": SRGANGenerator(SRGANOptions(scale=4, channels=4, blocks=2)),
    "srgan-x3": SRGANGenerator(SRGANOptions(scale=3, channels=4, blocks=1)),
    "msrresnet": MSRResNet(SRGANOptions(scale=4, channels=4, blocks=2)),
    "msrresnet-x2": MSRResNet(SRGANOptions(scale=2, channels=4, blocks=1)),
    "rrdb": RRDBNet(RRDBOptions(scale=4, channels=8, blocks=2, growth=4)),
    "rrdb-x2": RRDBNet(RRDBOptions(scale=2, channels=8, blocks=1, growth=4)),
}


def save_bare(state, path):
    torch.save(state, path)
    return path


def save_under(key):
    return lambda state, path: save_bare({key: state}, path)


def save_parallel(state, path):
    return save_bare({"params": {f"module.{k}": v for k, v in state.items()}}, path)


def save_safe(state, path):
    path = path.with_suffix(".safetensors")
    save_file(state, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    """A small public-style checkpoint."""
    return save_bare(NETWORKS["compact"].state_dict(), tmp_path / "net.pth")


@pytest.mark.parametrize("save", [save_bare, save_under("params"), save_parallel, save_safe])
@pytest.mark.parametrize("name", NETWORKS)
def test_public_checkpoints_are_recognized_and_give_the_same_picture(tmp_path, name, save):
    original = NETWORKS[name].eval()
    card, path = resolve(str(save(original.state_dict(), tmp_path / "net.pth")))
    assert card.network == name.split("-")[0]
    assert {"scale": card.scale, **card.sizes} == dataclasses.asdict(original.options)
    assert card.halo == min(original.reach, 64)
    network = load(card, path)
    assert not network.training
    picture = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        assert torch.equal(network(picture), original(picture))


def test_averaged_weights_are_preferred(tmp_path):
    ours = NETWORKS["compact"].state_dict()
    others = {key: torch.zeros_like(value) for key, value in ours.items()}
    path = save_bare({"params": others, "params_ema": ours}, tmp_path / "net.pth")
    assert torch.equal(read_state(path)["body.0.weight"], ours["body.0.weight"])


def test_half_precision_checkpoints_are_loaded_as_fp32(tmp_path):
    state = {key: value.half() for key, value in NETWORKS["srgan"].state_dict().items()}
    for save in (save_bare, save_safe):
        network = load(*resolve(str(save(state, tmp_path / "net.pth"))))
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        for key, value in network.state_dict().items():
            assert torch.equal(value, state[key].float())


def test_animevideov3_gives_what_ncnn_gives(shared: Path, record_property):
    ncnn = pytest.importorskip("ncnn", reason="needs ncnn (extra: test)")
    path = shared / "peers" / "realesr-animevideov3.pth"
    card, _ = resolve(str(path))
    assert (card.network, card.scale) == ("compact", 4)
    assert card.sizes == {"channels": 64, "blocks": 16}
    picture = to_tensor(read_picture(shared / "bench" / "Set5" / "img_001.png")[100:148, 100:164])
    with torch.inference_mode():
        ours = load(card, path)(picture)[0].numpy()

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(path.with_name("realesr-animevideov3-x4.param")))
    net.load_model(str(path.with_name("realesr-animevideov3-x4.bin")))
    extractor = net.create_extractor()
    planes = np.ascontiguousarray(picture[0].numpy())  # ncnn borrows its memory
    extractor.input("data", ncnn.Mat(planes))
    _, output = extractor.extract("output")

    psnr = -10 * np.log10(np.mean((ours - np.array(output)) ** 2))
    record_property("psnr", psnr)
    print(f"vidsr against ncnn: {psnr:.1f} dB")  # noqa: T201 - shown by pytest -rP
    assert psnr >= 60  # the .bin holds fp16 weights; 76 dB were measured


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (trace,))

    for number, content in enumerate([Attack(), {"params": {"body.0.weight": Attack()}}]):
        path = tmp_path / f"attack{number}.pth"
        torch.save(content, path)
        with pytest.raises(ModelError, match="not a checkpoint that is safe to load"):
            describe(path)
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ModelError):
            describe(path)
    assert not trace.exists()


def test_weights_of_another_hash_are_refused(checkpoint):
    card = dataclasses.replace(describe(checkpoint), sha256="f" * 64)
    with pytest.raises(ModelError, match=r"not those of the card.*ffffffffffff"):
        load(card, checkpoint)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, suffix):
    save = save_safe if suffix == ".safetensors" else save_bare
    whole = save(NETWORKS["srgan"].state_dict(), tmp_path / "whole.pth").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for length in [0, 1, 7, 8, 100, 1000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=f"cut{suffix}"):
            describe(path)


def test_altered_files_raise_nothing_but_model_errors(tmp_path, checkpoint):
    whole = np.frombuffer(checkpoint.read_bytes(), np.uint8)
    pickled = np.frombuffer(pickle.dumps({"a": [1, 2.5, "text"]}), np.uint8)
    rng = np.random.default_rng(3)
    path = tmp_path / "altered.pth"
    for original in [whole] * 60 + [pickled] * 60:
        altered = original.copy()
        altered[rng.integers(0, len(altered), 8)] = rng.integers(0, 256, 8, dtype=np.uint8)
        path.write_bytes(altered.tobytes())
        with suppress(ModelError):
            load(describe(path), path)


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors", "folder.pth"])
def test_missing_files_are_named(tmp_path, name):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelError, match=name):
        resolve(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_is_not_a_checkpoint(tmp_path, suffix):
    path = tmp_path / f"notes{suffix}"
    path.write_text("Dear weights,\nwhere are you?\n" * 9)
    with pytest.raises(ModelError, match="is not a"):
        describe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors"),
        ([1, 2], "holds no tensors"),
        ({"epoch": 3}, "more than named tensors"),
        ({"weight": torch.zeros(3)}, "not a network that vidsr knows"),
        ({"head.0.weight": torch.zeros(0, 3, 9, 9)}, "not a network that vidsr knows"),
        # Names that claim millions of layers must cost nothing.
        ({"body.0.weight": torch.zeros(4, 3, 3, 3), "body.99999999999.weight": torch.zeros(9)},
         "not a network that vidsr knows"),
        ({"head.0.weight": torch.zeros(4, 3, 9, 9), "upsample.0.0.weight": torch.zeros(16, 4, 3, 3),
          "trunk.99999999999.conv1.weight": torch.zeros(1)}, "more|another"),
    ],
)  # fmt: skip
def test_checkpoints_of_nothing_that_we_know_are_refused(tmp_path, content, message):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=message):
        load(describe(path), path)


def test_shapes_that_do_not_fit_are_shown(checkpoint):
    card = dataclasses.replace(describe(checkpoint), sizes={"channels": 8, "blocks": 2})
    with pytest.raises(ModelError, match=r"body\.0\.bias the file has \(6,\), the network \(8,\)"):
        load(card, checkpoint)
    card = dataclasses.replace(describe(checkpoint), sizes={"channels": 6, "blocks": 3})
    with pytest.raises(ModelError, match=r"no such tensor|the network \("):
        load(card, checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet"}, "unknown network 'resnet'; there are compact, srgan"),
        ({"sizes": {"depth": 3}}, "do not fit compact"),
        ({"sizes": {"channels": "many"}}, "do not fit compact"),
        ({"sizes": {"channels": -1}}, "do not fit compact"),
    ],
)
def test_cards_of_impossible_networks_are_refused(checkpoint, change, message):
    with pytest.raises(ModelError, match=message):
        build(dataclasses.replace(describe(checkpoint), **change))


def test_a_card_beside_the_weights_is_used(checkpoint):
    mine = dataclasses.replace(describe(checkpoint), summary="mine", half=False)
    mine.write(checkpoint.with_suffix(".json"))
    assert resolve(str(checkpoint)) == (mine, checkpoint)


# Mixing with a perceptual twin.


def weights_of(path, fidelity=1.0):
    return Weights(*resolve(str(path)), find_twin(path), fidelity)


def test_a_twin_is_the_file_of_its_name_beside_the_weights(tmp_path):
    path = tiny_twins(tmp_path, "net-x2", scale=2)
    twin = find_twin(path)
    assert twin.path == tmp_path / "net-x2-perceptual.safetensors"
    assert twin.card.name == "net-x2-perceptual"
    assert find_twin(twin.path) is None
    assert find_twin(tiny_model(tmp_path, "single-x2", scale=2)) is None


def test_a_public_checkpoint_without_cards_may_have_a_twin(tmp_path, checkpoint):
    save_bare(NETWORKS["compact"].state_dict(), tmp_path / "net-perceptual.pth")
    assert find_twin(checkpoint).card.network == "compact"


@pytest.mark.parametrize("fidelity", [0.25, 0.5, 0.9])
def test_mixed_weights_are_the_share_of_each_in_fp32(tmp_path, fidelity):
    path = tiny_twins(tmp_path, "net-x2", scale=2)
    ours, theirs = read_state(path), read_state(find_twin(path).path)
    mixed = load_mixed(weights_of(path, fidelity))
    assert not mixed.training
    for key, value in mixed.state_dict().items():
        exact = fidelity * ours[key].double() + (1 - fidelity) * theirs[key].double()
        assert value.dtype == torch.float32
        assert not value.requires_grad
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-7)


def test_weights_stored_in_half_precision_are_mixed_in_fp32(tmp_path):
    path = tiny_twins(tmp_path, "net-x2", scale=2)
    halves = []
    for one in (path, find_twin(path).path):
        halves.append({key: value.half() for key, value in read_state(one).items()})
        save_file(halves[-1], one)
        describe(one).write(one.with_suffix(".json"))
    for key, value in load_mixed(weights_of(path, 0.3)).state_dict().items():
        exact = 0.3 * halves[0][key].double() + 0.7 * halves[1][key].double()
        # Far below half precision's own step, which is 5e-4 of the value.
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("fidelity", "unread"), [(1.0, "net-x2-perceptual"), (0.0, "net-x2")])
def test_at_either_end_one_file_is_read_and_kept_exactly(tmp_path, fidelity, unread):
    path = tiny_twins(tmp_path, "net-x2", scale=2)
    weights = weights_of(path, fidelity)
    (tmp_path / f"{unread}.safetensors").write_bytes(b"damaged since")
    kept = path if fidelity else weights.twin.path
    for key, value in load_mixed(weights).state_dict().items():
        assert torch.equal(value, read_state(kept)[key])


@pytest.mark.parametrize("refuse", [check, load_mixed])
def test_a_twin_of_another_network_is_refused_with_both_shapes(tmp_path, refuse):
    tiny_model(tmp_path, "net-x2-perceptual", scale=2, channels=6)
    path = tiny_model(tmp_path, "net-x2", scale=2)
    with pytest.raises(
        ModelError, match=r"net-x2-perceptual\.safet.*body\.0\.bias is \(6,\) here and \(4,\) there"
    ):
        refuse(weights_of(path, 0.5))


def test_a_twin_that_is_not_wanted_may_be_of_another_network(tmp_path):
    tiny_model(tmp_path, "net-x2-perceptual", scale=2, channels=6)
    check(weights_of(tiny_model(tmp_path, "net-x2", scale=2), 1.0))


@pytest.mark.parametrize("name", ["net-x2", "net-x2-perceptual"])
@pytest.mark.parametrize("refuse", [check, load_mixed])
def test_a_damaged_half_of_a_mixture_is_refused(tmp_path, refuse, name):
    weights = weights_of(tiny_twins(tmp_path, "net-x2", scale=2), 0.5)
    with (tmp_path / f"{name}.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=rf"{name}\.safetensors: the weights are not those of"):
        refuse(weights)


def test_a_mixture_may_run_in_half_precision_if_both_may(tmp_path):
    weights = weights_of(tiny_twins(tmp_path, "net-x2", scale=2), 0.5)
    may = dataclasses.replace(weights, card=dataclasses.replace(weights.card, half=True))
    assert not may.half
    assert dataclasses.replace(may, fidelity=1.0).half


def test_shipped_models_are_resolved_by_name(tmp_path, monkeypatch):
    path = save_safe(NETWORKS["srgan"].state_dict(), tmp_path / "good.pth")
    describe(path).write(tmp_path / "good.json")
    monkeypatch.setattr(card_module, "weights_dir", lambda: tmp_path)
    card, found = resolve("good")
    assert isinstance(card, ModelCard)
    assert found == path
    assert build(card).options == NETWORKS["srgan"].options
    with pytest.raises(ModelError, match="did you mean good"):
        resolve("goood")


def header(text, length=None):
    """A safetensors file of this header: its length in eight bytes, then JSON."""
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("{}", 2**63),
        header("{}", 2**40),
        header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}'),
        header('{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'),
        header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}') + bytes(4),
        header('{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        header("[" * 100_000),
        header('{"a":' * 50_000),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    ],
    ids=range(10),
)
def test_absurd_headers_are_refused_before_memory_is_taken(tmp_path, content):
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"absurd.safetensors"):
        describe(path)
