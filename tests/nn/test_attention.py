"""The foreground attention block against loops over channels and positions."""

import numpy as np
import pytest
import torch

from chestmap.nn.attention import ForegroundAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_by_hand(block, x):
    """Softmax over positions of a 1x1 convolution, weighted mean, squeeze and excite, times a 1x1 convolution."""
    part = {name: value.detach().numpy() for name, value in block.named_parameters()}
    score, project = part["position_score.weight"][0, :, 0, 0], part["project.weight"][:, :, 0, 0]
    channels, h, w = x.shape
    e = np.exp([[sum(score[c] * x[c, i, j] for c in range(channels)) for j in range(w)] for i in range(h)])
    squeezed = np.array([(x[c] * e / e.sum()).sum() for c in range(channels)])
    excited = sigmoid(part["excite.2.weight"] @ np.maximum(part["excite.0.weight"] @ squeezed, 0))
    return np.stack([excited[d] * sum(project[d, c] * x[c] for c in range(channels)) for d in range(channels)])


def position_by_hand(block, x):
    """z times the sigmoid of a batch-normalized 3x3 convolution of z (batch norm in evaluation)."""
    part = {name: value.detach().numpy() for name, value in block.state_dict().items()}
    z = sum(part["reduce.weight"][0, c, 0, 0] * x[c] for c in range(len(x)))
    padded, gate = np.pad(z, 1), np.zeros(z.shape)
    for i, j in np.ndindex(z.shape):
        gate[i, j] = (padded[i : i + 3, j : j + 3] * part["gate.0.weight"][0, 0]).sum()
    scaled = (gate - part["gate.1.running_mean"]) / np.sqrt(part["gate.1.running_var"] + 1e-5)
    return z * sigmoid(scaled * part["gate.1.weight"] + part["gate.1.bias"])


@pytest.fixture
def x():
    return torch.randn(2, 16, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(kind):
    torch.manual_seed(1)
    block = ForegroundAttention(16, kind).double().eval()
    if block.position is not None:
        block.scale.data.fill_(0.7)
        norm = block.position.gate[1]
        norm.running_mean.fill_(0.1)
        norm.running_var.fill_(0.5)
        norm.weight.data.fill_(1.5)
    return block


@pytest.mark.parametrize("kind", ["channel", "position", "both"])
def test_block_is_what_the_paper_says(kind, x):
    block = made(kind)
    got = block(x).detach().numpy()
    for b, one in enumerate(x.numpy()):
        weighed = one if kind == "position" else channel_by_hand(block.channel, one)
        wanted = weighed if kind == "channel" else one + 0.7 * position_by_hand(block.position, weighed)[None]
        np.testing.assert_allclose(got[b], wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["channel", "position", "both"])
def test_gradients(kind, x):
    assert torch.autograd.gradcheck(made(kind), x[:1, :, :3, :3].requires_grad_())


def test_block_starts_as_the_identity_and_still_learns(x):
    block = ForegroundAttention(16, "both").double()
    out = block(x)
    torch.testing.assert_close(out, x)
    out.square().sum().backward()
    assert block.scale.grad.abs().item() > 0


def test_channels_last_gives_the_same(x):
    block = made("both")
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last)), block(x))


def test_few_channels_keep_one_to_squeeze_into(x):
    assert ForegroundAttention(4, "both").channel.excite[0].out_features == 1
