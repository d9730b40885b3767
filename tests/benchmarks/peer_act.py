"""Runs LeRobot's ACT in the environment of its own that it needs: PYTHON peer_act.py FOLDER.

Makes a policy of the published size for two cameras of 240 x 320 with weights by seed and saves it to FOLDER as LeRobot
does, with peer.npz beside it: an observation in units and the chunk for it. Then says so in a line, and answers each
line that it is sent with the processor's seconds of one forward pass on one thread. Tried with LeRobot 0.4.4. Nothing
of this project is imported here.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors

CAMERAS = ("observation.images.wrist", "observation.images.scene")
IMAGE, NUMBERS = (3, 240, 320), 7


def main(folder: Path) -> None:
    """Make, save, run as often as asked."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = {key: PolicyFeature(FeatureType.VISUAL, IMAGE) for key in CAMERAS}
    config = ACTConfig(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (NUMBERS,))} | images,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (NUMBERS,))},
        normalization_mapping=dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.MEAN_STD),
        device="cpu",
        pretrained_backbone_weights=None,
        push_to_hub=False,
    )
    statistics = {key: {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.25)} for key in CAMERAS}
    statistics |= {key: {"mean": np.zeros(NUMBERS), "std": np.ones(NUMBERS)} for key in ("observation.state", "action")}
    policy = ACTPolicy(config).eval()
    before, after = make_act_pre_post_processors(config, statistics)
    policy.save_pretrained(folder)
    before.save_pretrained(folder)

    generator = np.random.default_rng(1)
    state = generator.normal(size=NUMBERS).astype(np.float32)
    pixels = {key: generator.integers(0, 256, (*IMAGE[1:], 3), dtype=np.uint8) for key in CAMERAS}
    batch = {key: torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for key, image in pixels.items()}
    seen = before(batch | {"observation.state": torch.from_numpy(state)[None]})
    with torch.inference_mode():
        chunk = after(policy.predict_action_chunk(seen))[0].numpy()
        np.savez(folder / "peer.npz", state=state, chunk=chunk, **pixels)
        print("ready", flush=True)
        for _ in sys.stdin:
            started = time.process_time()
            policy.predict_action_chunk(seen)
            print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
