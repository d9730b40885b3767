"""`handeye track-files`: published figures through the command line, its JSON, and one line for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from handeye.tools.command_line import run_command
from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.tracking.mot_files import read_mot_tracks
from tests.vision.tracking.clear_mot import ClearMot

Find = Callable[[str], Path]
KEYS = ["frames", "tracks", "boxes", "update_ms_p50"]


def call(tmp_path: Path, *words: object) -> dict:
    fixed = ["--output", str(tmp_path / "tracks.txt"), "--json", str(tmp_path / "r.json")]
    assert run_command(["track-files", *map(str, words), *fixed]) == 0
    return json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize(
    ("tracker", "MOTA", "IDF1", "HOTA", "id_switches"),
    [("sort", 62.7, 60.6, 45.3, 6), ("bytetrack", 62.1, 69.4, 49.9, 3), ("ocsort", 58.8, 69.2, 49.9, 3)],
)
def test_tud_campus(
    shared: Find,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tracker: str,
    MOTA: float,  # noqa: N803
    IDF1: float,  # noqa: N803
    HOTA: float,  # noqa: N803
    id_switches: int,
) -> None:
    folder = shared("data/mot15/TUD-Campus")
    truth = folder / "gt/gt.txt"
    result = call(tmp_path, folder / "det/det.txt", "--tracker", tracker, "--ground-truth", truth)
    assert (result["frames"], result["tracker"], result["id_switches"]) == (71, tracker, id_switches)
    assert (result["MOTA"], result["IDF1"], result["HOTA"]) == pytest.approx((MOTA, IDF1, HOTA), abs=0.1)
    assert result["update_ms_p50"] > 0
    tracks = read_mot_tracks(tmp_path / "tracks.txt")
    assert len(set(tracks.ids.tolist())) == result["tracks"]
    assert len(tracks) == result["boxes"]
    assert f"MOTA {result['MOTA']}" in capsys.readouterr().out


@pytest.mark.parametrize("tracker", ["sort", "bytetrack", "ocsort"])
def test_figures_of_cubes_on_the_table_are_those_of_a_second_count(sample: Find, tmp_path: Path, tracker: str) -> None:
    """Misses, switches, MOTA and IDF1 counted from the written file without the package that the command judges by."""
    truth = read_mot_tracks(sample("mot/gt.txt"))
    result = call(tmp_path, sample("mot/det.txt"), "--tracker", tracker, "--ground-truth", sample("mot/gt.txt"))
    tracks, count = read_mot_tracks(tmp_path / "tracks.txt"), ClearMot(max_distance=0.5)
    together = np.zeros((truth.ids.max() + 1, tracks.ids.max() + 1))
    for here, there in zip(truth.by_frame(39), tracks.by_frame(39), strict=True):
        overlaps = pairwise_iou(here.boxes_xyxy, there.boxes_xyxy)
        count.add(here.ids.tolist(), there.ids.tolist(), 1 - overlaps)
        together[np.ix_(here.ids, there.ids)] += overlaps >= 0.5
    identities = together[linear_sum_assignment(-together)].sum()
    assert (result["frames"], result["misses"], result["id_switches"]) == (39, count.num_misses, count.num_switches)
    assert result["MOTA"] == pytest.approx(100 * count.mota, abs=0.051), "rounded to a tenth of a percent"
    assert result["IDF1"] == pytest.approx(200 * identities / (len(truth) + len(tracks)), abs=0.051)
    assert result["MOTA"] > 90


def test_a_tracked_reflection_is_forgiven_and_scores_may_be_in_per_cent(tmp_path: Path) -> None:
    """Two persons and a reflection (class 12, flag 0): by the benchmark's rule nothing is wrong."""
    rows = [(frame, number, 100 * number + 6 * frame) for frame in range(1, 21) for number in range(3)]
    (tmp_path / "det.txt").write_text("\n".join(f"{frame},-1,{left},20,40,100,90" for frame, _, left in rows))
    for flag, label, false_positives in ((0, 12, 0), (0, 3, 20)):
        lines = [f"{f},{n},{left},20,40,100,{f'{flag},{label}' if n == 2 else '1,1'},1" for f, n, left in rows]
        (tmp_path / "gt.txt").write_text("\n".join(lines))
        result = call(tmp_path, tmp_path / "det.txt", "--ground-truth", tmp_path / "gt.txt", "--score-scale", "100")
        assert (result["false_positives"], result["misses"]) == (false_positives, 0)
        assert result["MOTA"] == 100 * (1 - false_positives / 40)


def test_without_ground_truth_there_are_no_figures_and_bytetrack_is_taken(sample: Find, tmp_path: Path) -> None:
    result = call(tmp_path, sample("mot/det.txt"))
    assert list(result) == [*KEYS, "tracker", "output"]
    assert result["tracker"] == "bytetrack"


def test_settings_from_a_file_and_from_the_command_line(sample: Find, tmp_path: Path) -> None:
    found = sample("mot/det.txt")
    plain = call(tmp_path, found, "--tracker", "ocsort")
    config = Path(__file__).resolve().parents[2] / "configs/robot/tracking_ocsort.yaml"
    from_file = call(tmp_path, found, "--config", config)
    assert from_file["boxes"] == plain["boxes"]
    patient = call(tmp_path, found, "--tracker", "ocsort", "tracker.min_hits=0", "--frame-rate", "25")
    assert patient["boxes"] > plain["boxes"]


def test_a_file_without_detections_is_tracked_too(tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("")
    result = call(tmp_path, tmp_path / "det.txt")
    assert (result["frames"], result["tracks"], result["update_ms_p50"]) == (0, 0, None)
    (tmp_path / "gt.txt").write_text("3,1,0,0,10,10,1,-1,-1,-1\n")
    result = call(tmp_path, tmp_path / "det.txt", "--ground-truth", tmp_path / "gt.txt")
    assert (result["frames"], result["misses"], result["MOTA"], result["HOTA"]) == (3, 1, 0.0, 0.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["absent.txt"], "absent.txt"),
        (["det.txt", "--ground-truth", "absent.txt"], "absent.txt"),
        (["bad.txt"], "bad.txt, line 2: expected numbers"),
        (["percent.txt"], "percent.txt, line 1: expected a score from 0 to 1, got 95"),
        (["det.txt", "--score-scale", "0"], "--score-scale: expected a number above 0"),
        (["huge.txt"], "huge.txt: expected finite boxes"),
        (["det.txt", "--ground-truth", "det.txt"], "det.txt, line 1: expected an id from 0 on"),
        (["det.txt", "--tracker", "sort", "--config", "c.yaml"], "give one of them"),
        (["det.txt", "tracker.max_agee=3"], "unknown key"),
        (["det.txt", "--config", "c.yaml"], "a MOT file has none"),
        (["tracks.txt"], "would overwrite"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("det.txt").write_text("1,-1,10,10,20,20,0.9,-1,-1,-1\n")
    Path("tracks.txt").write_text("1,-1,10,10,20,20,0.9,-1,-1,-1\n")
    Path("bad.txt").write_text("1,-1,10,10,20,20,0.9\n1,-1,x,10,20,20,0.9\n")
    Path("percent.txt").write_text("1,-1,10,10,20,20,95\n")
    Path("huge.txt").write_text("1,-1,1e39,10,20,20,0.9\n")
    Path("c.yaml").write_text("tracker: {kind: sort}\ncamera_motion: {}\n")
    assert run_command(["track-files", *words, "--output", "tracks.txt", "--json", "r.json"]) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert len(errors.strip().splitlines()) == 1
    assert not Path("r.json").exists()
    assert Path("tracks.txt").read_text().startswith("1,-1,10"), "untouched"


def test_an_unknown_tracker_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(["track-files", "det.txt", "--output", "o.txt", "--tracker", "magic"])
    assert stop.value.code == 2
    assert "bytetrack" in capsys.readouterr().err
