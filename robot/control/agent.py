"""The deciding side of a robot: perception and policy, from frames and joints to action chunks.

In lock-step `ControlLoop` calls it between two commands; with a real clock it has a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from handeye.robot.control.controller import named_failure
from handeye.robot.interfaces import PickTask, Policy, PolicyStatus
from handeye.robot.perception.pipeline import JointHistory, Percept, Perception
from handeye.robot.timing import STAMP_TOLERANCE_S, StageTimer
from handeye.robot.types import ActionChunk, CommandState, Frame, JointState, Observation, Track


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a policy has decided: a chunk, the status by its own account, and the exposure of the newest frame, s."""

    chunk: ActionChunk
    status: PolicyStatus
    frame_stamp_s: float


class Agent:
    """Perception and policy with what they know: recent joints, tracks, and a frame that no decision has seen yet."""

    def __init__(self, perception: Perception, policy: Policy, timer: StageTimer) -> None:
        self._perception, self._policy, self._timer = perception, policy, timer
        self._forget(float("-inf"))

    def begin(self, task: PickTask, stamp_s: float) -> None:
        """Forget everything and start a task; frames count from stamp_s on. Raises StageError."""
        self._perception.reset()
        with named_failure("policy"):
            self._policy.reset(task)
        self._forget(stamp_s)

    def _forget(self, stamp_s: float) -> None:
        self.history = JointHistory()
        self.frame_stamp_s = stamp_s
        """Exposure of the newest frame that decisions know, s."""
        self._tracks: tuple[Track, ...] = ()
        self._unseen: Percept | None = None

    @property
    def status(self) -> PolicyStatus:
        """The policy's, after its latest decision."""
        return self._policy.status

    def perceive(self, frame: Frame) -> Percept:
        """What a frame shows, with the joints at its exposure out of `history`. Raises StageError."""
        with named_failure("perception"):
            return self._perception.perceive(frame, self.history.state_at(frame.stamp_s))

    def take(self, percept: Percept) -> None:
        """From now on decisions know this."""
        self.frame_stamp_s = percept.frame.stamp_s
        self._tracks = percept.tracks
        self._unseen = percept

    def decide(self, stamp_s: float, joints: JointState, command: CommandState | None, *, is_held: bool) -> Plan:
        """The plan from stamp_s on; a frame is shown to the policy once. Raises StageError."""
        percept, self._unseen = self._unseen, None
        observation = Observation(
            joints,
            None if percept is None else percept.frame,
            self._tracks,
            stamp_s,
            command=command,
            is_held=is_held,
            T_base_camera=None if percept is None else percept.T_base_camera,
        )
        with self._timer.stage("decide"), named_failure("policy"):
            return Plan(self._policy.act(observation), self._policy.status, self.frame_stamp_s)


def observation_age_s(joints: JointState, frame_stamp_s: float, now_s: float, frame_period_s: float) -> float:
    """Age of the older of joints and newest frame, s, beyond the one period that a frame may be old.

    Negative where one of the two is stamped ahead of now.
    """
    newest_s = max(joints.stamp_s, frame_stamp_s)
    if newest_s > now_s + STAMP_TOLERANCE_S:
        return now_s - newest_s
    return max(now_s - joints.stamp_s, now_s - frame_stamp_s - frame_period_s, 0.0)
