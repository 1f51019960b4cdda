"""What is trained beside a model: a run that was stopped goes on as if it had not been."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.dot_world import write_dots
from tests.world_model import test_action_decoder, test_decoder, test_policy_prior
from tests.world_model.test_policy_prior import make_dots
from tests.world_model.test_token_model import make_model as make_tokens
from wm_plan.world_model import TrajectoryStore, train_action_decoder, train_decoder, train_prior
from wm_plan.world_model.beside import has_beside

KINDS = {
    "decoder": (train_decoder, test_decoder.make_config, make_tokens),
    "prior": (train_prior, test_policy_prior.make_config, make_dots),
    "action_decoder": (train_action_decoder, test_action_decoder.make_config, make_dots),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_training_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    train, make_config, make_model = KINDS[name]
    model, store = make_model(), TrajectoryStore(write_dots(tmp_path / "data"))
    config = make_config(save_every=4, log_every=3)
    train(model, store, tmp_path / "whole", config)

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if metrics and done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, store, tmp_path / "stopped", config, progress=stop)
    assert not has_beside(tmp_path / "stopped", name)
    train(model, store, tmp_path / "stopped", config, resume=True)
    for file in ("model.safetensors", "metrics.jsonl"):
        whole, stopped = ((tmp_path / run / name / file).read_bytes() for run in ("whole", "stopped"))
        assert whole == stopped
    with pytest.raises(ValueError, match=f"was trained with width {config.width}, not 16"):
        train(model, store, tmp_path / "stopped", replace(config, width=16), resume=True)
