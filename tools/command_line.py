"""`handeye VERB ...`: finds the verb, parses its arguments, turns a user's mistake into one line and exit code 2.

Every verb is one file here with a dataclass `Arguments` (field docstrings become --help) and `run(arguments)`.
A verb that takes configuration overrides has `run(arguments, overrides)`. This is the only file that imports tyro;
a verb is imported only when it is called, so `handeye detect` never loads torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console

from vision.errors import UserError

Positional = tyro.conf.Positional
"""Marks an argument that is given by its place: `model: Positional[str]`."""


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
        return module.run(arguments, overrides)
    return module.run(tyro.cli(module.Arguments, args=words, prog=program, description=module.__doc__))


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
    "onnx": "train",
    "onnxslim": "train",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "mujoco": "sim",
    "ruckig": "robot",
    "av": "demonstrations",
}
"""Which extra installs a package that a verb may find missing."""


def _explain_missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    return f"this needs the package {package!r}; add it with: pip install 'handeye[{EXTRA_OF_PACKAGE[package]}]'"


VERBS = (
    Verb("train", "tools.train", "train a detector from a configuration", takes_overrides=True),
    Verb("evaluate", "tools.evaluate", "COCO metrics of a model on a data set"),
    Verb("detect", "tools.detect", "run a model on images, a video or a camera"),
    Verb("export", "tools.export", "write deployment artefacts with a parity report"),
    Verb("benchmark", "tools.benchmark", "latency and throughput, stage by stage"),
    Verb("models", "tools.models", "list the model zoo"),
    Verb("import", "tools.import_weights", "published weights to a native checkpoint"),
    Verb("render-dataset", "tools.render_dataset", "labelled images out of the simulator"),
    Verb("pick", "tools.pick", "the pick-and-place loop: simulator by default", takes_overrides=True),
    Verb("show-config", "tools.show_config", "the resolved configuration", takes_overrides=True),
    Verb("doctor", "tools.doctor", "what this machine can run, and what is missing"),
)


if __name__ == "__main__":
    main()
