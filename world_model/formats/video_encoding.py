"""Writing MP4 files as LeRobot does, with a keyframe every other frame, and joining them as they are."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import numpy as np
from jaxtyping import UInt8

# name of the encoder: (name of the codec, its options)
ENCODERS = {
    "libsvtav1": ("av1", {"g": "2", "crf": "30"}),
    "libx264": ("h264", {"g": "2", "crf": "18", "bf": "0"}),
}


def frame_rate(fps: float) -> Fraction:
    """`fps` as the fraction that a video's clock counts in."""
    return Fraction(fps).limit_denominator(1001)


def choose_encoder(name: str | None = None) -> str:
    """`name`, or the first of `ENCODERS` that this build of FFmpeg has.

    Raises:
        ValueError: it is unknown, or not there.
    """
    there = [encoder for encoder in ENCODERS if encoder in av.codecs_available]
    if name is not None and name not in ENCODERS:
        raise ValueError(f"unknown video encoder {name!r}; known are {', '.join(ENCODERS)}")
    if name is not None and name not in there:
        raise ValueError(f"this build of av has no {name}; it has {', '.join(there) or 'none that is known'}")
    if not there:
        raise ValueError(f"this build of av has none of {', '.join(ENCODERS)}; write lossless images instead")
    return name or there[0]


class VideoWriter:
    """A video that is written block by block; frame k is shown at k / fps seconds.

        with VideoWriter(path, (64, 64), fps=10, encoder="libsvtav1") as video:
            video.add(frames)

    Args:
        path: the file to make.
        size: height and width, both even.
        fps: frames a second [Hz].
        encoder: one of `ENCODERS`.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, encoder: str) -> None:
        self.num_frames = 0
        self._rate = frame_rate(fps)
        self._container: Any = av.open(str(path), "w", format="mp4")
        options = dict(ENCODERS[encoder][1])
        self._stream = cast(Any, self._container.add_stream(encoder, rate=self._rate, options=options))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"

    def add(self, frames: UInt8[np.ndarray, "row height width 3"]) -> None:
        """Append frames."""
        with _quiet():
            for values in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="rgb24")
                frame.pts, frame.time_base = self.num_frames, 1 / self._rate
                self._container.mux(self._stream.encode(frame))
                self.num_frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with _quiet():
                    self._container.mux(self._stream.encode())
        finally:
            self._container.close()


def join_videos(path: Path, parts: Sequence[Path], lengths: Sequence[int], fps: float) -> None:
    """Put videos of one encoder, size and rate behind each other, packets as they are.

    Args:
        path: the file to make.
        parts: the videos.
        lengths: frames of each.
        fps: their frame rate [Hz].
    """
    frame_seconds = 1 / frame_rate(fps)
    done = 0
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = None
        for part, length in zip(parts, lengths, strict=True):
            with av.open(str(part), format="mp4") as source:
                given = source.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(given, opaque=True)
                shift = round(done * frame_seconds / Fraction(given.time_base or 1))
                for packet in source.demux(given):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    out.mux(packet)
            done += length


@contextmanager
def _quiet() -> Iterator[None]:
    """Let SVT-AV1 report errors only, unless the user has said what it shall report."""
    if "SVT_LOG" in os.environ:
        yield
        return
    os.environ["SVT_LOG"] = "1"
    try:
        yield
    finally:
        del os.environ["SVT_LOG"]
