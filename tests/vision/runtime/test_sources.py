"""Images, folders, patterns and video files: what comes out, in which order, and one-line errors for the rest."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.vision.errors import SourceError
from handeye.vision.images import list_images
from handeye.vision.runtime.sources import open_stream
from handeye.vision.runtime.video_writer import VideoWriter


def frames(count: int) -> list[np.ndarray]:
    """Frames that tell their number by their brightness."""
    return [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(count)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.mp4"
    with VideoWriter(path, fps=10.0) as writer:
        for frame in frames(30):
            writer.write(frame)
    return path


def read_all(source: str) -> list[tuple[str, int, float]]:
    with open_stream(source) as stream:
        return [(name, round(float(image.mean())), stamp_s) for name, image, stamp_s in stream]


def test_a_video_gives_every_frame_in_order_with_its_time(video: Path):
    with open_stream(str(video)) as stream:
        assert stream.fps == pytest.approx(10)
        assert stream.num_images == 30
    read = read_all(str(video))
    assert [name for name, _, _ in read] == [f"numbers_{number:06d}" for number in range(30)]
    np.testing.assert_allclose([mean for _, mean, _ in read], [5 * number for number in range(30)], atol=4.5)
    np.testing.assert_allclose([stamp_s for _, _, stamp_s in read], np.arange(30) / 10, atol=1e-6)


def test_colours_of_a_video_are_rgb(tmp_path: Path):
    path = tmp_path / "red.mp4"
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    with VideoWriter(path, fps=5.0) as writer:
        writer.write(red)
    with open_stream(str(path)) as stream:
        image = next(iter(stream)).image_rgb
    assert image[..., 0].mean() > 180
    assert image[..., 1:].mean() < 40


@pytest.mark.parametrize(
    ("name", "num_frames", "fps"),
    [
        ("video/bottles.mp4", 60, 29.97),
        ("video/cubes.mp4", 39, 10.0),
        ("data/video/bottle-detection.mp4", 1189, 29.83),
        ("data/video/one-by-one-person-detection.mp4", 1394, 10.0),
    ],
)
def test_real_videos_open_with_their_length_and_rate(request, name: str, num_frames: int, fps: float):
    find = request.getfixturevalue("shared" if name.startswith("data") else "sample")
    with open_stream(str(find(name))) as stream:
        assert stream.num_images == num_frames
        assert stream.fps == pytest.approx(fps, abs=0.01)
        first = next(iter(stream))
    assert first.image_rgb.std() > 10


@pytest.mark.parametrize("name", ["bottles", "cubes"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_cut_off_video_is_rejected_when_it_is_opened(sample, tmp_path: Path, name: str, share: float):
    content = sample(f"video/{name}.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match=r"cut\.mp4.*cut off") as caught:
        open_stream(str(path))
    assert "\n" not in str(caught.value)


def test_a_video_that_breaks_off_in_another_container_is_an_error_at_its_end(tmp_path: Path):
    path = tmp_path / "long.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for frame in frames(50):
        writer.write(frame)
    writer.release()
    assert len(read_all(str(path))) == 50
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match="breaks off after"):
        read_all(str(path))


def test_a_cut_off_avi_is_rejected(tmp_path: Path):
    path = tmp_path / "long.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for frame in frames(20):
        writer.write(frame)
    writer.release()
    assert len(read_all(str(path))) == 20
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SourceError, match="cut off"):
        open_stream(str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"this is a text and no video\n" * 50),
        ("zeros.mp4", bytes(5000)),
        ("noise.mkv", np.random.default_rng(0).bytes(5000)),
        ("empty.jpg", b""),
        ("text.png", b"this is no image"),
        ("no_suffix", b"neither image nor video"),
    ],
)
def test_files_that_are_neither_image_nor_video_are_one_line(tmp_path: Path, capfd, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=name) as caught:
        read_all(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "libraries must not write beside our one line"


def test_a_damaged_index_is_reported(tmp_path: Path, video: Path):
    content = bytearray(video.read_bytes())
    content[0:4] = (3).to_bytes(4, "big")
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="declares the size 3"):
        open_stream(str(path))


def test_a_missing_source_is_reported():
    with pytest.raises(SourceError, match=r"absent\.mp4: there is no such file"):
        open_stream("absent.mp4")


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), np.full((20, 30, 3), 10 * number, np.uint8))


def test_folders_and_patterns_give_images_in_the_order_of_their_names(tmp_path: Path):
    write_images(tmp_path, ["b.png", "a.png", "c.jpg", "deeper/a.png"])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".b.4711.partial.png").write_bytes(b"\x89PNG")
    assert [name for name, _, _ in read_all(str(tmp_path))] == ["a.png", "b.png", "c.jpg"]
    assert [name for name, _, _ in read_all(str(tmp_path / "*.png"))] == ["a.png", "b.png"]
    assert [name for name, _, _ in read_all(str(tmp_path / "**/a.png"))] == ["a.png", "deeper/a.png"]
    assert read_all(str(tmp_path / "b.png")) == [("b.png", 0, 0.0)]
    with open_stream(str(tmp_path)) as stream:
        assert stream.num_images == 3
        assert stream.fps is None


def test_frames_numbered_without_zeros_come_in_the_order_of_their_numbers(tmp_path: Path):
    numbers = [*range(9, 13), *range(99, 102), 0, 2, 10**20]
    write_images(tmp_path, [f"cam{place}/frame{number}.png" for place in (10, 2) for number in numbers])
    ordered = [f"frame{number}.png" for number in sorted(numbers)]
    assert [name for name, _, _ in read_all(str(tmp_path / "cam2"))] == ordered
    assert [name for name, _, _ in read_all(str(tmp_path / "cam2/*.png"))] == ordered
    both = [f"cam{place}/{name}" for place in (2, 10) for name in ordered]
    assert [name for name, _, _ in read_all(str(tmp_path / "*/*.png"))] == both
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, recursive=True)] == both


def test_every_suffix_that_opencv_reads_counts_in_a_folder_and_the_rest_is_noted(tmp_path: Path):
    write_images(tmp_path, ["a.jpg", "b.jpe", "c.pnm", "d.png"])
    (tmp_path / "d.png").rename(tmp_path / "d")
    (tmp_path / "a.jpg").rename(tmp_path / "a.jfif")
    (tmp_path / "notes.txt").write_text("not an image")
    with open_stream(str(tmp_path)) as stream:
        assert [image.name for image in stream] == ["a.jfif", "b.jpe", "c.pnm", "d"]
        (note,) = stream.notes
    assert "1 files (notes.txt)" in note


def test_a_heic_image_is_called_one(tmp_path: Path):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(500))
    with pytest.raises(SourceError, match=r"IMG_0001\.HEIC: is a HEIC image.*JPEG or PNG"):
        read_all(str(path))


def test_images_behind_the_first_of_a_file_are_noted(tmp_path: Path):
    path = tmp_path / "pages.tif"
    assert cv2.imwritemulti(str(path), [np.full((8, 9, 3), level, np.uint8) for level in (10, 20, 30)])
    with open_stream(str(path)) as stream:
        assert [round(float(image.image_rgb.mean())) for image in stream] == [10]
        assert "only the first of its 3 images" in stream.notes[0]


def test_an_image_is_known_by_its_content_when_its_suffix_is_not(tmp_path: Path):
    write_images(tmp_path, ["image.png"])
    (tmp_path / "image.png").rename(tmp_path / "image")
    assert len(read_all(str(tmp_path / "image"))) == 1


def test_a_folder_or_pattern_without_images_is_reported(tmp_path: Path):
    with pytest.raises(SourceError, match="holds no image"):
        open_stream(str(tmp_path))
    with pytest.raises(SourceError, match=r"\*\.png"):
        open_stream(str(tmp_path / "*.png"))


def test_a_broken_image_among_good_ones_is_reported_by_name(tmp_path: Path):
    write_images(tmp_path, ["a.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"")
    with open_stream(str(tmp_path)) as stream:
        images = iter(stream)
        assert next(images).name == "a.png"
        with pytest.raises(SourceError, match=r"b\.png: is empty"):
            next(images)


def test_broken_images_are_skipped_by_name_where_that_is_wanted(tmp_path: Path):
    write_images(tmp_path, ["a.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"")
    with open_stream(str(tmp_path), skip_broken=True) as stream:
        assert [image.name for image in stream] == ["a.png", "c.png"]
        assert stream.num_broken == 1
        assert stream.notes == [f"skipped: {tmp_path / 'b.png'}: is empty"]
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "c.png").write_bytes(b"")
    with open_stream(str(tmp_path), skip_broken=True) as stream, pytest.raises(SourceError, match=r"a\.png: is empty"):
        list(stream)


def write_at_times(path: Path, stamps_s: list[float]) -> None:
    """A video of variable frame rate: MJPEG in Matroska, its clusters stamped frame by frame."""
    even = path.with_name("even.mkv")
    writer = cv2.VideoWriter(str(even), cv2.VideoWriter.fourcc(*"MJPG"), 60, (64, 48))
    for frame in frames(len(stamps_s)):
        writer.write(frame)
    writer.release()
    content = bytearray(even.read_bytes())
    # Cluster (1F43B675) with its Timestamp (E7), which becomes 0; SimpleBlock (A3): size, track, time in ms after it.
    position = number = 0
    while (cluster := content.find(b"\x1f\x43\xb6\x75", position)) >= 0:
        position = content.index(b"\xe7", cluster + 4) + 2
        num_bytes = content[position - 1] - 0x80
        content[position : position + num_bytes] = bytes(num_bytes)
    position = content.index(b"\x1f\x43\xb6\x75")
    while number < len(stamps_s):
        position = content.index(b"\xa3", position)
        first = content[position + 1]
        width = 9 - first.bit_length()
        block = position + 1 + width
        size = int.from_bytes(content[position + 1 : block], "big") & ((1 << 7 * width) - 1)
        if content[block] == 0x81 and content[block + 4 : block + 6] == b"\xff\xd8":
            content[block + 1 : block + 3] = round(stamps_s[number] * 1e3).to_bytes(2, "big", signed=True)
            number, position = number + 1, block + size
        else:
            position += 1
    duration = content.index(b"\x44\x89\x88") + 3  # Duration, eight bytes, in ms
    content[duration : duration + 8] = np.array(stamps_s[-1] * 1e3 + 17, ">f8").tobytes()
    path.write_bytes(content)


def test_frames_at_irregular_times_make_a_whole_video_at_their_average_rate(tmp_path: Path):
    """As a screen is recorded: the nominal rate is 60, but half a second may pass without a frame."""
    gaps_s = np.tile([0.017, 0.033, 0.5, 0.033, 0.2], 8)
    stamps_s = [0.0, *np.cumsum(gaps_s).round(3).tolist()]
    path = tmp_path / "screen.mkv"
    write_at_times(path, stamps_s)
    read = read_all(str(path))
    np.testing.assert_allclose([stamp_s for _, _, stamp_s in read], stamps_s, atol=1e-3)
    with open_stream(str(path)) as stream:
        assert stream.fps == pytest.approx((len(stamps_s) - 1) / stamps_s[-1], rel=1e-3)
        assert stream.num_images == len(stamps_s)


def test_frames_missing_in_a_steady_video_are_told(tmp_path: Path):
    stamps_s = [round(number / 25.0, 3) for number in range(60) if not 30 <= number < 40]
    path = tmp_path / "hole.mkv"
    write_at_times(path, stamps_s)
    with open_stream(str(path)) as stream:
        assert len(list(stream)) == 50
        assert stream.notes == [f"{path}: no frame from 1.16 to 1.60 s"]


def test_an_unsteady_video_has_no_frames_missing(tmp_path: Path):
    path = tmp_path / "screen.mkv"
    write_at_times(path, [0.0, *np.cumsum(np.tile([0.017, 0.033, 0.5, 0.033, 0.2], 8)).round(3).tolist()])
    with open_stream(str(path)) as stream:
        assert stream.notes == []
