"""From a network that predicts chunks to one action at any time: one chunk after another, ensembled, or ahead of time.

Row i of a prediction is meant for i + 1 periods after its observation was made, however long the network took. So a
late chunk is entered where time has got to, and what the past rows would have done is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field
from typing_extensions import assert_never

from handeye.vision.config import Config

ON_A_ROW = 1e-6
"""Part of a period; a time this near to a row means that row."""

Images = Mapping[str, UInt8[np.ndarray, "_ _ 3"]]


@runtime_checkable
class ChunkPredictor(Protocol):
    """A trained policy: one state, pictures and surroundings as it wants them in, one chunk of actions in units out."""

    @property
    def fps(self) -> int:
        """Rows of a chunk in a second."""
        ...

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the numbers of a state."""
        ...

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Of the numbers of its surroundings, where it takes such apart."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of the numbers of a row."""
        ...

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Pictures that `predict` must be given."""
        ...

    def predict(
        self, state: Float[np.ndarray, " S"], images: Images, environment: Float[np.ndarray, " E"] | None = None
    ) -> Float[np.ndarray, "T A"]:
        """The chunk for one observation."""
        ...


class SynchronousConfig(Config):
    """The loop waits for the network, follows so many rows and asks again."""

    kind: Literal["synchronous"] = "synchronous"
    rows: int = Field(default=4, ge=1)


class EnsembledConfig(Config):
    """A chunk every period; each action is the mean of all predictions made for its time (Zhao et al. 2023)."""

    kind: Literal["ensembled"] = "ensembled"
    decay: float = Field(default=0.01, ge=0)
    """Weights are exp(-decay i), i = 0 for the oldest prediction: the larger, the less newer ones count."""


class AsynchronousConfig(Config):
    """The next chunk is computed while the last one is followed, then entered at the time it has reached."""

    kind: Literal["asynchronous"] = "asynchronous"
    rows: int = Field(default=4, ge=1)
    """Rows between one request and the next, at least."""
    fade_rows: int = Field(default=4, ge=1)
    """Rows over which the step from the old chunk to the new one is faded out."""
    simulated_latency_s: float | None = Field(default=None, ge=0)
    """None: as long as the network takes, in a thread. A number: exactly so much of the clock's time, repeatable."""


BlendingConfig = Annotated[SynchronousConfig | EnsembledConfig | AsynchronousConfig, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A chunk and when it was asked for: row i is meant for observed_s + (i + 1) period_s."""

    actions: Float[np.ndarray, "T A"]
    observed_s: float
    period_s: float

    def row_at(self, stamp_s: float) -> float:
        """The row meant for a time, with a fraction; -1 is the time of the observation."""
        row = (stamp_s - self.observed_s) / self.period_s - 1.0
        return float(round(row)) if abs(row - round(row)) < ON_A_ROW else row

    def covers(self, stamp_s: float) -> bool:
        """Whether there is a row for this time or rows on both sides of it."""
        return 0.0 <= self.row_at(stamp_s) <= len(self.actions) - 1

    def at(self, stamp_s: float) -> Float[np.ndarray, " A"]:
        """Linear between rows, and back to the time of the observation; the last row after them."""
        row = min(max(self.row_at(stamp_s), -1.0), len(self.actions) - 1.0)
        before = max(int(row), 0)
        after = min(before + 1, len(self.actions) - 1)
        return self.actions[before] + (row - before) * (self.actions[after] - self.actions[before])


def join(chunk: Float[np.ndarray, "T A"], observed_s: float, period_s: float, before: Prediction | None) -> Prediction:
    """The chunk with the action that was in force at its observation as its first row, so that it begins there."""
    if before is None:
        return Prediction(chunk, observed_s, period_s)
    return Prediction(np.concatenate([before.at(observed_s)[None], chunk]), observed_s - period_s, period_s)


@runtime_checkable
class Blending(Protocol):
    """Decides when to ask the network, and which action its answers mean at a time."""

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Once a period. `ask` runs the network on the observation made at `stamp_s`; it may be called later."""
        ...

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """What the predictions so far want at a time; None while there is none."""
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...


def build_blending(config: BlendingConfig, period_s: float) -> Blending:
    """The blending of a configuration, with nothing predicted yet. Make a new one for each episode."""
    match config:
        case SynchronousConfig():
            return Synchronous(period_s, config.rows)
        case EnsembledConfig():
            return Ensembled(period_s, config.decay)
        case AsynchronousConfig():
            latency_s = config.simulated_latency_s
            answers = ThreadedInference() if latency_s is None else DelayedInference(latency_s)
            return Asynchronous(period_s, config.rows, config.fade_rows, answers)
        case _:
            assert_never(config)


class Synchronous:
    """One chunk after another."""

    def __init__(self, period_s: float, rows: int) -> None:
        self._period_s = period_s
        self._wait_s = (rows - ON_A_ROW) * period_s
        self._asked_s = -np.inf
        self._newest: Prediction | None = None

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Ask when enough rows have been followed."""
        newest = self._newest
        since_s = stamp_s - self._asked_s
        if newest is None or newest.row_at(stamp_s) >= len(newest.actions) - 1 or since_s >= self._wait_s:
            self._newest = join(ask(), stamp_s, self._period_s, newest)
            self._asked_s = stamp_s

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The newest chunk's."""
        return None if self._newest is None else self._newest.at(stamp_s)

    def close(self) -> None:
        """Nothing runs in the background."""


class Ensembled:
    """The weighted mean of every chunk that has something to say."""

    def __init__(self, period_s: float, decay: float) -> None:
        self._period_s, self._decay = period_s, decay
        self._predictions: list[Prediction] = []

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Ask, and forget chunks whose time is over."""
        self._predictions = [old for old in self._predictions if old.covers(stamp_s)]
        self._predictions.append(Prediction(ask(), stamp_s, self._period_s))

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The mean of those that cover the time; the newest chunk's where none does."""
        if not self._predictions:
            return None
        covering = [prediction for prediction in self._predictions if prediction.covers(stamp_s)]
        if not covering:
            return self._predictions[-1].at(stamp_s)
        return ensemble([prediction.at(stamp_s) for prediction in covering], self._decay)

    def close(self) -> None:
        """Nothing runs in the background."""


def ensemble(actions: Sequence[Float[np.ndarray, " A"]], decay: float) -> Float[np.ndarray, " A"]:
    """Mean of predictions for one time, the oldest first, with weights exp(-decay i) from the oldest on.

    As published; but which predictions exist is known from their times and not from their values, so an action of
    all zeros counts (the original drops it).
    """
    weights = np.exp(-decay * np.arange(len(actions)))
    return (weights[:, None] * np.stack(actions)).sum(axis=0) / weights.sum()


@runtime_checkable
class PendingInference(Protocol):
    """Runs the network aside: a request now, its answer later."""

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Begin; called only while nothing is under way."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether an answer has been asked for and not been taken."""
        ...

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The answer if it is there by `stamp_s`; errors of the network pass through."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


class DelayedInference:
    """For lock-step: computed at once, handed out after a fixed time of the clock."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._waiting: tuple[float, Float[np.ndarray, "T A"]] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return self._waiting is not None

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Ask now."""
        self._waiting = (stamp_s + self._latency_s, ask())

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The answer once its time has come."""
        if self._waiting is None or stamp_s < self._waiting[0] - ON_A_ROW:
            return None
        answer, self._waiting = self._waiting[1], None
        return answer

    def close(self) -> None:
        """Nothing runs."""


class ThreadedInference:
    """For the real clock: a thread of its own; inference engines let other threads run meanwhile."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._future: Future[Float[np.ndarray, "T A"]] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is under way."""
        return self._future is not None

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Ask in the thread."""
        self._future = self._pool.submit(ask)

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The answer if it has come."""
        if self._future is None or not self._future.done():
            return None
        answer, self._future = self._future.result(), None
        return answer

    def close(self) -> None:
        """Wait for what runs and end the thread."""
        self._pool.shutdown(cancel_futures=True)


class Asynchronous:
    """Follows one chunk while the next is computed; the step between the two is faded out, never jumped over."""

    def __init__(self, period_s: float, rows: int, fade_rows: int, answers: PendingInference) -> None:
        self._period_s = period_s
        self._wait_s = (rows - ON_A_ROW) * period_s
        self._fade_s = fade_rows * period_s
        self._answers = answers
        self._asked_s = -np.inf
        self._newest: Prediction | None = None
        self._step: Float[np.ndarray, " A"] | None = None
        self._came_s = -np.inf

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Take an answer that has come, and ask anew when it is time and nothing is under way."""
        self._take(stamp_s)
        if not self._answers.is_busy and stamp_s - self._asked_s >= self._wait_s:
            self._answers.request(ask, stamp_s)
            self._asked_s = stamp_s
            self._take(stamp_s)

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The newest chunk's, and what is left of the step by which it differed when it came."""
        self._take(stamp_s)
        return self._faded(stamp_s)

    def close(self) -> None:
        """End the computation."""
        self._answers.close()

    def _faded(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        if self._newest is None:
            return None
        left = 1.0 - (stamp_s - self._came_s) / self._fade_s
        action = self._newest.at(stamp_s)
        return action if self._step is None or left <= 0.0 else action + min(left, 1.0) * self._step

    def _take(self, stamp_s: float) -> None:
        answer = self._answers.take(stamp_s)
        if answer is None:
            return
        in_force = self._faded(stamp_s)
        self._newest = Prediction(answer, self._asked_s, self._period_s)
        self._step = None if in_force is None else in_force - self._newest.at(stamp_s)
        self._came_s = stamp_s
