"""Under which names and in which form a source's columns go into a LeRobotDataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .extras import require
from .lerobot_layout import BOOKKEEPING
from .protocol import Column, Source
from .roles import camera_name, stored_names
from .video_encoding import ENCODERS

_REGENERATED = ("frame_index", "episode_index", "index")


@dataclass(frozen=True)
class Written:
    """One feature to write.

    Attributes:
        source: the source's name of the column.
        stored: its name in a native store.
        kept: "video", "image", "number" or "text".
        column: what a row of it is.
    """

    source: str
    stored: str
    kept: str
    column: Column

    @property
    def shape(self) -> list[int]:
        """Of a row, as info.json says it: scalars and texts are (1,)."""
        return list(self.column.shape) or [1]

    def entry(self, fps: float, encoder: str | None) -> dict[str, Any]:
        """The feature in info.json."""
        if self.kept == "text":
            return {"dtype": "string", "shape": [1], "names": None}
        if self.kept == "number":
            names = list(self.column.names) or None
            return {"dtype": self.column.dtype, "shape": self.shape, "names": names}
        feature: dict[str, Any] = {
            "dtype": self.kept,
            "shape": self.shape,
            "names": ["height", "width", "channels"],
        }
        if self.kept == "video" and encoder is not None:
            height, width, channels = self.column.shape
            feature["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": ENCODERS[encoder][0],
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": channels,
                "has_audio": False,
            }
        return feature


def features_of(
    source: Source, columns: Mapping[str, str] | None, *, images: bool, logged_timestamps: bool
) -> dict[str, Written]:
    """What is written, by LeRobot's names for it; its own bookkeeping columns are left to the writer.

    Args:
        source: where the columns are.
        columns: role to the source's name; `default_columns(source)` when None.
        images: keep frames losslessly, as PNG; otherwise as video where a video can be made of them.
        logged_timestamps: the source's `timestamp` is no multiple of 1 / fps, and goes along under a name
            of its own.

    Raises:
        ValueError: as `stored_names`; or a column's dtype has no place in the format.
    """
    features: dict[str, Written] = {}
    for name, stored in stored_names(source, columns).items():
        column = source.columns[name]
        if stored in _REGENERATED or stored == "task_index":
            continue
        if stored == "timestamp" and not logged_timestamps:
            continue
        kept = _kept(column, images)
        if kept == "number" and np.dtype(column.dtype).kind not in "biuf":
            raise ValueError(f"column {name!r} is {column.dtype}, which a LeRobotDataset cannot hold")
        wanted = _feature_name(name, stored, column)
        number, free = 2, wanted
        while free in features or free in BOOKKEEPING:
            free, number = f"{wanted}_{number}", number + 1
        features[free] = Written(name, stored, kept, column)
    return features


def arrow_schema(features: Mapping[str, Written]) -> Any:  # noqa: ANN401
    """The schema of the data files, with what the `datasets` package needs to read them."""
    import json

    pyarrow = require("pyarrow", "writing LeRobot datasets")
    fields, described = [], {}
    for name, feature in features.items():
        if feature.kept == "video":
            continue
        if feature.kept == "image":
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            described[name] = {"_type": "Image"}
        elif feature.kept == "text":
            kind, described[name] = pyarrow.string(), {"dtype": "string", "_type": "Value"}
        else:
            kind, described[name] = _number_type(pyarrow, feature)
        fields.append(pyarrow.field(name, kind))
    for name, dtype in BOOKKEEPING.items():
        fields.append(pyarrow.field(name, _leaf(pyarrow, dtype)))
        described[name] = {"dtype": dtype, "_type": "Value"}
    text = json.dumps({"info": {"features": described}})
    return pyarrow.schema(fields, metadata={"huggingface": text})


def _kept(column: Column, images: bool) -> str:
    if column.kind == "text":
        return "text"
    if column.kind != "image":
        return "number"
    height, width, channels = column.shape
    return "video" if not images and channels == 3 and height % 2 == width % 2 == 0 else "image"


def _feature_name(name: str, stored: str, column: Column) -> str:
    """LeRobot's customary name."""
    if column.kind == "image":
        if name.startswith("observation.image") and "/" not in name:
            return name
        if stored == "pixels":
            return f"observation.images.{'main' if name == 'pixels' else camera_name(name)}"
        return f"observation.images.{stored.removeprefix('pixels').lstrip('_.-') or stored}"
    if stored == "timestamp":
        return "logged_timestamp"
    return "observation.state" if stored == "proprio" else stored


def _number_type(pyarrow: Any, feature: Written) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    """Scalars plain, vectors as fixed-size lists, arrays as lists of lists."""
    shape, dtype = feature.shape, feature.column.dtype
    kind, described = _leaf(pyarrow, dtype), {"dtype": dtype, "_type": "Value"}
    if shape == [1]:
        return kind, described
    if len(shape) == 1:
        return pyarrow.list_(kind, shape[0]), {"feature": described, "length": shape[0], "_type": "List"}
    for _ in shape:
        kind = pyarrow.list_(kind)
    return kind, {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}


def _leaf(pyarrow: Any, dtype: str) -> Any:  # noqa: ANN401
    return pyarrow.bool_() if dtype == "bool" else pyarrow.from_numpy_dtype(np.dtype(dtype))
