"""Execute predicted action chunks: one after another, temporally ensembled, or asynchronously.

Row i of a prediction is meant for i + 1 periods after its observation, however long inference took. So a late chunk
is entered at the present time, and its past rows are skipped.
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

from handeye.robot.motion.set_points import ROW_TOLERANCE, snap_to_row
from handeye.robot.timing import Delayed
from handeye.vision.config import Config

Images = Mapping[str, UInt8[np.ndarray, "_ _ 3"]]


@runtime_checkable
class ChunkPredictor(Protocol):
    """A trained policy: state, images and environment state in, one chunk of actions in units out."""

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
        """Names of the numbers of the state."""
        ...

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Names of the numbers of the environment state; empty where it takes none."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the numbers of a row."""
        ...

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Keys of the images that `predict` takes."""
        ...

    def predict(
        self, state: Float[np.ndarray, " S"], images: Images, environment: Float[np.ndarray, " E"] | None = None
    ) -> Float[np.ndarray, "T A"]:
        """The chunk for one observation."""
        ...


class SynchronousConfig(Config):
    """The loop waits for the network, follows `rows` rows and runs it again."""

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
    """None: as long as the network takes, in a thread. A number: exactly this long by the clock, repeatable."""


BlendingConfig = Annotated[SynchronousConfig | EnsembledConfig | AsynchronousConfig, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A chunk and the time of its observation: row i is meant for observed_s + (i + 1) period_s."""

    actions: Float[np.ndarray, "T A"]
    observed_s: float
    period_s: float

    def row_at(self, stamp_s: float) -> float:
        """The row meant for a time, with a fraction; -1 is the time of the observation."""
        return snap_to_row((stamp_s - self.observed_s) / self.period_s - 1.0)

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
    """When to run the network, and which action its predictions give at a time."""

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Once a period. `ask` runs the network on the observation made at `stamp_s`; it may be called later."""
        ...

    def refresh(self, stamp_s: float) -> bool:
        """Take in what was computed in the background by now; whether anything came."""
        ...

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The action for a time, now or later, by the predictions so far; None while there is none."""
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
            inference = ThreadedInference() if latency_s is None else DelayedInference(latency_s)
            return Asynchronous(period_s, config.rows, config.fade_rows, inference)
        case _:
            assert_never(config)


class Synchronous:
    """One chunk after another."""

    def __init__(self, period_s: float, rows: int) -> None:
        self._period_s = period_s
        self._wait_s = (rows - ROW_TOLERANCE) * period_s
        self._asked_s = -np.inf
        self._newest: Prediction | None = None

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Run the network when enough rows have been followed."""
        newest = self._newest
        since_s = stamp_s - self._asked_s
        if newest is None or newest.row_at(stamp_s) >= len(newest.actions) - 1 or since_s >= self._wait_s:
            self._newest = join(ask(), stamp_s, self._period_s, newest)
            self._asked_s = stamp_s

    def refresh(self, stamp_s: float) -> bool:
        """Nothing runs in the background."""
        return False

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The action of the newest chunk."""
        return None if self._newest is None else self._newest.at(stamp_s)

    def close(self) -> None:
        """Nothing runs in the background."""


class Ensembled:
    """Temporal ensembling: the weighted mean of every chunk that covers a time."""

    def __init__(self, period_s: float, decay: float) -> None:
        self._period_s, self._decay = period_s, decay
        self._predictions: list[Prediction] = []

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Run the network, and forget chunks whose time is over."""
        self._predictions = [old for old in self._predictions if old.covers(stamp_s)]
        self._predictions.append(Prediction(ask(), stamp_s, self._period_s))

    def refresh(self, stamp_s: float) -> bool:
        """Nothing runs in the background."""
        return False

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The mean of the chunks that cover the time; the action of the newest where none does."""
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
    """Inference in the background: a request now, its result later."""

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Begin; called only while no request is pending."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether a request is pending."""
        ...

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The result if it is there by `stamp_s`; errors of the network pass through."""
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...


class DelayedInference:
    """For lock-step: computed at once, handed out after a fixed time by the clock."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._result: Delayed[Float[np.ndarray, "T A"]] = Delayed()

    @property
    def is_busy(self) -> bool:
        """Whether a request is pending."""
        return self._result.is_busy

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Run the network now."""
        self._result.begin(ask(), stamp_s + self._latency_s)

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The result once its time has come."""
        return self._result.take(stamp_s)

    def close(self) -> None:
        """Nothing runs."""


class ThreadedInference:
    """For the real clock: runs in a thread; inference engines release the GIL."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._future: Future[Float[np.ndarray, "T A"]] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request is pending."""
        return self._future is not None

    def request(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Run the network in the thread."""
        self._future = self._pool.submit(ask)

    def take(self, stamp_s: float) -> Float[np.ndarray, "T A"] | None:
        """The result if it has come."""
        if self._future is None or not self._future.done():
            return None
        result, self._future = self._future.result(), None
        return result

    def close(self) -> None:
        """Wait for what runs and end the thread."""
        self._pool.shutdown(cancel_futures=True)


class Asynchronous:
    """Follows one chunk while the next is computed; the step between the two is faded out."""

    def __init__(self, period_s: float, rows: int, fade_rows: int, inference: PendingInference) -> None:
        self._period_s = period_s
        self._wait_s = (rows - ROW_TOLERANCE) * period_s
        self._fade_s = fade_rows * period_s
        self._inference = inference
        self._asked_s = -np.inf
        self._newest: Prediction | None = None
        self._step: Float[np.ndarray, " A"] | None = None
        self._came_s = -np.inf

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Take a result that has come, and request the next when it is due and none is pending."""
        self.refresh(stamp_s)
        if not self._inference.is_busy and stamp_s - self._asked_s >= self._wait_s:
            self._inference.request(ask, stamp_s)
            self._asked_s = stamp_s
            self.refresh(stamp_s)

    def refresh(self, stamp_s: float) -> bool:
        """Take a result that has come by now."""
        result = self._inference.take(stamp_s)
        if result is None:
            return False
        in_force = self.action_at(stamp_s)
        self._newest = Prediction(result, self._asked_s, self._period_s)
        self._step = None if in_force is None else in_force - self._newest.at(stamp_s)
        self._came_s = stamp_s
        return True

    def action_at(self, stamp_s: float) -> Float[np.ndarray, " A"] | None:
        """The action of the newest chunk, plus what is left of the step by which it differed when it came."""
        if self._newest is None:
            return None
        left = 1.0 - (stamp_s - self._came_s) / self._fade_s
        action = self._newest.at(stamp_s)
        return action if self._step is None or left <= 0.0 else action + min(left, 1.0) * self._step

    def close(self) -> None:
        """End the computation."""
        self._inference.close()
