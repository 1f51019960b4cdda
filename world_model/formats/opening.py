"""Finding out in which format logged trajectories are, and opening them."""

from importlib import import_module
from pathlib import Path

from .protocol import Source

# format: (module, class, what it looks like). Each class has `recognises(path)`, which is quick and needs no
# extra package, and is made from the path. The first that recognises a path has it.
FORMATS = {
    "native": ("native", "NativeSource", "a folder with manifest.json and .h5 shards"),
    "lerobot": ("lerobot", "LeRobotSource", "a folder with meta/info.json"),
    "minari": ("minari", "MinariSource", "a folder with data/main_data.hdf5 and data/metadata.json"),
    "diffusion-policy": (
        "diffusion_policy",
        "DiffusionPolicySource",
        "a .zarr folder or .zarr.zip with data/ and meta/episode_ends",
    ),
    "robomimic": ("robomimic", "RobomimicSource", "an HDF5 file with groups data/demo_*"),
    "stable-worldmodel": ("native", "BareFileSource", "an HDF5 file with ep_len and ep_offset"),
    "videos": ("videos", "VideosSource", "a folder of videos, each with a .csv or .npz of actions beside it"),
}


def recognise(path: Path) -> str | None:
    """Which of `FORMATS` lies at `path`; None for none of them."""
    for name, (module, reader, _) in FORMATS.items():
        if getattr(import_module(f".{module}", __package__), reader).recognises(path):
            return name
    return None


def open_source(path: str | Path, *, convention: str | None = None) -> Source:
    """Open logged trajectories in whatever known format they are.

    Args:
        path: the file or folder.
        convention: what a row is in an HDF5 file of stable-worldmodel's schema, which cannot always be
            found out; see `BareFileSource`.

    Raises:
        ValueError: nothing is at `path`, it is in no known format, it is damaged, or its format needs a
            package that is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no logged trajectories at {path}: there is no such file or folder")
    name = recognise(path)
    if name is None:
        looks = "; ".join(f"{name}: {look}" for name, (_, _, look) in FORMATS.items())
        raise ValueError(f"{path} is in no known format of logged trajectories. Known are {looks}")
    module, reader, _ = FORMATS[name]
    opened = getattr(import_module(f".{module}", __package__), reader)
    if convention is None:
        return opened(path)
    if name != "stable-worldmodel":
        raise ValueError(f"{path} is {name}, which has one row convention; leave {convention!r} away")
    return opened(path, convention)
