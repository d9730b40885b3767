"""Find errors in a detection data set: broken images, wrong boxes, unused classes, leaks between splits.

Exit code 0: nothing found; 1: problems, which are listed; 2: nothing to train on. Images are read upright, as their
EXIF orientation says, so annotations must be made for the upright image.

examples:
  handeye check-dataset train.json --images images --output report
  handeye check-dataset train.json --against val.json test.json
  handeye check-dataset data.yaml --against data.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from handeye.tools.command_line import Positional
from handeye.vision.errors import DatasetError, UserError
from handeye.vision.files import write_json
from handeye.vision.images import Preprocessing

if TYPE_CHECKING:
    from handeye.vision.boxes.anchors import AnchorFit
    from handeye.vision.data.annotations import AnnotationSet
    from handeye.vision.data.checks import DatasetFinding, ImageReport

LISTED = 10
NUM_ANCHORS = 9
NO_BOXES = "set without a box"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of `handeye check-dataset`."""

    annotations: Positional[Path]
    """COCO file, VOC folder or image list, YOLO data.yaml or folder."""
    images: Path | None = None
    """Folder of the images; found automatically in a usual layout."""
    against: tuple[Path, ...] = ()
    """Annotations of other splits: their images must not be in this one. The same data.yaml: its other splits."""
    against_images: tuple[Path, ...] = ()
    """Folder of images for each of them; by default --images, else found automatically."""
    split: str = "train"
    """Which split of a data.yaml to check."""
    input_size: tuple[int, int] = (640, 640)
    """Height and width of the network input for which anchors are computed."""
    threads: int = 2
    """Threads that decode images."""
    output: Path | None = None
    """Folder for report.html with example images."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Check, print, write the report; 1 when something was found."""
    from handeye.vision.data.checks import DatasetFinding, check_annotations, fit_anchors
    from handeye.vision.data.formats import find_images

    if arguments.against_images and len(arguments.against_images) != len(arguments.against):
        raise UserError("--against-images needs one folder for each --against, or none")
    images = find_images(arguments.annotations, arguments.images, arguments.split)
    annotations, reports = _examine(arguments.annotations, images, arguments.split, arguments.threads)
    findings = [*check_annotations(annotations), *(found for report in reports.values() for found in report.findings)]
    if not annotations.num_boxes():
        findings.append(DatasetFinding(NO_BOXES, f"{arguments.annotations}: {len(annotations)} images"))
    findings += _against_others(arguments, annotations, reports)
    usable = sum(not any(found.is_image for found in report.findings) for report in reports.values())
    anchors = fit_anchors(annotations, Preprocessing(size_hw=arguments.input_size), NUM_ANCHORS)
    result = summarise(annotations, findings, usable, anchors)
    print_result(arguments.annotations, result, findings)
    if arguments.output is not None:
        _write_report(arguments, images, annotations, findings, result, anchors)
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not usable:
        raise DatasetError(f"{arguments.annotations}: none of its {len(annotations)} images can be used")
    return 1 if findings else 0


def summarise(
    annotations: AnnotationSet, findings: Sequence[DatasetFinding], usable: int, anchors: AnchorFit | None
) -> dict[str, Any]:
    """What --json holds."""
    from handeye.vision.data.checks import count_kinds, sizes_by_part

    counts = annotations.boxes_per_class().tolist()
    boxes_of_class = dict(zip(annotations.categories.names, counts, strict=True))
    return {
        "images": len(annotations),
        "usable_images": usable,
        "images_without_boxes": sum(not len(image.boxes) for image in annotations.images),
        "boxes": annotations.num_boxes(),
        "crowds": sum(int(image.boxes.is_crowd.sum()) for image in annotations.images),
        "most_boxes_in_an_image": max(len(image.boxes) for image in annotations.images),
        "boxes_of_class": boxes_of_class,
        "classes_without_boxes": [name for name, count in boxes_of_class.items() if not count],
        "sizes": sizes_by_part(annotations),
        "anchors": None
        if anchors is None
        else [[round(side, 1) for side in size] for size in anchors.sizes_wh.tolist()],
        "problems": count_kinds(findings),
        "findings": [{"kind": finding.kind, "item": finding.item} for finding in findings],
    }


def print_result(origin: Path, result: Mapping[str, Any], findings: Sequence[DatasetFinding]) -> None:
    """Counts, and the first findings of each kind."""
    console = Console(highlight=False, soft_wrap=True)
    counted = ("images", "usable_images", "images_without_boxes", "boxes", "crowds")
    console.print(f"{origin}: " + ", ".join(f"{result[key]} {key.replace('_', ' ')}" for key in counted), markup=False)
    classes = sorted(result["boxes_of_class"].items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count}" for name, count in classes[:LISTED])
    more = f", {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    console.print(f"boxes by class: {shown}{more}; by size: {result['sizes']}", markup=False)
    for kind, count in result["problems"].items():
        console.print(f"{count} x {kind}", markup=False)
        items = [finding.item for finding in findings if finding.kind == kind]
        for item in items[:LISTED]:
            console.print(f"  {item}", markup=False)
        if count > LISTED:
            console.print(f"  and {count - LISTED} more")
    if not findings:
        console.print("nothing wrong found")


def _examine(path: Path, images: Path, split: str, threads: int) -> tuple[AnnotationSet, dict[int, ImageReport]]:
    """Read everything that can be read, and look at every image."""
    from handeye.vision.data.checks import check_images
    from handeye.vision.data.formats import read_annotations

    annotations = read_annotations(path, images, split=split, skip_broken=True)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"reading the images of {path.name}", total=len(annotations))
        reports = check_images(annotations, images, lambda: progress.advance(bar), max(1, threads))
    return annotations, reports


def _against_others(
    arguments: Arguments, annotations: AnnotationSet, reports: dict[int, ImageReport]
) -> list[DatasetFinding]:
    """Images and classes of this split beside those of the others."""
    from handeye.vision.data.checks import LEAK, DatasetFinding, check_classes, check_leaks
    from handeye.vision.data.formats import find_images, other_splits

    findings = []
    folders = arguments.against_images or tuple(arguments.images for _ in arguments.against)
    for path, given in zip(arguments.against, folders, strict=True):
        for split in other_splits(arguments.annotations, path, arguments.split):
            images = find_images(path, given, split)
            others, other_reports = _examine(path, images, split, arguments.threads)
            pairs = check_leaks(annotations, reports, others, other_reports)
            origin = str(path) if split == arguments.split else f"{path} ({split})"
            findings += check_classes(annotations, others, origin)
            findings += [DatasetFinding(LEAK, f"{pair.one} looks like {pair.other} of {origin}") for pair in pairs]
    return findings


def _write_report(
    arguments: Arguments,
    images: Path,
    annotations: AnnotationSet,
    findings: Sequence[DatasetFinding],
    result: Mapping[str, Any],
    anchors: AnchorFit | None,
) -> None:
    from handeye.vision.evaluation.dataset_report import DatasetSummary, write_report

    assert arguments.output is not None
    told = {key.replace("_", " "): value for key, value in result.items() if key not in ("findings", "anchors")}
    summary = DatasetSummary(arguments.annotations.name, annotations, images, findings, told, anchors)
    Console(highlight=False, soft_wrap=True).print(f"report: {write_report(arguments.output, summary)}", markup=False)
