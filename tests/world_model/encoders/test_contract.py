"""What holds for every encoder, whoever made it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.dot_world import make_encoder
from tests.trajectories import write_store
from tests.world_model.encoders import test_published_files as files
from tests.world_model.encoders import test_transformers_encoders as library
from wm_plan.world_model import Encoder, TrajectoryStore, cached_latents, load_encoder
from wm_plan.world_model.compact import CompactConfig, CompactWorldModel
from wm_plan.world_model.encoders.published import PublishedEncoder
from wm_plan.world_model.metadata import ModelMetadata


def of_the_library(kind: str) -> Callable[[Path], Encoder]:
    def make(folder: Path) -> Encoder:
        library.write_model(kind, folder / kind)
        return library.load(kind, folder / kind)

    return make


ENCODERS: dict[str, Callable[[Path], Encoder]] = {
    "ours": lambda _: make_encoder(),
    "pixels": lambda _: load_encoder("pixels", image_size=48),
    "efficientnet-lite0": lambda _: load_encoder("efficientnet-lite0", image_size=64),
    "V-JEPA 2-AC": lambda _: files.load(files.AC),
    "V-JEPA 2.1": lambda _: files.load(files.V21),
    "V-JEPA 1": lambda _: files.load(files.V1),
    **{kind: of_the_library(kind) for kind in library.MODELS},
}
PUBLISHED = [name for name in ENCODERS if name != "ours"]


def some_frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_says_truly_what_it_gives(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    assert isinstance(encoder, Encoder)
    for steps in (1, 4):
        frames = some_frames(2, steps, 60, 80)
        before = frames.copy()
        pixels = encoder.preprocess(frames)
        assert pixels.shape == (2, steps, 3, encoder.image_size, encoder.image_size)
        assert pixels.dtype == torch.float32
        tokens = encoder(pixels)
        times = max(1, steps // encoder.tubelet_size)
        assert tokens.shape == (2, times * encoder.grid_size**2, encoder.width)
        assert tokens.dtype == torch.float32
        assert torch.isfinite(tokens).all()
        assert not tokens.requires_grad
        np.testing.assert_array_equal(frames, before)
    assert encoder.preprocessing.image_size == encoder.image_size


@pytest.mark.parametrize("name", ENCODERS)
def test_a_clip_does_not_heed_its_neighbours_in_the_batch(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    pixels = encoder.preprocess(some_frames(3, 2, 64, 64))
    torch.testing.assert_close(encoder(pixels)[1:2], encoder(pixels[1:2]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_saved_loads_again_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    encoder.save(tmp_path / "saved")
    loaded = load_encoder(tmp_path / "saved")
    assert (loaded.name, loaded.fingerprint) == (encoder.name, encoder.fingerprint)
    pixels = encoder.preprocess(some_frames(1, 2, 64, 64))
    assert torch.equal(loaded(pixels), encoder(pixels))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_fingerprint_changes_with_weights_and_with_preprocessing(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    encoder.save(tmp_path / "saved")
    fraction = encoder.preprocessing.image_size / encoder.preprocessing.resize
    cropped = load_encoder(tmp_path / "saved", crop_fraction=fraction / 2)
    assert cropped.fingerprint != encoder.fingerprint
    weights = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(weights)
    if tensors:
        last = sorted(tensors)[-1]
        save_file({**tensors, last: tensors[last] + 1}, weights)
        assert load_encoder(tmp_path / "saved").fingerprint != encoder.fingerprint


@pytest.mark.parametrize("name", ["V-JEPA 2-AC", "dinov2", "efficientnet-lite0", "vjepa2"])
def test_half_precision_is_near_and_has_its_own_fingerprint(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    encoder.save(tmp_path / "saved")
    half = load_encoder(tmp_path / "saved", dtype="bfloat16")
    pixels = encoder.preprocess(some_frames(1, 2, 64, 64))
    whole, rounded = encoder(pixels), half(pixels)
    assert rounded.dtype == torch.float32
    assert half.fingerprint != encoder.fingerprint
    difference = (whole - rounded).square().mean() / whole.var()
    assert 0 < difference < 0.02


@pytest.mark.parametrize("name", ENCODERS)
def test_latents_are_cached_and_a_world_model_stands_on_any_encoder(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name](tmp_path)
    store = TrajectoryStore(write_store(tmp_path / "data", 2))
    latents = cached_latents(encoder, store)
    assert latents.shape == (store.num_rows, encoder.grid_size**2, encoder.width)
    metadata = ModelMetadata("dots", 1, 0.1, 40, "fixed", [-1.0], [1.0])
    model = CompactWorldModel(encoder, CompactConfig(latent_dim=4, head_width=16), metadata)
    model.save(tmp_path / "model")
    loaded = CompactWorldModel.load(tmp_path / "model")
    frames = some_frames(1, 2, 40, 40)
    torch.testing.assert_close(loaded.encode(frames), model.encode(frames), atol=0.05, rtol=0.05)
    assert loaded.encoder.fingerprint == encoder.fingerprint


def test_options_that_mean_nothing_to_an_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads does not apply to the encoder 'small'"):
        load_encoder("small", num_heads=3)
    with pytest.raises(ValueError, match="Unknown option 'size'; options are: device, dtype, image_size"):
        load_encoder("small", size=3)
    with pytest.raises(ValueError, match="dtype is 'int8'; it must be one of: float32"):
        load_encoder("pixels", dtype="int8")
    with pytest.raises(ValueError, match="image_size 100 is no multiple of the patch size 12; try 96"):
        load_encoder("pixels", image_size=100)
    with pytest.raises(ValueError, match=r"layers are \(17,\); the encoder's layers are 0 to 16"):
        load_encoder("efficientnet-lite0", layers=[17])


@pytest.mark.parametrize("key", ["family", "architecture", "preprocessing"])
def test_a_damaged_card_is_said_in_one_line(key: str, tmp_path: Path) -> None:
    import json

    files.load(files.AC).save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    config["card"][key] = {"nonsense": 1} if key != "family" else "nonsense"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"damaged|Unknown family") as error:
        load_encoder(tmp_path / "saved")
    assert "\n" not in str(error.value)


def test_a_published_encoder_stays_frozen(tmp_path: Path) -> None:
    encoder = ENCODERS["dinov2"](tmp_path)
    assert isinstance(encoder, PublishedEncoder)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
