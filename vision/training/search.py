"""Hyperparameter search with optuna: every trial is an ordinary run; a search can be resumed.

Bad trials end early: the median pruner (Golovin et al. 2017, "Google Vizier") stops one that is worse than half of the
others were after the same number of epochs. optuna is imported only here, when a search starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from typing_extensions import assert_never

from handeye.vision.config import dump_config, load_config
from handeye.vision.errors import ConfigError, UserError
from handeye.vision.files import replacing
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.console import say
from handeye.vision.training.distributed import TrainingError, training_device
from handeye.vision.training.precision import settle_precision
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import train_detector

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "random"]
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(?P<log>log:)?(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included; integers where both ends are written as such."""

    low: float
    high: float
    is_log: bool
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, as written after `key=`."""

    values: tuple[str, ...]


Space = Range | Choice


@dataclass(frozen=True, slots=True)
class Search:
    """A search: its spaces, sampler and folder."""

    config: Path
    overrides: tuple[str, ...]
    """Overrides of the file that all trials share."""
    spaces: Mapping[str, Space]
    """By the path of the key."""
    folder: Path
    """study.db, a run folder for each trial, and best.yaml."""
    num_trials: int
    sampler: Sampler
    prune: bool
    seed: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best trial so far."""

    value: float
    overrides: dict[str, str]
    best_config: Path
    num_finished: int
    num_pruned: int
    is_finished: bool
    """False when a signal ended the search."""


def parse_space(text: str) -> tuple[str, Space]:
    """`key=log:1e-4..1e-2`, `key=1..8` or `key=a|b|c` -> the key's path and what it may be; raises ConfigError."""
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ConfigError(f"--search {text!r}: expected KEY=LOW..HIGH, KEY=log:LOW..HIGH or KEY=a|b|c")
    key = key.replace("-", "_")
    found = RANGE.fullmatch(values)
    if found is None:
        choices = tuple(dict.fromkeys(values.split("|")))
        if len(choices) < 2 or "" in choices:
            raise ConfigError(f"--search {text!r}: expected a range LOW..HIGH or at least two values a|b")
        return key, Choice(choices)
    is_log, ends = found["log"] is not None, (found["low"], found["high"])
    low, high = map(float, ends)
    if not low < high or (is_log and low <= 0):
        raise ConfigError(f"--search {text!r}: expected LOW < HIGH, and above 0 for log:")
    return key, Range(low, high, is_log, all(re.fullmatch(r"[-+]?\d+", end) for end in ends))


def run_search(search: Search, console: Console) -> SearchResult:
    """Run trials until `num_trials` are finished or pruned, those of earlier calls counted; best.yaml is the best.

    Raises UserError without optuna or when no trial ends with an evaluation, ConfigError for values that the
    configuration rejects.
    """
    _quieten_optuna()
    _check(search)
    search.folder.mkdir(parents=True, exist_ok=True)
    study = _open_study(search)
    _retry_killed_trials(study)
    search = _with_one_precision(search, study, console)
    is_stopped = False
    while not is_stopped and len(_done(study)) < search.num_trials:
        is_stopped = not _run_trial(search, study, console)
    return _result(search, study, is_finished=not is_stopped)


def suggest(trial: optuna.Trial, spaces: Mapping[str, Space]) -> list[str]:
    """The overrides of a trial, in the order of the spaces."""
    overrides = []
    for key, space in spaces.items():
        match space:
            case Range(low, high, is_log, True):
                value = str(trial.suggest_int(key, int(low), int(high), log=is_log))
            case Range(low, high, is_log, _):
                value = f"{trial.suggest_float(key, low, high, log=is_log):.6g}"
            case Choice(values):
                value = trial.suggest_categorical(key, values)
            case _:
                assert_never(space)
        overrides.append(f"{key}={value}")
    return overrides


def _quieten_optuna() -> None:
    """Import it late, because only a search needs it; the command line names the extra where it is missing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _load(search: Search, overrides: Sequence[str]) -> TrainDetectorConfig:
    return load_config(TrainDetectorConfig, search.config, [*search.overrides, *overrides])


def _check(search: Search) -> None:
    """Check every end of a range and every choice against the configuration, before hours are spent."""
    if not search.spaces:
        raise ConfigError("nothing to search: give at least one --search KEY=...")
    for key, space in search.spaces.items():
        match space:
            case Range(low, high, _, is_whole):
                values = [str(int(end)) if is_whole else f"{end:.6g}" for end in (low, high)]
            case Choice(choices):
                values = list(choices)
            case _:
                assert_never(space)
        for value in values:
            config = _load(search, [f"{key}={value}"])
            if config.data.val_annotations is None:
                raise ConfigError("a search compares evaluations: name data.val_annotations")


def _open_study(search: Search) -> optuna.Study:
    """The study of this folder, new or as it was left."""
    import optuna

    study = optuna.create_study(
        storage=f"sqlite:///{(search.folder / 'study.db').resolve()}",
        study_name="handeye",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner() if search.prune else optuna.pruners.NopPruner(),
    )
    spaces = {key: repr(space) for key, space in search.spaces.items()}
    known = study.user_attrs.get("spaces")
    if known not in (None, spaces):
        raise ConfigError(f"{search.folder} holds a search over {', '.join(known)} with other values; name another one")
    study.set_user_attr("spaces", spaces)
    # A resumed search must not propose the same values again.
    seed = search.seed + len(study.trials)
    sampler = optuna.samplers.TPESampler if search.sampler == "tpe" else optuna.samplers.RandomSampler
    study.sampler = sampler(seed=seed)
    return study


def _with_one_precision(search: Search, study: optuna.Study, console: Console) -> Search:
    """All trials use one precision: `auto` is settled once, also for later calls on other machines."""
    config = _load(search, ())
    if "precision" in search.spaces or config.precision != "auto":
        return search
    config = config.model_copy(update={"precision": study.user_attrs.get("precision", "auto")})
    config, about_precision = settle_precision(config, RunFolder(search.folder), training_device())
    say(console, about_precision)
    study.set_user_attr("precision", config.precision)
    return replace(search, overrides=(*search.overrides, f"precision={config.precision}"))


def _retry_killed_trials(study: optuna.Study) -> None:
    """A trial that is still running belongs to a process that died: enqueue its values again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def _run_trial(search: Search, study: optuna.Study, console: Console) -> bool:
    """Suggest values, train with them, report the result to the study; False when a signal stopped the training."""
    import optuna
    from optuna.trial import TrialState

    trial = study.ask()
    overrides = suggest(trial, search.spaces)
    say(console, f"trial {trial.number}: {' '.join(overrides)}")
    try:
        value = _train(search, trial, overrides)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return True
    except TrainingError as error:
        say(console, f"trial {trial.number} failed: {error}")
        value = 0.0  # the worst value, so that the sampler avoids it
    if value is None:
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        return False
    say(console, f"trial {trial.number}: {value:.4f}")
    study.tell(trial, value)
    return True


def _train(search: Search, trial: optuna.Trial, overrides: Sequence[str]) -> float | None:
    """The best evaluation of a run with these overrides, None when a signal stopped it; raises TrialPruned."""
    import optuna

    def after_evaluation(epoch: int, value: float) -> None:
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    config = _load(search, overrides)
    run = RunFolder.create(search.folder / f"trial-{trial.number:04d}", config)
    result = train_detector(config, run, Console(quiet=True), after_evaluation)
    if result.is_finished and result.progress.best_value is None:
        raise UserError(f"{config.evaluation.metric} is undefined on {config.data.val_annotations}: nothing to tune by")
    return result.progress.best_value if result.is_finished else None


def _result(search: Search, study: optuna.Study, *, is_finished: bool) -> SearchResult:
    """Write the best configuration and return it with its value."""
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not finished:
        raise UserError(f"no trial of {search.folder} has ended with an evaluation; continue with the same command")
    best = study.best_trial
    best_config = search.folder / "best.yaml"
    run = RunFolder.open(search.folder / f"trial-{best.number:04d}")
    config = load_config(TrainDetectorConfig, run.config)
    with replacing(best_config) as beside:
        beside.write_text(f"# trial {best.number}: {best.value:.4f}\n{dump_config(config)}", encoding="utf-8")
    return SearchResult(
        value=float(study.best_value),
        overrides={key: str(value) for key, value in best.params.items()},
        best_config=best_config,
        num_finished=len(finished),
        num_pruned=len(_done(study)) - len(finished),
        is_finished=is_finished,
    )
