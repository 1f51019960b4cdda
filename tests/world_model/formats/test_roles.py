"""Columns are taken for what labs call them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_plan.world_model.formats import Column, default_columns
from wm_plan.world_model.formats.roles import camera_name, safe_name, stored_names


@dataclass
class Named:
    """A source that has columns and no rows."""

    columns: dict[str, Column]
    info: dict[str, Any] = field(default_factory=dict)
    path: Path = Path("data")
    format: str = "somewhere"
    fps: float | None = None
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        raise ValueError("no rows")

    def close(self) -> None:
        """Nothing is open."""


def named(*names: str, **options: Any) -> Named:
    """Images where the name says so, vectors otherwise."""
    words = ("image", "pixels", "rgb", "cam", "img")
    return Named(
        {
            name: Column("uint8", (8, 8, 3), "image")
            if any(word in name for word in words)
            else Column("float32", (2,), "vector")
            for name in names
        },
        **options,
    )


@pytest.mark.parametrize(
    "names, roles",
    [
        (
            ("observation.images.wrist", "observation.images.cam_high", "observation.state", "action"),
            {
                "pixels": "observation.images.cam_high",
                "pixels_wrist": "observation.images.wrist",
                "action": "action",
                "proprio": "observation.state",
            },
        ),
        (
            ("actions", "obs/robot0_eye_in_hand_image", "obs/agentview_image", "obs/robot0_joint_pos"),
            {
                "pixels": "obs/agentview_image",
                "pixels_robot0_eye_in_hand": "obs/robot0_eye_in_hand_image",
                "action": "actions",
                "proprio": "obs/robot0_joint_pos",
            },
        ),
        (("img", "state", "action"), {"pixels": "img", "action": "action", "proprio": "state"}),
        (("observations", "rewards"), {"proprio": "observations"}),
        (("observation.image", "action"), {"pixels": "observation.image", "action": "action"}),
    ],
)
def test_columns_are_found_by_their_names(names: tuple[str, ...], roles: dict[str, str]) -> None:
    assert default_columns(named(*names)) == roles


def test_a_native_stores_names_are_its_roles() -> None:
    source = named("action", "pixels", "pixels_wrist", "state", "step", format="native")
    assert default_columns(source) == {"action": "action", "pixels": "pixels", "pixels_wrist": "pixels_wrist"}


def test_what_a_source_says_itself_goes_first() -> None:
    source = named("action", "pixels_a", "pixels_b", info={"roles": {"pixels": "pixels_b"}})
    assert default_columns(source) == {"pixels": "pixels_b"}
    source.info["roles"] = {"pixels": "gone"}
    assert default_columns(source)["pixels"] == "pixels_a"


def test_every_other_column_keeps_a_name_of_its_own() -> None:
    source = named("obs/a b", "obs_a_b", "7", "ep_len", "action")
    assert stored_names(source, {"action": "action"}) == {
        "obs/a b": "obs_a_b",
        "obs_a_b": "obs_a_b_2",
        "7": "_7",
        "ep_len": "ep_len_",
        "action": "action",
    }


def test_a_role_is_never_taken_by_another_column() -> None:
    source = named("pixels", "image")
    assert stored_names(source, {"pixels": "image"}) == {"pixels": "pixels_2", "image": "pixels"}


@pytest.mark.parametrize(
    "name, camera",
    [
        ("observation.images.wrist", "wrist"),
        ("obs/agentview_image", "agentview"),
        ("rgb_static", "static"),
        ("image", "image"),
        ("camera_left", "left"),
    ],
)
def test_cameras_are_called_what_the_column_says(name: str, camera: str) -> None:
    assert camera_name(name) == camera


def test_safe_names_stay_as_they_are() -> None:
    assert safe_name("observation.images.front-2_x") == "observation.images.front-2_x"
    assert safe_name("../../etc/passwd") == "_.._.._etc_passwd"
