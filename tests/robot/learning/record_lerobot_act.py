"""Records what LeRobot's ACT computes with weights by formula: `PYTHONPATH=tests python FILE FOLDER`.

Runs where LeRobot 0.4.4 is installed and nothing of handeye is. For each variant the folder gets the files that LeRobot
saves beside the weights, the names and shapes of the weights, and the outputs for inputs by seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from formula_weights import formula_weight
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors

BATCH, CHUNK, STATE, ACTION, ENVIRONMENT, NUM_PAD = 2, 6, 5, 4, 3, 2
IMAGE = (3, 48, 64)
CAMERAS = ("wrist", "scene")
GAIN = 2.0


def record(folder: Path, variant: str) -> None:
    torch.manual_seed(0)
    config = config_of(variant)
    policy = ACTPolicy(config).eval()
    kept = [key for key in policy.state_dict() if key.endswith("pos_enc")]
    shapes = {key: tuple(value.shape) for key, value in policy.state_dict().items() if key not in kept}
    weights = {key: formula_weight(key, shape, GAIN) for key, shape in shapes.items()}
    policy.load_state_dict(weights, strict=False)
    before, after = make_act_pre_post_processors(config, statistics(config))
    folder.mkdir(parents=True, exist_ok=True)
    config._save_pretrained(folder)
    before.save_pretrained(folder)
    kept_shapes = {key: tuple(policy.state_dict()[key].shape) for key in kept}
    text = json.dumps({"weights": shapes, "kept": kept_shapes, "gain": GAIN}, indent=None)
    (folder / "shapes.json").write_text(text + "\n")
    np.savez_compressed(folder / "recorded.npz", **outputs(policy, before, after))


def config_of(variant: str) -> ACTConfig:
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    if variant == "state":
        inputs["observation.environment_state"] = PolicyFeature(FeatureType.ENV, (ENVIRONMENT,))
    else:
        inputs |= {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, IMAGE) for name in CAMERAS}
    modes = {"VISUAL": NormalizationMode.MEAN_STD, "STATE": NormalizationMode.MEAN_STD}
    modes |= {"ENV": NormalizationMode.MIN_MAX, "ACTION": NormalizationMode.MEAN_STD}
    return ACTConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        normalization_mapping=modes,
        device="cpu",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        dim_model=32,
        n_heads=4,
        dim_feedforward=48,
        n_encoder_layers=2,
        n_decoder_layers=1 if variant == "images" else 2,
        n_vae_encoder_layers=1,
        latent_dim=4,
        dropout=0.0,
        pretrained_backbone_weights=None,
        push_to_hub=False,
    )


def statistics(config: ACTConfig) -> dict[str, dict[str, np.ndarray]]:
    """Of each number by seed; images' have the shape (3, 1, 1), as in LeRobot's data sets."""
    generator, result = np.random.Generator(np.random.PCG64(3)), {}
    for key, feature in {**config.input_features, **config.output_features}.items():
        shape = (3, 1, 1) if feature.type is FeatureType.VISUAL else feature.shape
        low, high = generator.uniform(0.1, 0.4, shape), generator.uniform(0.6, 0.9, shape)
        result[key] = {"min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 3}
    return result


def observation(config: ACTConfig) -> dict[str, torch.Tensor]:
    """Numbers around zero; images in bytes, which LeRobot takes divided by 255."""
    generator, batch = np.random.Generator(np.random.PCG64(4)), {}
    for key, feature in config.input_features.items():
        if feature.type is FeatureType.VISUAL:
            pixels = generator.integers(0, 256, (BATCH, *feature.shape), dtype=np.uint8)
            batch[key] = torch.from_numpy(pixels.astype(np.float32)) / 255
        else:
            batch[key] = torch.from_numpy(generator.standard_normal((BATCH, *feature.shape), dtype=np.float32))
    return batch


def outputs(policy: ACTPolicy, before: object, after: object) -> dict[str, np.ndarray]:
    """Inputs in units; the chunk in units; and in training, with the mean for the style, what it was and its chunk."""
    batch = observation(policy.config)
    pixels = {key: value for key, value in batch.items() if "image" in key}
    inputs = {key: value.numpy() for key, value in batch.items() if key not in pixels}
    inputs |= {key: (value * 255).round().to(torch.uint8).numpy() for key, value in pixels.items()}
    actions = np.random.Generator(np.random.PCG64(5)).standard_normal((BATCH, CHUNK, ACTION), dtype=np.float32)
    with torch.no_grad(), mock.patch("torch.randn_like", torch.zeros_like):
        seen = before(batch)
        chunk = after(policy.predict_action_chunk(seen))
        shown = dict(seen) | {"action": torch.from_numpy(actions), "observation.images": [seen[key] for key in pixels]}
        shown["action_is_pad"] = (torch.arange(CHUNK) >= CHUNK - NUM_PAD).expand(BATCH, CHUNK)
        if not pixels:
            del shown["observation.images"]
        styled, (mean, log_variance) = policy.model.train()(shown)
        loss, parts = policy.train()(shown)
    results = {"chunk": chunk, "styled": styled, "mean": mean, "log_variance": log_variance, "loss": loss}
    losses = {name: np.float32(value) for name, value in parts.items()}
    return inputs | {"normalised_action": actions} | {key: value.numpy() for key, value in results.items()} | losses


if __name__ == "__main__":
    for name in ("state", "images"):
        record(Path(sys.argv[1]) / name, name)
