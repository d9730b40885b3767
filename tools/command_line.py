"""`handeye VERB ...`: finds the verb, parses its arguments, turns a user's mistake into one line and exit code 2.

Every verb is one file here with a dataclass `Arguments` (field docstrings become --help) and `run(arguments)`.
A verb that takes configuration overrides has `run(arguments, overrides)`. This is the only file that imports tyro;
a verb is imported only when it is called, so `handeye detect` never loads torch.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from handeye.vision.errors import UserError

Positional = tyro.conf.Positional
"""Marks an argument that is given by its place: `model: Positional[str]`."""
step = tyro.conf.subcommand
"""Names one of several steps of a verb: `Annotated[calibrate_check.Arguments, step("check")]`."""
Repeated = tyro.conf.UseAppendAction
"""Marks an option that is given once for each value: `search: Repeated[tuple[str, ...]]`."""

OVERRIDE = re.compile(r"[a-z]\w*(\.\w+)*=")
"""How a value for the configuration begins."""


@dataclass(frozen=True)
class Verb:
    """One word of the command line: the module that does it and its line in the overview."""

    name: str
    module: str
    summary: str
    takes_overrides: bool = False


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the `handeye` command; exits with 0, 1 (failed) or 2 (wrong use or wrong input)."""
    sys.exit(run_command(list(sys.argv[1:] if words is None else words)))


def run_command(words: list[str]) -> int:
    """Run one command and return its exit code."""
    if not words or words[0] in {"-h", "--help"}:
        print_overview()
        return 0 if words else 2
    chosen = {verb.name: verb for verb in VERBS}.get(words[0])
    if chosen is None:
        return _fail(f"{words[0]!r} is no verb of handeye; the verbs are {', '.join(verb.name for verb in VERBS)}")
    try:
        return _run_verb(chosen, words[1:])
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_explain_missing(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return _fail("interrupted", code=1)


def print_overview() -> None:
    """The verbs with one line each."""
    print("handeye VERB ...   camera pixels to robot action\n")
    width = max(len(verb.name) for verb in VERBS)
    for verb in VERBS:
        print(f"  {verb.name:<{width}}  {verb.summary}")
    print("\n`handeye VERB --help` explains a verb. Exit codes: 0 done, 1 failed, 2 wrong use or wrong input.")


def _run_verb(verb: Verb, words: list[str]) -> int:
    module: Any = importlib.import_module(verb.module)
    program = f"handeye {verb.name}"
    if verb.takes_overrides:
        arguments, overrides = tyro.cli(
            module.Arguments, args=words, prog=program, description=module.__doc__, return_unknown_args=True
        )
        return module.run(*_told_apart(arguments, overrides))
    return module.run(tyro.cli(module.Arguments, args=words, prog=program, description=module.__doc__))


def _told_apart(arguments: Any, overrides: list[str]) -> tuple[Any, list[str]]:
    """A value of the configuration that stands where its file may be left out is one more override."""
    may_be_absent = any(field.name == "config" and field.default is None for field in fields(arguments))
    word = str(arguments.config) if may_be_absent else ""
    if not OVERRIDE.match(word) or Path(word).exists():
        return arguments, overrides
    return replace(arguments, config=None), [word, *overrides]


def _fail(message: str, code: int = 2) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"handeye: error: {message}", markup=False)
    return code


EXTRA_OF_PACKAGE = {
    "torch": "train",
    "torchvision": "train",
    "accelerate": "train",
    "safetensors": "train",
    "faster_coco_eval": "train",
    "matplotlib": "train",
    "optuna": "tune",
    "onnx": "train",
    "onnxslim": "train",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "mujoco": "sim",
    "ruckig": "robot",
    "av": "demonstrations",
    "motmetrics": "tracking",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "numcodecs": "demonstrations",
    "pyarrow": "demonstrations",
}
"""Which extra installs a package that a verb may find missing."""


def _explain_missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    return f"this needs the package {package!r}; add it with: pip install 'handeye[{EXTRA_OF_PACKAGE[package]}]'"


VERBS = (
    Verb("train", "handeye.tools.train", "train a detector from a configuration", takes_overrides=True),
    Verb("find-lr", "handeye.tools.find_lr", "suggest a learning rate for a configuration", takes_overrides=True),
    Verb("tune", "handeye.tools.tune", "search a training's configuration for the best values", takes_overrides=True),
    Verb("train-policy", "handeye.tools.train_policy", "train a policy from demonstrations", takes_overrides=True),
    Verb("evaluate-pusht", "handeye.tools.evaluate_pusht", "how much of its mark a policy covers in Push-T"),
    Verb("check-dataset", "handeye.tools.check_dataset", "what is wrong with a data set, and a report in pictures"),
    Verb("check-demonstrations", "handeye.tools.check_demonstrations", "what is wrong with recorded demonstrations"),
    Verb("convert-dataset", "handeye.tools.convert_dataset", "COCO, Pascal VOC and YOLO text into one another"),
    Verb("calibrate", "handeye.tools.calibrate", "a lens, and where the camera sits on or beside the arm"),
    Verb("evaluate", "handeye.tools.evaluate", "COCO metrics of a model on a data set"),
    Verb("detect", "handeye.tools.detect", "run a model on images, a video or a camera"),
    Verb("track", "handeye.tools.track", "boxes with identity along a video or a camera", takes_overrides=True),
    Verb("track-files", "handeye.tools.track_files", "MOT files of detections into tracks", takes_overrides=True),
    Verb("export", "handeye.tools.export", "write deployment artefacts with a parity report"),
    Verb("bundle", "handeye.tools.bundle", "models, golden images and proof for an edge device, in one file"),
    Verb("verify", "handeye.tools.verify", "prove a bundle on this machine: build, compare, measure"),
    Verb("export-policy", "handeye.tools.export_policy", "a policy's checkpoint to one ONNX file"),
    Verb("benchmark", "handeye.tools.benchmark", "latency and throughput, stage by stage"),
    Verb("benchmark-tracking", "handeye.tools.benchmark_tracking", "identity and position on the simulated tabletop"),
    Verb("models", "handeye.tools.models", "list the model zoo"),
    Verb("download", "handeye.tools.download", "published weights from their official address"),
    Verb("import", "handeye.tools.import_weights", "published weights to a native checkpoint"),
    Verb("import-policy", "handeye.tools.import_policy", "LeRobot's ACT policy to a native checkpoint"),
    Verb("render-dataset", "handeye.tools.render_dataset", "labelled images out of the simulator"),
    Verb("pick", "handeye.tools.pick", "the pick-and-place loop: simulator by default", takes_overrides=True),
    Verb(
        "evaluate-policy", "handeye.tools.evaluate_policy", "how often a trained policy succeeds", takes_overrides=True
    ),
    Verb("record", "handeye.tools.record", "demonstrations of picking as a LeRobot data set", takes_overrides=True),
    Verb("replay", "handeye.tools.replay", "a recorded episode played back in the simulator", takes_overrides=True),
    Verb("show-demonstrations", "handeye.tools.show_demonstrations", "recorded demonstrations as one page"),
    Verb("show-config", "handeye.tools.show_config", "the resolved configuration", takes_overrides=True),
    Verb("doctor", "handeye.tools.doctor", "what this machine can run, and what is missing"),
)


if __name__ == "__main__":
    main()
