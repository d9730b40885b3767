"""What a simulated episode looks like and how its devices behave."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from handeye.robot.simulator.objects import Profile
from handeye.robot.simulator.rendering import RendererKind
from handeye.robot.simulator.sensor_noise import DepthNoiseConfig
from handeye.vision.config import Config


class SimulatorConfig(Config):
    """The pick episode that `reset` draws, the renderer and the sensor's errors."""

    target: Literal["red_cube", "green_cube", "blue_cube", "yellow_cube"] = "red_cube"
    """The one class of which exactly one cube is on the table."""
    other_cubes: tuple[int, int] = (1, 4)
    """Fewest and most cubes of the other colours."""
    distractors: tuple[int, int] = (1, 5)
    """Fewest and most other things."""
    target_gap_m: float = Field(default=0.035, ge=0)
    """Free space around the target for the fingers."""
    gap_m: float = Field(default=0.012, ge=0)
    """Free space around everything else."""
    profile: Profile = Profile.TRAIN
    renderer: RendererKind = RendererKind.AUTO
    shadows: bool = False
    """Shadows in the loop's images: several times slower."""
    image_effects: bool = True
    """Exposure, white balance, blur and noise of the colour sensor."""
    depth_noise: DepthNoiseConfig = DepthNoiseConfig()
    scene_camera_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (240, 320)
    """Height and width of what the camera outside sees, px: the second eye of policies that see images."""
    camera_latency_s: float = Field(default=0.0, ge=0)
    """Time from exposure until a frame can be read."""
