"""A YOLOX pipeline as one writes it from the paper in an afternoon: correct, and the peer to compare with.

Letterbox by numpy assignment, ONNX Runtime with its defaults, all cells decoded, class by class suppression in Python.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime


class PlainPipeline:
    """`rows = pipeline(image_bgr)`: rows of x1, y1, x2, y2, score, class_id, best first."""

    def __init__(self, path: Path, score_threshold: float, iou_threshold: float, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.size = tuple(self.session.get_inputs()[0].shape[2:])
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold

    def __call__(self, image_bgr: np.ndarray) -> np.ndarray:
        values, ratio = self.prepare(image_bgr)
        return self.postprocess(self.infer(values), ratio)

    def prepare(self, image_bgr: np.ndarray) -> tuple[np.ndarray, float]:
        height, width = self.size
        padded = np.ones((height, width, 3), np.uint8) * 114
        ratio = min(height / image_bgr.shape[0], width / image_bgr.shape[1])
        new_height, new_width = int(image_bgr.shape[0] * ratio), int(image_bgr.shape[1] * ratio)
        padded[:new_height, :new_width] = cv2.resize(image_bgr, (new_width, new_height))
        return np.ascontiguousarray(padded.transpose(2, 0, 1), dtype=np.float32)[None], ratio

    def infer(self, values: np.ndarray) -> np.ndarray:
        name = self.session.get_inputs()[0].name
        return np.asarray(self.session.run(None, {name: values})[0])[0]

    def postprocess(self, raw: np.ndarray, ratio: float) -> np.ndarray:
        rows = raw.copy()
        start = 0
        for stride in (8, 16, 32):
            height, width = self.size[0] // stride, self.size[1] // stride
            level = rows[start : start + height * width]
            columns, lines = np.meshgrid(np.arange(width), np.arange(height))
            level[:, :2] = (level[:, :2] + np.stack([columns.ravel(), lines.ravel()], axis=1)) * stride
            level[:, 2:4] = np.exp(level[:, 2:4]) * stride
            start += height * width
        boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1) / ratio
        scores = rows[:, 4:5] * rows[:, 5:]
        best = scores.argmax(axis=1)
        kept = []
        for class_id in range(scores.shape[1]):
            members = np.flatnonzero((best == class_id) & (scores[:, class_id] > self.score_threshold))
            for row in self.nms(boxes[members], scores[members, class_id]):
                kept.append([*boxes[members[row]], scores[members[row], class_id], class_id])
        found = np.array(kept).reshape(-1, 6)
        return found[np.argsort(-found[:, 4], kind="stable")]

    def nms(self, boxes: np.ndarray, scores: np.ndarray) -> list[int]:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = scores.argsort()[::-1]
        kept = []
        while order.size:
            first, rest = order[0], order[1:]
            kept.append(int(first))
            low = np.maximum(boxes[first, :2], boxes[rest, :2])
            high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
            shared = np.maximum(high - low, 0).prod(axis=1)
            order = rest[shared / (areas[first] + areas[rest] - shared) <= self.iou_threshold]
        return kept
