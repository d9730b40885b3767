"""The `handeye` command: finds the verb, parses its arguments and turns UserErrors into one line and exit code 2.

Every verb is a file here with a dataclass `Arguments` (field docstrings become --help) and `run(arguments)`; its module
docstring is the text above the options. A verb that takes configuration overrides has `run(arguments, overrides)`.
This is the only file that imports tyro; a verb is imported only when it is called, so `handeye detect` never loads
torch.
"""

from __future__ import annotations

import difflib
import importlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TextIO, get_args, get_type_hints

import docstring_parser
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
EXAMPLES = "examples:"
"""Begins the part of a verb's docstring whose lines are kept as they are."""


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
        return _fail(_explain_unknown(words[0]))
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
    """The verbs by group, with one line each."""
    print("usage: handeye COMMAND ...\n\nCamera pixels to robot action: detect, track, train, deploy, pick.")
    width = max(len(verb.name) for verb in VERBS)
    for group, verbs in GROUPS.items():
        print(f"\n{group}")
        for verb in verbs:
            print(f"  {verb.name:<{width}}  {verb.summary}")
    print("\n`handeye COMMAND --help` shows arguments and examples.")
    print("Exit codes: 0 done, 1 failed, 2 wrong use or wrong input.")


def _run_verb(verb: Verb, words: list[str]) -> int:
    module: Any = importlib.import_module(verb.module)
    for option in get_args(module.Arguments) or (module.Arguments,):
        _prepare_help(get_args(option)[0] if get_args(option) else option)
    settings: Any = {
        "args": words,
        "prog": f"handeye {verb.name}",
        "description": _wrapped(module.__doc__ or ""),
        "config": (tyro.conf.PositionalMetavarFromFieldName,),
    }
    with _tidy_help():
        parsed = tyro.cli(module.Arguments, return_unknown_args=verb.takes_overrides, **settings)
    return module.run(*_told_apart(*parsed)) if verb.takes_overrides else module.run(parsed)


@contextmanager
def _tidy_help() -> Iterator[None]:
    """Print what tyro prints without the indent of `_wrapped` and the second blank line that comes of it."""
    text = _Printed(sys.stdout)
    try:
        with redirect_stdout(text):
            yield
    finally:
        print(re.sub(r"^ ", "", re.sub(r"\n{3,}", "\n\n", text.getvalue()), flags=re.MULTILINE), end="")


class _Printed(io.StringIO):
    """Collects what is printed; has colours where the terminal behind it has them."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the terminal: tyro draws boxes in UTF-8 only."""
        return self._terminal.encoding

    def isatty(self) -> bool:
        """Whether tyro may print colours."""
        return self._terminal.isatty()


def _wrapped(text: str) -> str:
    """The text with paragraphs wrapped to the terminal; the examples keep their lines.

    All lines are indented by a space, because tyro joins those that begin with a letter; `_tidy_help` takes it away.
    """
    prose, mark, examples = text.strip().partition(f"\n{EXAMPLES}\n")
    width = max(40, min(shutil.get_terminal_size().columns, 120) - 1)
    paragraphs = [textwrap.fill(" ".join(part.split()), width) for part in prose.split("\n\n")]
    whole = "\n\n".join(paragraphs).strip() + (f"\n\n{EXAMPLES}\n{examples.rstrip()}" if mark else "")
    return textwrap.indent(whole, " ")


def _prepare_help(arguments: type) -> None:
    """Join the lines of each option's docstring, and show no `None` where it is the default.

    tyro keeps the line breaks of the source, and would print `{None}|INT ... (default: None)`.
    """
    for owner in arguments.__mro__:
        if not is_dataclass(owner) or "_help_is_prepared" in vars(owner):
            continue
        own, hints = owner.__dict__.get("__annotations__", {}), get_type_hints(owner, include_extras=True)
        texts = {text.arg_name: text.description or "" for text in docstring_parser.parse_from_object(owner).params}
        defaults = {field.name: field.default for field in fields(owner)}
        for name in own:
            told = " ".join(texts.get(name, "").split())
            is_none = defaults.get(name, MISSING) is None
            extra = tyro.conf.arg(help=told, help_behavior_hint="") if is_none else tyro.conf.arg(help=told)
            own[name] = Annotated[hints[name], extra]
            if is_none:
                own[name] = tyro.conf.DisallowNone[own[name]]
        owner._help_is_prepared = True  # pyright: ignore[reportAttributeAccessIssue]


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


def _explain_unknown(word: str) -> str:
    close = difflib.get_close_matches(word, [verb.name for verb in VERBS], n=1)
    return f"unknown command {word!r}; " + (f"did you mean {close[0]!r}?" if close else "see `handeye --help`")


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
    "zarr": "demonstrations",
    "h5py": "hdf5",
    "pyarrow": "demonstrations",
}
"""Which extra installs a package that a verb may find missing."""


def _explain_missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    return f"this needs the package {package!r}; add it with: pip install 'handeye[{EXTRA_OF_PACKAGE[package]}]'"


GROUPS = {
    "Data": (
        Verb("check-dataset", "handeye.tools.check_dataset", "find errors in a detection data set, with a report"),
        Verb("convert-dataset", "handeye.tools.convert_dataset", "convert between COCO, Pascal VOC and YOLO formats"),
        Verb("render-dataset", "handeye.tools.render_dataset", "render labelled images in the simulator"),
        Verb("check-demonstrations", "handeye.tools.check_demonstrations", "find errors in recorded demonstrations"),
        Verb("show-demonstrations", "handeye.tools.show_demonstrations", "show demonstrations on an HTML page"),
    ),
    "Train": (
        Verb("train", "handeye.tools.train", "train a detector", takes_overrides=True),
        Verb("train-policy", "handeye.tools.train_policy", "train a policy on demonstrations", takes_overrides=True),
        Verb("find-lr", "handeye.tools.find_lr", "suggest a learning rate (LR range test)", takes_overrides=True),
        Verb("tune", "handeye.tools.tune", "search for the best hyperparameters", takes_overrides=True),
        Verb("show-config", "handeye.tools.show_config", "print a resolved configuration", takes_overrides=True),
        Verb("models", "handeye.tools.models", "list the model zoo"),
        Verb("download", "handeye.tools.download", "download published weights"),
        Verb("import", "handeye.tools.import_weights", "convert published weights to a checkpoint"),
        Verb("import-policy", "handeye.tools.import_policy", "convert a LeRobot ACT policy to a checkpoint"),
    ),
    "Evaluate and deploy": (
        Verb("evaluate", "handeye.tools.evaluate", "COCO metrics (AP, AR) of a model on a data set"),
        Verb("export", "handeye.tools.export", "export to ONNX, INT8 or TensorRT, with a parity report"),
        Verb("benchmark", "handeye.tools.benchmark", "latency and throughput on every engine, by stage"),
        Verb("bundle", "handeye.tools.bundle", "pack models and golden outputs for an edge device"),
        Verb("verify", "handeye.tools.verify", "verify a bundle on this machine"),
        Verb("export-policy", "handeye.tools.export_policy", "export a policy checkpoint to ONNX"),
        Verb(
            "evaluate-policy",
            "handeye.tools.evaluate_policy",
            "success rate of a trained policy",
            takes_overrides=True,
        ),
        Verb("evaluate-pusht", "handeye.tools.evaluate_pusht", "coverage and success rate of a policy in Push-T"),
        Verb("evaluate-tracks", "handeye.tools.evaluate_tracks", "MOTA, IDF1 and HOTA of MOT track files"),
        Verb(
            "benchmark-tracking",
            "handeye.tools.benchmark_tracking",
            "tracking metrics (HOTA, IDF1) in simulation",
        ),
    ),
    "Run": (
        Verb("detect", "handeye.tools.detect", "detect objects in images, a video or a camera stream"),
        Verb("track", "handeye.tools.track", "track objects along a video or a camera stream", takes_overrides=True),
        Verb("track-files", "handeye.tools.track_files", "track detections in MOT files", takes_overrides=True),
        Verb("doctor", "handeye.tools.doctor", "what this machine can run, and what is missing"),
    ),
    "Calibrate": (Verb("calibrate", "handeye.tools.calibrate", "camera intrinsics and hand-eye calibration"),),
    "Robot": (
        Verb("pick", "handeye.tools.pick", "pick and place in the simulator", takes_overrides=True),
        Verb("record", "handeye.tools.record", "record demonstrations as a LeRobot data set", takes_overrides=True),
        Verb("replay", "handeye.tools.replay", "replay a recorded episode in the simulator", takes_overrides=True),
    ),
}
"""The verbs by group, in the order of the overview."""
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)


if __name__ == "__main__":
    main()
