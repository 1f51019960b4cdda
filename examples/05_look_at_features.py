"""See what an encoder sees: tokens as colours, the nearest frames, where else a patch is found.

Writes pca.png, neighbours.png and similarity.png into OUT. ENCODER is whatever `load_encoder` knows:
small, random, pixels, a folder, a checkpoint, an id of the hub. DATA is a trajectory store; without one, a
few episodes of reacher are logged first.

python examples/05_look_at_features.py OUT [ENCODER [DATA]]
"""

import sys
from pathlib import Path

import torch

from wm_plan.collecting import CollectConfig, collect
from wm_plan.feature_pictures import draw_neighbours, draw_pca, draw_similarity
from wm_plan.world_model import TrajectoryStore, load_encoder

NUM_EPISODES, NUM_STEPS = 15, 28


def main(out: Path, name: str = "small", data: Path | None = None) -> None:
    torch.set_num_threads(1)
    if data is None:
        data = out / "data"
        collect(CollectConfig("reacher", NUM_EPISODES, num_steps=NUM_STEPS), data, resume=data.exists())
    encoder = load_encoder(name)
    with TrajectoryStore(data) as store:
        first = store.episode_rows(0)
        episode = store.read("pixels", first)
        others = store.read("pixels", slice(first.stop, first.stop + 400))
    video = episode[:: max(1, len(episode) // 8)][:8]
    draw_pca(out / "pca.png", encoder, video)
    draw_neighbours(out / "neighbours.png", encoder, video[::2], others)
    changes = abs(video[0].astype(int) - video.mean(axis=0)).sum(axis=-1)
    moving = divmod(int(changes.argmax()), changes.shape[1])  # where the first frame is most unlike the rest
    places = [((moving[0] + 0.5) / len(changes), (moving[1] + 0.5) / len(changes[0])), (0.5, 0.5)]
    draw_similarity(out / "similarity.png", encoder, video, places)
    print(f"{out}: pca.png, neighbours.png, similarity.png")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python examples/05_look_at_features.py OUT [ENCODER [DATA]]")
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(Path, sys.argv[3:4]))
