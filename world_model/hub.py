"""Models on the hub of huggingface: fetched as plain files, pushed with a card that says what they are.

Only JSON and safetensors are ever fetched, and none of it is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .model_card import CARD_NAME, model_card
from .training_state import METRICS_NAME, STATE_NAME
from .weights_io import CONFIG_NAME, WEIGHTS_NAME, load_folder

_NEEDED = "needs huggingface-hub: pip install 'wm-plan[hf]'"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether this could be an id of the hub: OWNER/NAME."""
    return _ID.fullmatch(name) is not None


def hub_folder(name: str) -> Path:
    """The folder of a model of the hub: from its cache if it is there, else downloaded.

    Raises:
        ValueError: huggingface-hub is missing; or the model is neither in the cache nor to be had.
    """
    hub = _hub(name)
    wanted = ["*.json", "*.safetensors"]
    try:
        cached = Path(hub.snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if (cached / CONFIG_NAME).is_file() and any(cached.glob("*.safetensors")):
            return cached
    except (hub.errors.LocalEntryNotFoundError, FileNotFoundError):
        pass
    except hub.errors.HFValidationError as error:
        raise ValueError(f"{name!r} is no id of the hub: {str(error).splitlines()[0]}") from None
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted, etag_timeout=10))
    except Exception as error:  # noqa: BLE001 - whatever the network does, the user needs the same line
        raise ValueError(
            f"{name!r} is neither a folder here nor in the hub's cache, and cannot be downloaded "
            f"({type(error).__name__}): give a folder that holds its config.json and model.safetensors, "
            f"or fetch it once where there is a network: hf download {name}"
        ) from None


def check_can_push(repo_id: str) -> None:
    """Refuse, before anything is done, what could not be pushed in the end.

    Raises:
        ValueError: huggingface-hub is missing, or this is no id.
    """
    _hub(repo_id)
    if not is_hub_id(repo_id):
        raise ValueError(f"{repo_id!r} is no id of the hub; give OWNER/NAME")


def pushed_files(folder: Path) -> list[str]:
    """What of a model's folder belongs on the hub: weights, settings and card; not the state of its training.

    Raises:
        ValueError: the folder holds no world model.
    """
    load_folder(folder, "world-model")
    parts = ("encoder", "decoder", "prior", "action_decoder")
    inside = [
        file
        for part in parts
        for file in (folder / part).glob("*")
        if file.name not in (STATE_NAME, METRICS_NAME)
    ]
    names = [CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, *(str(file.relative_to(folder)) for file in inside)]
    return sorted(names)


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Push the model that `wm-train` wrote into `folder`; a README.md of the user's own is kept.

    The token is huggingface-hub's: `hf auth login`, or HF_TOKEN.

    Args:
        folder: the checkpoint; its card is written into it if it has none.
        repo_id: OWNER/NAME, made if it is not there.
        private: whether a repository that is made is for its owner only.

    Returns:
        Where it is now.

    Raises:
        ValueError: no world model, no id, or the hub cannot be reached or refuses.
    """
    folder = Path(folder)
    check_can_push(repo_id)
    files = pushed_files(folder)
    if not (folder / CARD_NAME).is_file():
        (folder / CARD_NAME).write_text(model_card(folder, repo_id), encoding="utf-8")
    try:
        api = _hub(repo_id).HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=files,
            commit_message="Push a world model of wm-plan",
        )
    except Exception as error:  # noqa: BLE001 - the hub's errors are many, and the model is safe
        raise ValueError(
            f"{str(folder)!r} could not be pushed to {repo_id!r} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); the folder is complete. Log in with: hf auth login"
        ) from None
    return f"https://huggingface.co/{repo_id}"


def _hub(name: str) -> Any:  # noqa: ANN401
    """The library of the hub.

    Raises:
        ValueError: it is missing.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise ValueError(f"{name!r} {_NEEDED}") from None
    return huggingface_hub
