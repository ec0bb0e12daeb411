"""On a GPU: half precision agrees, its loss scaling survives an interruption, and the same bits come where they are asked for."""

import pytest
import torch

from chestmap.training import Run
from chestmap.training.optimization.loop import Loop
from training.small import Classify, Net, run_settings
from training.test_run import ONE, log_of, weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SCHEDULE = ONE.model_copy(update={"epochs": 4, "clip": 1.0, "ema": 0.9})


def trained(folder, data, *overrides):
    with Run(folder, run_settings("device=cuda", "log_every=1", *overrides), progress=False) as run:
        return run.fit("learn", Classify(Net(dropout=0.0)), data.train, SCHEDULE, data.validation)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_with_single(data, tmp_path, precision):
    trained(tmp_path / "single", data, "tf32=false")
    trained(tmp_path / "half", data, f"precision={precision}")
    one, other = (log_of(tmp_path / name, "classify") for name in ("single", "half"))
    assert [value for *_, value in one] == pytest.approx([value for *_, value in other], rel=0.03)


@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
def test_an_interrupted_run_gives_the_same_bits(data, tmp_path, monkeypatch, precision):
    overrides = ("deterministic=true", f"precision={precision}")
    trained(tmp_path / "whole", data, *overrides)
    real = Loop._update

    def interrupted(loop):
        real(loop)
        if loop.at.update == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "again", data, *overrides)
    trained(tmp_path / "again", data, *overrides)
    one, other = weights(tmp_path / "whole" / "1-learn"), weights(tmp_path / "again" / "1-learn")
    assert all(torch.equal(one[name], other[name]) for name in one)
