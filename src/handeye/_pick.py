"""Pick and place in the simulator and measure success: the public functions of `handeye pick` and `evaluate-policy`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.pick import SHIPPED_DETECTOR, SHIPPED_POLICY, Output, PickConfig, run_episodes
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.robot.realtime.station import RealtimeStation
from handeye.robot.simulator.device_faults import FAULT_NAMES, PROCESS_FAULTS, FaultName
from handeye.robot.simulator.renderers import RendererKind
from handeye.robot.viewer.report import summarise_episodes
from handeye.vision.config import dump_config, load_config
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.files import replacing, write_json

RendererName = Literal["auto", "gl", "rays"]
ClockName = Literal["lockstep", "real"]
OnEpisode = Callable[[EpisodeResult], None]
FAULT_KEYS = (
    "episodes",
    "successes",
    "stops",
    "failures",
    "limit_breaches",
    "contacts",
    "stop_s_max",
    "cycle_s_median",
)


def pick(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    episodes: int = 1,
    seed: int = 0,
    policy: str | Path = "scripted",
    detector: str | Path | None = None,
    renderer: RendererName = "auto",
    workers: int = 1,
    output: str | Path | None = None,
    video: bool = True,
    faults: str | None = None,
    clock: ClockName = "lockstep",
    on_episode: OnEpisode | None = None,
    keep_interrupted: bool = False,
) -> dict[str, Any]:
    """Run simulated pick-and-place episodes and report their success.

    config: configuration file of the cell; None takes the defaults. overrides: values that replace those of the file,
    as on the command line: ["timeout_s=30"].
    episodes, seed: how many, and the seed of the first one; episode k has seed + k and depends on nothing else.
    policy: "scripted", "act" (the trained policy that ships) or the file of an exported policy (.onnx).
    detector: ONNX file; None takes the one that ships. renderer: "gl", "rays" (needs no OpenGL) or "auto".
    workers: processes that share the episodes; the results do not depend on it.
    output: folder for report.json, config.yaml and a folder of files per episode; video: with film and contact sheet.
    faults: the name of a fault to inject into every episode, or "all": the episodes once for each kind.
    clock: "lockstep" repeats exactly from the seed; "real" runs simulator, control, and perception and policy as
    processes by the machine's clock, and measures latency.
    on_episode: called with each result. keep_interrupted: Ctrl-C ends the run, and the report is of what was played.

    Returns episodes, successes, success_rate, wilson_low, wilson_high (95 % interval), gate_violations, limit_breaches
    (limits broken by the simulator's truth), contacts (touches of the arm with itself, table, fixture and clutter, of
    any force), stops {reason: count}, with faults also faults {name: its part of these}, cycle_s_median (simulated
    seconds, None without a success), failures {reason: count}, stages {stage: {p50_ms, p95_ms, p99_ms, count}}, results
    (one per episode), seed, detector, renderer and policy. With a real clock also latency_ms {p50, p99, count} (frame
    exposure to the first command that rests on it) and period {lateness_p99_ms, missed_fraction, missed, count}.
    Raises UserErrors for arguments, files and configurations that are wrong.
    """
    policy_file = find_policy(policy)
    names = _fault_names(faults, clock)
    if clock == "real" and workers != 1:
        raise UserError(f"--clock real --workers {workers}: one cell runs in real time; leave --workers out")
    run = _Run.prepare(config, overrides, episodes, seed, detector, renderer, workers, output, clock=clock)
    results: list[EpisodeResult] = []
    of_fault: dict[str, dict[str, Any]] = {}
    for name in names:
        recording = None if run.output is None else Output(run.output / name if name else run.output, video)
        played = run.with_fault(name).play(policy_file, recording, on_episode, keep_interrupted=keep_interrupted)
        results += played
        if name:
            summary = summarise_episodes(played)
            of_fault[name] = {key: summary[key] for key in FAULT_KEYS}
        if len(played) < episodes:
            break
    report = run.describe(results) | {"policy": "scripted" if policy_file is None else policy_file.name}
    if of_fault:
        report["faults"] = of_fault
    run.save(report)
    return report


def evaluate_policy(
    policy: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    episodes: int = 200,
    seed: int = 1000,
    detector: str | Path | None = None,
    renderer: RendererName = "auto",
    workers: int = 1,
    output: str | Path | None = None,
    failure_videos: int = 5,
    on_episode: OnEpisode | None = None,
    keep_interrupted: bool = False,
) -> dict[str, Any]:
    """Measure the success rate of a trained policy over simulated episodes, with its 95 % interval.

    policy: a checkpoint of `handeye train-policy` (.safetensors, which needs torch) or an exported policy (.onnx).
    seed: that of the first episode; demonstrations have seeds from 0 on, so the default keeps clear of them.
    failure_videos: with output, play so many of the failures again and record them.
    The other arguments, and the keys of the result, are those of `handeye.pick`; policy_sha256, blending,
    random_faults and failure_videos {seed: folder} join them.

    Raises ModelFileError for a file that is no policy, and for a checkpoint whose export computes something else.
    """
    if failure_videos < 0:
        raise UserError(f"--failure-videos {failure_videos}: expected 0 or more")
    run = _Run.prepare(config, overrides, episodes, seed, detector, renderer, workers, output)
    path = Path(policy)
    with exported_policy(path) as onnx_path:
        results = run.play(onnx_path, None, on_episode, keep_interrupted=keep_interrupted)
        report = run.describe(results) | {
            "policy": path.name,
            "policy_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "blending": run.config.learned.blending.model_dump(mode="json"),
            "random_faults": run.config.random_faults.model_dump(mode="json"),
            "failure_videos": {},
        }
        run.save(report)
        report["failure_videos"] = run.record_failures(onnx_path, results, failure_videos)
        run.save(report)
    return report


def load_policy(path: str | Path, *, threads: int | None = None) -> OnnxPolicy:
    """Load a trained policy: `policy.predict(state=..., ...)` gives a chunk of actions, (T, A), one row per 1 / fps s.

    path: an exported policy (.onnx), or a checkpoint (.safetensors), which is exported first and needs torch.
    threads: threads of the inference engine; None takes one per processor.

    `policy.signature` names its inputs, their shapes and the actions. Raises ModelFileError for a file that is no
    policy, MissingPackageError for an engine that is not installed.
    """
    with exported_policy(Path(path)) as onnx_path:
        return OnnxPolicy.load(onnx_path, num_threads=threads)


def _fault_names(faults: str | None, clock: ClockName) -> Sequence[FaultName | Literal[""]]:
    """The faults to inject one after the other, "" for none. Raises UserError for a name that is not known."""
    if faults is None:
        return [""]
    if faults != "all" and faults not in FAULT_NAMES:
        raise UserError(f"--faults {faults}: expected all or one of {', '.join(FAULT_NAMES)}")
    if faults in PROCESS_FAULTS and clock != "real":
        raise UserError(f"--faults {faults}: in lock-step there is one process; add --clock real")
    return [
        name
        for name in FAULT_NAMES
        if faults == name or (faults == "all" and (clock == "real" or name not in PROCESS_FAULTS))
    ]


def find_policy(policy: str | Path) -> Path | None:
    """The file of a policy by its name, None for the scripted one. Raises UserError where it does not exist."""
    if policy == "scripted":
        return None
    path = SHIPPED_POLICY if policy == "act" else Path(policy)
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such policy; name one with --policy-file FILE.onnx, or make it with "
            "`handeye record` and `handeye train-policy configs/policy/pick_state.yaml`"
        )
    return path


def find_detector(detector: str | Path | None) -> Path:
    """The detector's file. Raises UserError, saying how to make one, where it does not exist."""
    path = SHIPPED_DETECTOR if detector is None else Path(detector)
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such detector; name one with --detector FILE.onnx, or make it with "
            "`handeye train configs/detector/tabletop_nano.yaml` and `handeye export`"
        )
    return path


@contextmanager
def exported_policy(policy: Path) -> Iterator[Path]:
    """The policy as ONNX file, which a checkpoint is exported to for as long as the context lasts.

    Raises ModelFileError for what is no policy, and for a checkpoint whose export computes something else.
    """
    if policy.suffix == ".onnx":
        yield policy
        return
    from handeye.tools.export_policy import EXPORTED, export_checkpoint  # needs torch, which an ONNX policy does not

    with tempfile.TemporaryDirectory() as folder:
        exported = export_checkpoint(policy, Path(folder) / EXPORTED)
        if not exported.is_faithful:
            raise ModelFileError(f"{policy}: its export computes something else: {exported.describe()}")
        yield exported.path


@dataclass(frozen=True)
class _Run:
    """Checked arguments of a run of episodes."""

    config: PickConfig
    seeds: range
    detector: Path
    workers: int
    output: Path | None
    clock: ClockName

    @classmethod
    def prepare(
        cls,
        config: str | Path | None,
        overrides: Sequence[str],
        episodes: int,
        seed: int,
        detector: str | Path | None,
        renderer: RendererName,
        workers: int,
        output: str | Path | None,
        *,
        clock: ClockName = "lockstep",
    ) -> _Run:
        """Check everything that can be checked before the first episode, and save the configuration."""
        for name, value in (("episodes", episodes), ("workers", workers)):
            if value < 1:
                raise UserError(f"--{name} {value}: expected at least 1")
        if seed < 0:
            raise UserError(f"--seed {seed}: expected 0 or more")
        found = find_detector(detector)
        chosen = [] if renderer == RendererKind.AUTO.value else [f"simulator.renderer={renderer}"]
        loaded = load_config(PickConfig, None if config is None else Path(config), [*overrides, *chosen])
        folder = None if output is None else Path(output)
        if folder is not None:
            with replacing(folder / "config.yaml") as beside:
                beside.write_text(dump_config(loaded), encoding="utf-8")
        return cls(loaded, range(seed, seed + episodes), found, workers, folder, clock)

    def with_fault(self, name: FaultName | Literal[""]) -> _Run:
        """The same with a fault in every episode, as it is without a name."""
        return replace(self, config=self.config.model_copy(update={"fault": name})) if name else self

    def play(
        self, policy: Path | None, recording: Output | None, on_episode: OnEpisode | None, *, keep_interrupted: bool
    ) -> list[EpisodeResult]:
        """The results in the order of the seeds."""
        results: list[EpisodeResult] = []
        try:
            for result in self._episodes(policy, recording):
                if on_episode is not None:
                    on_episode(result)
                results.append(result)
        except KeyboardInterrupt:
            if not (keep_interrupted and results):
                raise
        return results

    def _episodes(self, policy: Path | None, recording: Output | None) -> Iterator[EpisodeResult]:
        if self.clock == "lockstep":
            yield from run_episodes(
                self.config, self.seeds, self.detector, output=recording, workers=self.workers, policy=policy
            )
            return
        with RealtimeStation(self.config, self.detector, policy) as station:
            for seed in self.seeds:
                yield station.run(seed, output=recording)

    def describe(self, results: Sequence[EpisodeResult]) -> dict[str, Any]:
        """The report, with what it was measured on."""
        return summarise_episodes(results) | {
            "seed": self.seeds.start,
            "detector": self.detector.name,
            "renderer": self.config.simulator.renderer.value,
        }

    def record_failures(self, policy: Path, results: Sequence[EpisodeResult], most: int) -> dict[str, str]:
        """Play the first failures again, which go as before, with video: seed -> folder of its files."""
        failed = [result.seed for result in results if not result.success][:most]
        if self.output is None or not failed:
            return {}
        recording, workers = Output(self.output, video=True), min(self.workers, len(failed))
        for _ in run_episodes(self.config, failed, self.detector, output=recording, workers=workers, policy=policy):
            pass
        return {str(seed): str(recording.episode_folder(seed)) for seed in failed}

    def save(self, report: dict[str, Any]) -> None:
        """Write report.json into the output folder, if there is one."""
        if self.output is not None:
            write_json(self.output / "report.json", report)
