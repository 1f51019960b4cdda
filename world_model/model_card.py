"""The card of a world model: what it is of, what it was trained on, how well it did, where it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .weights_io import load_folder

CARD_NAME = "README.md"


def model_card(folder: Path, name: str) -> str:
    """Markdown with YAML front matter, from what the checkpoint says of itself.

    Args:
        folder: of a world model.
        name: by which it is loaded, such as an id of the hub.

    Raises:
        ValueError: the folder holds no world model.
    """
    config, tensors = load_folder(folder, "world-model")
    metadata, encoder = config["metadata"], config["encoder"]
    training = metadata.get("training") or {}
    env = str(metadata["env_name"])
    errors = metadata.get("open_loop_error") or []
    size = sum(tensor.numel() for tensor in tensors.values())
    tags = ["wm-plan", "world-model", "model-predictive-control", env]
    family, views = config.get("family", "compact"), ", ".join(metadata.get("views", ["pixels"]))
    steps, actions = metadata["frame_skip"], metadata.get("action_block", 1)
    felt, seconds = metadata.get("proprio_dim", 0), metadata["control_timestep"]
    lines = [
        "---",
        "library_name: wm-plan",
        "pipeline_tag: robotics",
        f"tags: {json.dumps(tags)}",
        *_index(name, env, errors),
        "---",
        "",
        f"# {name}: a world model of {env}",
        "",
        f"A frozen video encoder ({encoder['name']}) and a predictor ({family}, {size:,} numbers)",
        "that imagines what actions lead to: a planner searches for those that lead to a goal picture.",
        "",
        "```python",
        "import wm_plan",
        "",
        f"controller = wm_plan.load({json.dumps(name)})",
        "controller.set_goal(goal_image)",
        'action = controller.act({"pixels": image})',
        "```",
        "",
        "## What it sees and does",
        "",
        f"- task: {env}; camera {metadata['camera'] or 'unnamed'}, views {views}",
        f"- frames of {metadata['image_size']} pixels a side; numbers of proprio: {felt}",
        f"- a model step is {steps} env steps of {seconds:g} s; actions in it: {actions}",
        f"- actions from {_numbers(metadata['action_low'])}",
        f"  to {_numbers(metadata['action_high'])}, env units",
        "",
        "## Data",
        "",
        *_data(training),
        "",
        "## Metrics, on held-out episodes",
        "",
        *_metrics(metadata, errors),
        "",
        "## Limits",
        "",
        f"It knows {env} as the logs above show it, and nothing else: another camera, another robot or",
        "looks that were not logged need logs and training of their own. wm-plan warns where a picture is",
        "unlike the training frames; that is a hint and no guarantee. How often the model",
        "reaches a goal is for `wm-eval` to say.",
        "",
    ]
    return "\n".join(lines)


def _index(name: str, env: str, errors: Sequence[float]) -> list[str]:
    """The metrics as the hub reads them."""
    if not errors:
        return []
    task = {"type": "robotics", "name": "open-loop prediction"}
    what = f"error after {len(errors)} imagined steps, of the variance"
    metric = {"type": "mse", "value": errors[-1], "name": what}
    return [
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        f"  - task: {json.dumps(task)}",
        f"    dataset: {json.dumps({'name': f'{env}, held-out episodes', 'type': env})}",
        f"    metrics: {json.dumps([metric])}",
    ]


def _data(training: dict[str, Any]) -> list[str]:
    episodes = training.get("episodes")
    counted = (
        [f"{episodes['train']} episodes to train on, {episodes['held_out']} held out."] if episodes else []
    )
    known = ("env", "policy", "num_steps", "seed", "source")
    logs = [
        "- " + ", ".join(f"{key} {recipe[key]}" for key in known if recipe.get(key) not in (None, ""))
        for recipe in training.get("data") or []
    ]
    before = [f"Fine-tuned from a model of {_before(training)}."] if "from" in training else []
    return [*counted, *logs, *before] or ["It is not known what it was trained on."]


def _before(training: dict[str, Any]) -> str:
    recipes = (training.get("from") or {}).get("data") or [{}]
    return str(recipes[0].get("env", "an unknown task"))


def _metrics(metadata: dict[str, Any], errors: Sequence[float]) -> list[str]:
    chosen = sorted({1, 5, len(errors)} & set(range(1, len(errors) + 1)))
    rows = [f"| after {step} imagined step(s) | {errors[step - 1]:.2%} |" for step in chosen]
    missed = metadata.get("reach_error_rate", 0.0)
    judged = f"Reached or not is misjudged in {missed:.1%} of close pairs of frames."
    header = ["| squared error of imagined latents | of their variance |", "|---|---|"]
    return [*(header + rows + [""] if rows else []), judged]


def _numbers(values: Sequence[float]) -> str:
    return json.dumps([round(float(value), 4) for value in values])
