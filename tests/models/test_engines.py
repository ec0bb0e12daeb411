"""Every way to run a network says the same; `auto` takes what the machine has."""

import ctypes
import sys

import numpy as np
import pytest
import torch

from chestmap.errors import BadInput
from chestmap.models import engines as module
from chestmap.models.engines import ForwardSettings, chosen, open_forward
from chestmap.models.folder import open_model
from training.small import METHODS

FP32 = ForwardSettings(device="cpu", precision=32)


@pytest.fixture(scope="module")
def model(run_folder):
    return open_model(run_folder / "model", METHODS)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def wanted(model, images):
    with torch.no_grad():
        output = model.network(images)
    return output.logits.numpy(), output.maps.numpy()


def test_torch_folds_and_leaves_the_network_alone(model, images, wanted):
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    forward = open_forward(model, FP32.model_copy(update={"engine": "torch"}))
    for found, expected in zip(forward(images), wanted, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_graph_engines_agree_for_every_batch_and_keep_their_graph(engine, model, images, wanted, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
    monkeypatch.setenv("CHESTMAP_CACHE", str(cache := tmp_path / "cache"))
    for _ in range(2):
        forward = open_forward(model, FP32.model_copy(update={"engine": engine}))
        for count in (3, 1):
            for found, expected in zip(forward(images[:count]), wanted, strict=True):
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5)
        monkeypatch.setattr("chestmap.models.graph.write_onnx", None)  # the second time it is there
    assert len(list((cache / "graphs").iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are read through glibc")
def test_openvino_leaves_the_threads_signal_stack_as_it_was(model, tmp_path, monkeypatch):
    """Models dropped in the order in which they were opened left it in memory that was gone, and the next signal was the end."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("CHESTMAP_CACHE", str(tmp_path))

    def signal_stack():
        stack = (ctypes.c_size_t * 3)()
        assert ctypes.CDLL(None).sigaltstack(None, stack) == 0
        return stack[0], ctypes.c_int(stack[1]).value, stack[2]  # where, flags, how large

    before = signal_stack()
    first, second = (open_forward(model, FP32.model_copy(update={"engine": "openvino"})) for _ in range(2))
    del first
    assert signal_stack() == before
    del second
    assert signal_stack() == before


@pytest.mark.slow
@pytest.mark.parametrize("precision", [32, "bf16"])
def test_compiled_agrees(precision, model, images, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    forward = open_forward(model, FP32.model_copy(update={"engine": "compile", "precision": precision}))
    for found, expected in zip(forward(images), wanted, strict=True):
        near = 1e-5 if precision == 32 else 0.05
        np.testing.assert_allclose(found, expected, rtol=near, atol=near)


def test_bf16_is_near(model, images, wanted):
    forward = open_forward(model, ForwardSettings(device="cpu", precision="bf16", engine="torch"))
    logits, maps = forward(images)
    assert 0 < np.abs(logits - wanted[0]).max() < 0.05
    assert np.abs(maps - wanted[1]).max() < 0.05 * wanted[1].max()
    assert logits.dtype == maps.dtype == np.float32


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16"), (False, 32)])
def test_auto_takes_bf16_where_the_processor_has_tiles(monkeypatch, amx, precision):
    monkeypatch.setattr(module, "has_cuda", lambda: False)
    monkeypatch.setattr(module, "processor_flags", lambda: {"amx_tile", "amx_bf16"} if amx else set())
    assert chosen(ForwardSettings(precision="auto"))[1:] == ("cpu", precision)
    assert chosen(ForwardSettings()) == ("torch", "cpu", 32)  # what moves boxes is not taken unasked


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "has_cuda", lambda: False)
    with pytest.raises(BadInput, match='device "cuda"'):
        chosen(ForwardSettings(device="cuda"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "onnx", "precision": "bf16"}, "computes in fp32"),
        ({"engine": "openvino", "device": "cuda"}, "runs on the CPU"),
    ],
)
def test_what_an_engine_cannot(settings, message, monkeypatch):
    monkeypatch.setattr(module, "has_cuda", lambda: True)
    with pytest.raises(BadInput, match=message):
        chosen(ForwardSettings(**settings))


def test_a_library_that_is_not_installed(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BadInput, match=r"openvino is not installed; pip install .chestmap\[infer\]"):
        open_forward(model, ForwardSettings(engine="openvino", device="cpu"))
