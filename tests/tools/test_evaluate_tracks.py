"""`handeye evaluate-tracks`: perfect tracks score 100, all sequences together are one, distractors are forgiven."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command

TRUTH = [f"{frame},{person},{100 * person},50,40,80,1,1,1" for frame in range(1, 21) for person in (1, 2)]
TRACKS = [f"{frame},{person + 5},{100 * person},50,40,80,0.9,-1,-1,-1" for frame in range(1, 21) for person in (1, 2)]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def scores_of(tracks: Path, truth: Path, *words: str) -> dict:
    result = tracks.parent / "scores.json"
    assert (
        run_command(["evaluate-tracks", str(tracks), "--ground-truth", str(truth), "--json", str(result), *words]) == 0
    )
    return json.loads(result.read_text())["sequences"]


def test_the_score_is_the_one_that_tracking_reported(sample: Callable[[str], Path], tmp_path: Path):
    truth, tracks = sample("mot/gt.txt"), tmp_path / "tracks.txt"
    words = ["track-files", str(sample("mot/det.txt")), "--output", str(tracks), "--ground-truth", str(truth)]
    assert run_command([*words, "--tracker", "ocsort", "--json", str(tmp_path / "r.json")]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    scores = scores_of(tracks, truth)["tracks"]
    assert scores == {key: told[key] for key in scores}
    assert 0 < scores["HOTA"] < 100


def test_sequences_together_are_scored_as_one_that_follows_the_other(tmp_path: Path):
    """Two people found whole in `a`, the second one never in `b`: 60 of 80 boxes, and no id is taken for another's."""
    truth = tmp_path / "MOT17/train"
    write(truth / "a/gt/gt.txt", TRUTH)
    write(truth / "b.txt", TRUTH)
    write(tmp_path / "results/a.txt", TRACKS)
    write(tmp_path / "results/b.txt", TRACKS[::2])
    scores = scores_of(tmp_path / "results", truth)
    assert list(scores) == ["a", "b", "all"]
    assert (scores["a"]["HOTA"], scores["a"]["MOTA"]) == (100, 100)
    assert (scores["b"]["MOTA"], scores["b"]["misses"]) == (50, 20)
    assert (scores["all"]["MOTA"], scores["all"]["misses"], scores["all"]["id_switches"]) == (75, 20, 0)
    assert (scores["all"]["DetA"], scores["all"]["AssA"]) == (75, 100)


@pytest.mark.parametrize(("benchmark", "category", "MOTA"), [("mot17", 8, 100), ("mot17", 6, 0), ("mot20", 6, 100)])
def test_tracks_on_a_benchmarks_distractors_are_forgiven(tmp_path: Path, benchmark: str, category: int, MOTA: float):  # noqa: N803
    truth = TRUTH[::2] + [line.replace(",1,1,1", f",0,{category},1") for line in TRUTH[1::2]]
    tracks = write(tmp_path / "tracks.txt", TRACKS)
    scores = scores_of(tracks, write(tmp_path / "gt.txt", truth), "--benchmark", benchmark)["tracks"]
    assert scores["MOTA"] == MOTA


@pytest.mark.parametrize(
    ("tracks", "truth", "told"),
    [
        ("results", "gt.txt", "expected two files or two folders"),
        ("results", "absent_truth", "there is no ground truth"),
        ("empty", "results", "holds no track file"),
        ("absent.txt", "gt.txt", "absent.txt: cannot be read"),
        ("twice.txt", "gt.txt", "twice.txt, line 2"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tracks: str, truth: str, told: str
):
    write(tmp_path / "results/a.txt", TRACKS)
    write(tmp_path / "gt.txt", TRUTH)
    write(tmp_path / "twice.txt", [TRACKS[0], TRACKS[0]])
    for folder in ("empty", "absent_truth"):
        (tmp_path / folder).mkdir()
    words = ["evaluate-tracks", str(tmp_path / tracks), "--ground-truth", str(tmp_path / truth)]
    assert run_command([*words, "--json", str(tmp_path / "r.json")]) == 2
    errors = capsys.readouterr().err.strip()
    assert told in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "r.json").exists()
