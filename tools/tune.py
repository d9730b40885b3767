"""Search a training's configuration: each trial is a run with other values, the best of them is written as YAML.

The same command goes on with a search that was stopped or killed. Any value that all trials share can be given
behind it, as to `handeye train`: `epochs=30`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.tools.command_line import Positional, Repeated
from handeye.vision.files import write_json
from handeye.vision.training.search import Sampler, Search, SearchResult, parse_space, run_search


@dataclass(frozen=True)
class Arguments:
    """What `handeye tune` is told besides the configuration."""

    config: Positional[Path]
    """Configuration file of a detector's training."""
    output: Path
    """Folder of the search: study.db, a run folder for each trial, best.yaml."""
    search: Repeated[tuple[str, ...]] = ()
    """A key and what it may be: optimizer.lr=log:1e-4..1e-2, batch_size=8..64, precision=fp32|bf16. Once for each."""
    trials: int = 20
    """Trials in all, those of earlier calls counted."""
    sampler: Sampler = "tpe"
    """tpe proposes near what was good so far; random is to be compared with."""
    prune: bool = True
    """Give up a trial that is worse than half of the others were after as many epochs."""
    seed: int = 0
    """Of the sampler; that of the training is in its configuration."""
    json: Path | None = None
    """Write the best trial to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Search; 0 when all trials are done, 1 when a signal stopped it."""
    search = Search(
        config=arguments.config,
        overrides=tuple(overrides),
        spaces=dict(parse_space(text) for text in arguments.search),
        folder=arguments.output,
        num_trials=arguments.trials,
        sampler=arguments.sampler,
        prune=arguments.prune,
        seed=arguments.seed,
    )
    result = run_search(search, Console(stderr=True))
    if arguments.json is not None:
        write_json(arguments.json, _summary(result))
    values = " ".join(f"{key}={value}" for key, value in result.overrides.items())
    print(f"{result.num_finished} trials, {result.num_pruned} given up; best {result.value:.3f} with {values}")
    if not result.is_finished:
        print("stopped; the same command goes on")
        return 1
    print(f"its configuration: {result.best_config}")
    return 0


def _summary(result: SearchResult) -> dict[str, object]:
    return {
        "best": {"value": result.value, "overrides": result.overrides, "config": str(result.best_config)},
        "trials": result.num_finished,
        "pruned": result.num_pruned,
        "finished": result.is_finished,
    }
