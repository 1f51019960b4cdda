"""Frames of a video file by their times, decoded in one go where they follow each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

_MAX_SKIPPED_SECONDS = 1.0
_LAST_TICK = 2.0**62


class VideoFile:
    """One video, opened for reading: a local file in an MP4 container and nothing that it points to.

    Frames that are asked for one after another are decoded without seeking; for any other time the decoder
    goes to the keyframe before it.

    Args:
        path: the file.
        shape: (H, W, 3) of its frames.

    Raises:
        ValueError: it is missing, damaged, no MP4, or of other frames.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = tuple(shape)
        try:
            # By name, so that a playlist called .mp4 opens nothing else.
            self._container = av.open(str(path), format="mp4", options={"protocol_whitelist": "file"})
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise ValueError(f"{path} is damaged or no MP4 video: {_line(error)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path} holds no video")
        self._stream: Any = self._container.streams.video[0]
        self._base = float(self._stream.time_base or 0)
        # A stream in an unknown codec has no size.
        size = (getattr(self._stream, "height", 0), getattr(self._stream, "width", 0))
        if size != self.shape[:2] or self._base <= 0:
            self._container.close()
            raise ValueError(
                f"{path} has frames of {size[0]}x{size[1]}; {shape[0]}x{shape[1]} were announced"
            )
        self._frames: Iterator[Any] = iter(())
        self._held: Any = None  # the last frame decoded, not yet passed

    def read(
        self, times: Float[np.ndarray, " row"], tolerance: float
    ) -> UInt8[np.ndarray, "row height width 3"]:
        """The frames at `times` [s], which ascend; of two equally near, the earlier.

        Args:
            times: when the frames are shown.
            tolerance: how far from its time a frame may be [s].

        Raises:
            ValueError: the video has no frame at a time, or is damaged.
        """
        out = np.empty((len(times), *self.shape), np.uint8)
        try:
            for row, time in enumerate(times):
                out[row] = self._at(float(time), tolerance)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path} is damaged: {_line(error)}") from error
        return out

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._held = None
        self._container.close()

    def _at(self, time: float, tolerance: float) -> UInt8[np.ndarray, "height width 3"]:
        if self._held is None or not (
            self._time(self._held) <= time + tolerance
            and time - self._time(self._held) <= max(_MAX_SKIPPED_SECONDS, tolerance)
        ):
            self._seek(time)
        while self._held is not None and self._time(self._held) < time - tolerance:
            self._held = next(self._frames, None)
        if self._held is None or self._time(self._held) > time + tolerance:
            raise ValueError(f"{self.path} has no frame at {time:.4f} s: it is cut off, or of another rate")
        frame = self._held.to_ndarray(format="rgb24")
        if frame.shape != self.shape:
            raise ValueError(f"{self.path} has a frame of {frame.shape} at {time:.4f} s, not {self.shape}")
        return frame

    def _seek(self, time: float) -> None:
        """Go to the last keyframe at or before `time`."""
        self._container.seek(
            round(min(max(0.0, time / self._base), _LAST_TICK)),
            stream=self._stream,
            backward=True,
            any_frame=False,
        )
        self._frames = (f for f in self._container.decode(self._stream) if f.pts is not None)
        self._held = next(self._frames, None)

    def _time(self, frame: Any) -> float:  # noqa: ANN401
        return float(frame.pts * self._base)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
