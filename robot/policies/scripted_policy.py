"""The scripted pick skill as a policy: runs the script of `robot.policies.scripted_pick` one tick at a time."""

from __future__ import annotations

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import KinematicsError, MotionPlanningError
from handeye.robot.interfaces import Outcome, PickTask, PolicyStatus
from handeye.robot.policies.motions import Motions, Script
from handeye.robot.policies.scripted_pick import FailureReason, PickScript, PickSkillConfig, Stage, TaskFailed
from handeye.robot.types import ActionChunk, Observation


class PickSkill:
    """Picks one object of a class and puts it into a place; implements `robot.interfaces.Policy`."""

    def __init__(self, cell: WorkCellConfig, config: PickSkillConfig) -> None:
        self._cell = cell
        self._config = config
        self._task: PickTask | None = None
        self._run: _Run | None = None
        self._status = PolicyStatus(Stage.LOOK.value, Outcome.RUNNING)

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task` with the next observation."""
        self._task = task
        self._run = None
        self._status = PolicyStatus(Stage.LOOK.value, Outcome.RUNNING)

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest `act`."""
        return self._status

    def act(self, observation: Observation) -> ActionChunk:
        """What to do from `observation.stamp_s` on. Raises RuntimeError before the first `reset`."""
        if self._task is None:
            raise RuntimeError("the skill has no task yet: call reset first")
        if self._run is None:
            self._run = _Run(self._cell, self._config, self._task, observation)
        self._run.motions.update(observation)
        if self._status.is_over:
            return self._run.motions.hold_chunk()
        if observation.stamp_s - self._run.began_s > self._config.timeout_s:
            return self._finish(self._run, Outcome.FAILED, FailureReason.TIMEOUT)
        return self._next_chunk(self._run)

    def _next_chunk(self, run: _Run) -> ActionChunk:
        try:
            chunk = next(run.steps)
        except StopIteration:
            return self._finish(run, Outcome.SUCCEEDED, None)
        except TaskFailed as failure:
            return self._finish(run, Outcome.FAILED, failure.reason)
        except (MotionPlanningError, KinematicsError):
            return self._finish(run, Outcome.FAILED, FailureReason.MOTION_FAILED)
        self._status = PolicyStatus(run.script.stage.value, Outcome.RUNNING, attempts=run.script.attempts)
        return chunk

    def _finish(self, run: _Run, outcome: Outcome, reason: FailureReason | None) -> ActionChunk:
        """The stage of a failure stays what it was; a success is done."""
        stage = Stage.DONE if outcome is Outcome.SUCCEEDED else run.script.stage
        self._status = PolicyStatus(stage.value, outcome, None if reason is None else reason.value, run.script.attempts)
        return run.motions.hold_chunk()


class _Run:
    """One task from its first observation on."""

    def __init__(self, cell: WorkCellConfig, config: PickSkillConfig, task: PickTask, observation: Observation) -> None:
        self.began_s = observation.stamp_s
        self.motions = Motions(cell, config.motion, observation)
        self.script = PickScript(cell, config, task, self.motions)
        self.steps: Script[None] = self.script.run()
