"""Small logged trajectories in the layouts of other labs, made by bare h5py, zarr and av, always the same."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import h5py
import numpy as np


def frames(num: int, height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def smooth_frames(num: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A bright square that moves over a ramp: what codecs keep well, and no two frames the same."""
    ramp = np.linspace(40, 120, width, dtype=np.uint8)
    video = np.broadcast_to(ramp[None, None, :, None], (num, height, width, 3)).copy()
    for i in range(num):
        left = (4 * i + 8 * seed) % (width - 16)
        video[i, 8:24, left : left + 16] = (240, 200, (12 * i) % 256)
    return video


def minari_space(shape: Sequence[int], dtype: str, low: float, high: float) -> dict:
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": list(shape),
        "low": np.full(shape, low).tolist(),
        "high": np.full(shape, high).tolist(),
    }


def minari_folder(root: Path, lengths: Sequence[int] = (3, 5), **metadata: object) -> Path:
    """A dataset with raw images, a Dict of observations, and Infinity in its metadata."""
    (root / "data").mkdir(parents=True)
    spaces = {
        "camera": minari_space((40, 48, 3), "uint8", 0, 255),
        "joints": minari_space((2,), "float64", -np.inf, np.inf),
    }
    with h5py.File(root / "data" / "main_data.hdf5", "w") as file:
        for i, steps in enumerate(lengths):
            episode = file.create_group(f"episode_{i}")
            episode.attrs.update({"id": i, "total_steps": steps})
            episode["observations/camera"] = frames(steps + 1, seed=i)
            episode["observations/joints"] = np.arange(2.0 * (steps + 1)).reshape(-1, 2) + 100 * i
            episode["actions"] = np.arange(steps * 2, dtype=np.float32).reshape(-1, 2) - i
            episode["rewards"] = np.arange(steps, dtype=np.float64)
            episode["terminations"] = np.arange(steps) == steps - 1
            episode["truncations"] = np.zeros(steps, bool)
            episode["infos/phase"] = np.arange(steps + 1)
    said = {
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "data_format": "hdf5",
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(minari_space((2,), "float32", -1, 1)),
        "dataset_id": root.name,
        "minari_version": "0.5.0",
        "ref_max_score": np.inf,
    }
    (root / "data" / "metadata.json").write_text(json.dumps({**said, **metadata}))
    return root


def robomimic_file(path: Path, *, next_obs: bool = True, demos: Sequence[int] = (10, 1, 4)) -> Path:
    """Demonstration i has 3 steps; its actions are all i."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        )
        data.attrs["total"] = 3 * len(demos)
        for i in demos:
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = 3
            demo["actions"] = np.full((3, 7), i, np.float64)
            demo["states"] = np.arange(12.0).reshape(3, 4)
            demo["rewards"] = np.array([0.0, 0.0, 1.0])
            demo["dones"] = np.array([0, 0, 1])
            seen = {"agentview_image": frames(4, seed=i), "robot0_eef_pos": np.arange(12.0).reshape(4, 3) + i}
            for name, values in seen.items():
                demo.create_dataset(f"obs/{name}", data=values[:3], compression="gzip")
                if next_obs:
                    demo.create_dataset(f"next_obs/{name}", data=values[1:], compression="gzip")
        file["mask/train"] = np.array(["demo_10", "demo_1"], dtype="S")
        file["mask/valid"] = np.array(["demo_4", "demo_77"], dtype="S")
    return path


def zarr_store(path: Path, ends: Sequence[int] = (4, 9)) -> Path:
    """A replay buffer: float frames from 0 to 255, each array with its own compressor; a zip if called so."""
    import zarr
    from numcodecs import Blosc, Zlib

    rows = ends[-1]
    arrays = {
        "img": (frames(rows).astype(np.float32), Blosc("zstd")),
        "action": (np.arange(2.0 * rows).reshape(rows, 2).astype(np.float32), None),
        "state": (np.arange(5.0 * rows).reshape(rows, 5), Zlib()),
        "keypoint": (np.arange(18.0 * rows).reshape(rows, 9, 2), Blosc("lz4")),
    }
    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else str(path)
    root = zarr.open_group(store, mode="w", zarr_format=2)
    for name, (values, compressor) in arrays.items():
        chunks = (4, *values.shape[1:])
        array = root.create_array(
            f"data/{name}", shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=compressor
        )
        array[:] = values
    table = root.create_array("meta/episode_ends", shape=(len(ends),), dtype="int64", compressors=Zlib())
    table[:] = ends
    root.store.close()
    return path


def video_file(
    path: Path, images: np.ndarray, *, codec: str = "libx264", fps: int = 20, gop: int = 12
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size, stream.bit_rate = gop, 4_000_000
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def actions_csv(path: Path, num_rows: int, header: str = "timestamp,action_0,action_1") -> Path:
    """Row t is t / 20 and then t, t + 1, ..."""
    width = header.count(",")
    rows = [",".join([str(t / 20), *(str(t + i) for i in range(width))]) for t in range(num_rows)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
