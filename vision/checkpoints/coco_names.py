"""The 80 classes of COCO in the order of their category ids: the classes of the published detectors."""

# fmt: off
COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

UNUSED_CATEGORY_IDS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of COCO's category ids 0 to 90 these are unused; networks that predict the category id have classes for them."""


def _by_category_id() -> tuple[str, ...]:
    names = iter(COCO_NAMES)
    return tuple(f"unused_{number}" if number in UNUSED_CATEGORY_IDS else next(names) for number in range(91))


COCO_NAMES_BY_CATEGORY_ID = _by_category_id()
"""The 91 classes of DETR: index k is COCO's category k."""
