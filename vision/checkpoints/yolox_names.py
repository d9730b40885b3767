"""The names of YOLOX's published weights (github.com/Megvii-BaseDetection/YOLOX).

The published code keeps the neck inside `backbone` and the backbone inside that.
"""

from __future__ import annotations

from vision.checkpoints.key_map import KeyMap

YOLOX_KEYS = KeyMap(
    renames=(
        (r"\.norm\.", ".bn."),
        (r"\.depthwise\.", ".dconv."),
        (r"\.pointwise\.", ".pconv."),
        (r"\.blocks\.(\d+)\.mix\.", r".m.\1.conv1."),
        (r"\.blocks\.(\d+)\.spatial\.", r".m.\1.conv2."),
        (r"^backbone\.stages\.3\.pooling\.reduce\.", "backbone.backbone.dark5.1.conv1."),
        (r"^backbone\.stages\.3\.pooling\.join\.", "backbone.backbone.dark5.1.conv2."),
        (r"\.main\.", ".conv1."),
        (r"\.bypass\.", ".conv2."),
        (r"\.join\.", ".conv3."),
        (r"^backbone\.stem\.", "backbone.backbone.stem."),
        (r"^backbone\.stages\.3\.block\.", "backbone.backbone.dark5.2."),
        (r"^backbone\.stages\.0\.", "backbone.backbone.dark2."),
        (r"^backbone\.stages\.1\.", "backbone.backbone.dark3."),
        (r"^backbone\.stages\.2\.", "backbone.backbone.dark4."),
        (r"^backbone\.stages\.3\.", "backbone.backbone.dark5."),
        (r"\.down\.", ".0."),
        (r"\.block\.", ".1."),
        (r"^neck\.reduce\.1\.", "backbone.lateral_conv0."),
        (r"^neck\.merge_down\.1\.", "backbone.C3_p4."),
        (r"^neck\.reduce\.0\.", "backbone.reduce_conv1."),
        (r"^neck\.merge_down\.0\.", "backbone.C3_p3."),
        (r"^neck\.shrink\.0\.", "backbone.bu_conv2."),
        (r"^neck\.merge_up\.0\.", "backbone.C3_n3."),
        (r"^neck\.shrink\.1\.", "backbone.bu_conv1."),
        (r"^neck\.merge_up\.1\.", "backbone.C3_n4."),
        (r"^head\.levels\.(\d+)\.stem\.", r"head.stems.\1."),
        (r"^head\.levels\.(\d+)\.class_branch\.", r"head.cls_convs.\1."),
        (r"^head\.levels\.(\d+)\.box_branch\.", r"head.reg_convs.\1."),
        (r"^head\.levels\.(\d+)\.predict_class\.", r"head.cls_preds.\1."),
        (r"^head\.levels\.(\d+)\.predict_box\.", r"head.reg_preds.\1."),
        (r"^head\.levels\.(\d+)\.predict_objectness\.", r"head.obj_preds.\1."),
    )
)
"""The one naming there is."""
