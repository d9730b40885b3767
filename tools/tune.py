"""Search for the best hyperparameters of a training: each trial is a run, the best is written as best.yaml.

The same command resumes a search that was stopped or killed. Any value that all trials share can be overridden behind
it, as for `handeye train`: `epochs=30`.

examples:
  handeye tune configs/detector/bccd_nano.yaml --output runs/search --search optimizer.lr=log:1e-4..1e-2 --trials 10
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
    """Arguments of `handeye tune`."""

    config: Positional[Path]
    """Configuration file of a detector's training."""
    output: Path
    """Folder of the search: study.db, a run folder for each trial, best.yaml."""
    search: Repeated[tuple[str, ...]] = ()
    """A key and its search space: optimizer.lr=log:1e-4..1e-2, batch_size=8..64, precision=fp32|bf16. Once for each."""
    trials: int = 20
    """Total number of trials, including those of earlier calls."""
    sampler: Sampler = "tpe"
    """tpe (Bergstra 2011) samples near good trials; random is the baseline."""
    prune: bool = True
    """Median pruning: stop a trial that is worse than half of the others at the same epoch."""
    seed: int = 0
    """Seed of the sampler; that of the training is in its configuration."""
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
    print(f"{result.num_finished} trials, {result.num_pruned} pruned; best {result.value:.3f} with {values}")
    if not result.is_finished:
        print("stopped; the same command resumes")
        return 1
    print(f"configuration: {result.best_config}")
    return 0


def _summary(result: SearchResult) -> dict[str, object]:
    return {
        "best": {"value": result.value, "overrides": result.overrides, "config": str(result.best_config)},
        "trials": result.num_finished,
        "pruned": result.num_pruned,
        "finished": result.is_finished,
    }
