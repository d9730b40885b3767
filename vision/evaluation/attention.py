"""Where in an image the queries of a detector looked: what each detection was made of.

Only heads of queries know (`attention_maps`), and only torch shows it: a deployed graph gives rows and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from handeye.vision.errors import UserError
from handeye.vision.evaluation.torch_session import TorchSession
from handeye.vision.images import ResizeTransform, preprocess

if TYPE_CHECKING:
    from handeye.vision.runtime.image_detector import ImageDetector


@runtime_checkable
class HeadOfQueries(Protocol):
    """A head that can say where its queries looked."""

    def attention_maps(self, pyramid: Sequence[Any]) -> Any:
        """A pyramid of tensors -> shares of attention (B, Q, rows, columns) over cells that cover the input."""
        ...


class AttentionMaps:
    """`maps = attention(image_rgb, queries)`: for each of these rows of the output, where in the image it looked."""

    def __init__(self, detector: ImageDetector) -> None:
        """Raises UserError unless `detector` is a checkpoint whose head has queries."""
        session = detector.session
        if not isinstance(session, TorchSession):
            raise UserError(
                f"{detector.manifest.name}: attention is only seen inside a native checkpoint (.safetensors), "
                f"not through {detector.engine}"
            )
        head = session.detector.head
        if not isinstance(head, HeadOfQueries):
            kind = session.detector.config.head.kind
            raise UserError(
                f"{detector.manifest.name}: a head of kind {kind} has no queries that could look anywhere; "
                "detr, rtdetr and dfine have"
            )
        self._detector, self._maps_of = session.detector, head.attention_maps
        self._preprocessing = detector.manifest.preprocessing

    def __call__(
        self, image_rgb: UInt8[np.ndarray, "h w 3"], queries: Int64[np.ndarray, " N"]
    ) -> Float32[np.ndarray, "N h w"]:
        """A query's attention to each pixel, from 0 where in the image it looked least to 1 where it looked most."""
        import torch

        values, placement = preprocess(image_rgb, self._preprocessing)
        with torch.inference_mode():
            device = next(self._detector.parameters()).device
            features = self._detector.backbone(torch.from_numpy(values)[None].to(device))
            maps = self._maps_of(self._detector.neck(features))[0].float().cpu().numpy()
        shown = np.zeros((len(queries), *image_rgb.shape[:2]), np.float32)
        for number, query in enumerate(queries):
            shown[number] = _over_image(maps[query], placement)
        return shown


def _over_image(map_: Float32[np.ndarray, "rows columns"], placement: ResizeTransform) -> Float32[np.ndarray, "h w"]:
    """From the cells of the network input to the pixels of the image, padding left out."""
    (height, width), (input_height, input_width) = placement.image_hw, placement.input_hw
    over_input = cv2.resize(map_, (input_width, input_height), interpolation=cv2.INTER_LINEAR)
    filled = over_input[: max(1, int(height * placement.scale_y)), : max(1, int(width * placement.scale_x))]
    over_image = cv2.resize(filled, (width, height))
    over_image -= over_image.min()
    return (over_image / max(float(over_image.max()), 1e-12)).astype(np.float32)
