"""The simulated cell in real time, for the other processes what hardware is: an arm's controller, and a camera.

One process steps physics and servos by the machine's clock, another renders the camera's frames, which takes longer
than a control period. `SharedArm` and `SharedCamera` are their drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import ArmError, CameraError
from handeye.robot.pick import PickConfig
from handeye.robot.realtime.child import Link
from handeye.robot.realtime.messages import ArmCommand, JudgeEpisode, LoadScene, Ready, Rings, Verdict
from handeye.robot.realtime.scheduling import CAMERA_PRIORITY, HARDWARE_PRIORITY, become_realtime
from handeye.robot.realtime.shared_ring import SharedRing
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.limit_watch import LimitWatch
from handeye.robot.simulator.scene import PHYSICS_DT_S
from handeye.robot.simulator.servo_arm import within_limits
from handeye.robot.simulator.success import PickSuccessCheck
from handeye.robot.timing import MonotonicClock
from handeye.robot.types import Frame, JointState

POLL_S = 0.001


class SharedArm:
    """A robot.interfaces.Arm: the driver of an arm whose controller runs in another process."""

    def __init__(self, cell: WorkCellConfig, states: SharedRing[JointState], commands: SharedRing[ArmCommand]) -> None:
        self._cell, self._states, self._commands = cell, states, commands
        self._clock = MonotonicClock()
        self._opening_m = cell.gripper.opening_max_m

    def __enter__(self) -> SharedArm:
        """Raises ArmError where the controller has not told its state."""
        self._opening_m = self.read_state().gripper_opening_m
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the arm."""
        self.stop()

    def read_state(self) -> JointState:
        """The newest state that the controller has told. Raises ArmError before the first."""
        state = self._states.latest()
        if state is None:
            raise ArmError("the arm's controller has not told its state")
        return state

    def command(self, qpos_command: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Float[np.ndarray, " 6"]:
        """Send a set-point, clamped to the limits. Raises ArmError for one that is not finite."""
        sent, self._opening_m = within_limits(qpos_command, gripper_opening_m, self._cell)
        self._commands.write(ArmCommand(sent, self._opening_m, self._clock.now_s()))
        return sent

    def stop(self) -> None:
        """Tell the controller to brake."""
        self._commands.write(ArmCommand(None, self._opening_m, self._clock.now_s()))


class SharedCamera:
    """A robot.interfaces.Camera: frames that another process writes."""

    def __init__(self, frames: SharedRing[Frame]) -> None:
        self._frames = frames
        self._count, self._last = 0, None

    def __enter__(self) -> SharedCamera:
        """Nothing to open."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def read(self) -> Frame:
        """The newest frame. Raises CameraError before the first."""
        if self._frames.count > self._count:
            self._count, self._last = self._frames.count, self._frames.latest() or self._last
        if self._last is None:
            raise CameraError("no frame yet")
        return self._last


def run_simulator(link: Link, config: PickConfig, rings: Rings) -> None:
    """Load a scene when told, and let it run in real time until asked for the verdict."""
    simulator = _Simulator(config, rings)
    become_realtime(HARDWARE_PRIORITY, lock_memory=False)
    link.send(Ready())
    while True:
        message = link.next_message(None)
        if isinstance(message, LoadScene):
            simulator.load(message)
            link.send(Ready())
            link.send(simulator.play(link.next_message))


def run_camera(link: Link, config: PickConfig, rings: Rings) -> None:
    """Render the frame of each exposure, and give it out when its latency has passed."""
    clock = MonotonicClock()
    cell = SimulatedCell(config.cell, config.simulator)
    become_realtime(CAMERA_PRIORITY, lock_memory=False)
    with cell.camera:
        link.send(Ready())
        done = 0
        while True:
            message = link.next_message(0.0 if cell.physics.is_loaded else None)
            if isinstance(message, LoadScene):
                cell.reset(message.seed)
                done = rings.exposures.count
                link.send(Ready())
            exposure = rings.exposures.latest() if rings.exposures.count > done else None
            if exposure is None:
                clock.wait_until(clock.now_s() + POLL_S)
                continue
            done = rings.exposures.count
            frame = cell.camera.render(exposure)
            clock.wait_until(exposure.stamp_s + config.latency.camera_s)
            rings.frames.write(frame)


class _Simulator:
    """Scene, servos and judge, stepped by the machine's clock."""

    def __init__(self, config: PickConfig, rings: Rings) -> None:
        self._config, self._rings = config, rings
        self._cell = SimulatedCell(config.cell, config.simulator)
        self._check = PickSuccessCheck(self._cell)
        self._clock = MonotonicClock()

    def load(self, message: LoadScene) -> None:
        """Sample the scene and stand at home; time begins with `play`."""
        self._cell.reset(message.seed, message.faults)
        self._check.reset()
        self._cell.arm.__enter__()
        self._exposure_number = -1
        self._seen = self._rings.commands.count
        self._due_s = -np.inf

    def play(self, next_message: Callable[[], object]) -> Verdict:
        """Step by step until JudgeEpisode, and for its coast_s more."""
        physics = self._cell.physics
        self._epoch_s, until_s = self._clock.now_s(), np.inf
        with LimitWatch(physics, self._config.cell, self._config.safety) as watch:
            while physics.now_s() < until_s:
                self._clock.wait_until(self._epoch_s + physics.now_s() + PHYSICS_DT_S)
                self._take_commands(watch)
                physics.wait_until(physics.now_s() + PHYSICS_DT_S)
                self._publish()
                message = next_message()
                if isinstance(message, JudgeEpisode):
                    until_s = physics.now_s() + message.coast_s
        breaches = {name: count for name, count in watch.breaches.items() if count}
        return Verdict(self._check(), breaches, self._epoch_s + watch.last_moved_s)

    def _take_commands(self, watch: LimitWatch) -> None:
        """Hand over what has arrived. The controller keeps even periods: jitter within half a one is not followed."""
        commands, self._seen = self._rings.commands.since(self._seen)
        dt_s = 1.0 / self._config.cell.control_hz
        for command in commands:
            if command.qpos is None:
                self._cell.arm.stop()
                continue
            due_s = command.sent_s - self._epoch_s + self._config.latency.actuation_s
            even_s = self._due_s + dt_s
            self._due_s = even_s if abs(due_s - even_s) < 0.5 * dt_s else due_s
            self._cell.arm.schedule(command.qpos, command.opening_m, self._due_s)
            watch.note_sent(command.qpos)

    def _publish(self) -> None:
        state = self._cell.arm.read_state()
        self._rings.states.write(replace(state, stamp_s=self._epoch_s + state.stamp_s))
        exposure = self._cell.camera.newest_exposure
        if exposure is not None and exposure.number > self._exposure_number:
            self._exposure_number = exposure.number
            self._rings.exposures.write(replace(exposure, stamp_s=self._epoch_s + exposure.stamp_s))
