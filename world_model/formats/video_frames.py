"""Frames of a video file by their numbers, exact for any codec and for rates that vary."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .extras import require

# Each by its own demuxer: a playlist that calls itself .mp4 would open other files.
DEMUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mp4",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
}
_MAX_PIXELS = 2**25
_SKIPPED_WITHOUT_SEEKING = 32


class VideoFrames:
    """One video; frames that are asked for one after another are decoded without seeking.

    Attributes:
        shape: (H, W, 3) of a frame.
        fps: frames a second [Hz], None where the file does not say.
        num_frames: as the file counts them.

    Raises:
        ValueError: the file is missing, damaged, or holds no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = require("av", "reading videos")
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._next = 0
        self._times: list[int] | None = None
        stream = self._open()
        # A stream in an unknown codec has no size.
        self.shape = (int(getattr(stream, "height", 0)), int(getattr(stream, "width", 0)), 3)
        if not 0 < self.shape[0] * self.shape[1] <= _MAX_PIXELS:
            self.close()
            raise ValueError(f"{path} has frames of {self.shape[0]} x {self.shape[1]}, which cannot be used")
        self.fps = float(stream.average_rate) if stream.average_rate else None
        self.num_frames = stream.frames or len(self._frame_times())

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "row height width 3"]:
        """Frames `start` to `stop`.

        Raises:
            ValueError: the video ends before, or is damaged.
        """
        frames = np.empty((stop - start, *self.shape), np.uint8)
        try:
            if self._container is None or not 0 <= start - self._next <= _SKIPPED_WITHOUT_SEEKING:
                self._seek(start)
            for number in range(self._next, stop):
                frame = next(self._frames, None)
                if frame is None:
                    raise ValueError(f"{self.path} ends after {number} frames; {stop} were expected")
                self._next = number + 1
                if number < start:
                    continue
                image = frame.to_ndarray(format="rgb24")
                if image.shape != self.shape:
                    raise ValueError(f"{self.path} changes to frames of {image.shape} at frame {number}")
                frames[number - start] = image
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._damaged(error) from error
        return frames

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self._frames = iter(())
        self._next = 0
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> Any:  # noqa: ANN401
        """Open the file anew, at its first frame; gives its video stream."""
        self.close()
        try:
            self._container = self._av.open(
                str(self.path),
                format=DEMUXERS[self.path.suffix.lower()],
                options={"protocol_whitelist": "file"},
            )
        except FileNotFoundError:
            raise ValueError(f"{self.path} does not exist") from None
        except (self._av.error.FFmpegError, ValueError, OSError) as error:
            raise self._damaged(error) from error
        if not self._container.streams.video:
            self.close()
            raise ValueError(f"{self.path} holds no video")
        stream = self._container.streams.video[0]
        self._frames = self._container.decode(stream)
        return stream

    def _seek(self, number: int) -> None:
        """Go to a frame before `number` or to it, so that `_next` is right."""
        times = self._frame_times() if number > _SKIPPED_WITHOUT_SEEKING else []
        stream = self._open()
        if number >= len(times) or len(set(times)) < len(times):
            return
        self._container.seek(times[number], stream=stream, backward=True)
        decoded = self._container.decode(stream)
        first = next(decoded, None)
        place = (
            np.searchsorted(times, first.pts) if first is not None and first.pts is not None else len(times)
        )
        if first is None or place > number or times[place] != first.pts:
            self._open()
            return
        self._frames = _chain(first, decoded)
        self._next = int(place)

    def _frame_times(self) -> list[int]:
        """Times of all frames in the order in which they are shown, in the stream's unit."""
        if self._times is None:
            stream = self._open()
            try:
                packets = self._container.demux(stream)
                self._times = sorted(
                    packet.pts for packet in packets if packet.size and packet.pts is not None
                )
            except (self._av.error.FFmpegError, OSError) as error:
                raise self._damaged(error) from error
            finally:
                self.close()
        return self._times

    def _damaged(self, error: BaseException) -> ValueError:
        line = " ".join(str(error).split())[:200]
        return ValueError(f"{self.path} is damaged or no video: {line}")


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:  # noqa: ANN401
    yield first
    yield from rest
