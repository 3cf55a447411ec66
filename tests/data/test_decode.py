import time

import av
import numpy as np
import pytest
from videos import write_sound, write_sound_with_cover

from lightning_har.data import decode_pyav
from lightning_har.data.decode import open_video, probe, read_frames, short_side
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.errors import ConfigError, DecodeError
from lightning_har.viz.annotate import annotate_video

FORMATS = {
    "mp4": {"name": "a.mp4"},
    "no_b_frames": {"name": "a.mp4", "b_frames": 0},
    "all_keyframes": {"name": "a.mp4", "gop": 1, "b_frames": 0},
    "mkv": {"name": "a.mkv"},
    "ts": {"name": "a.ts"},
    "avi_mpeg4": {"name": "a.avi", "codec": "mpeg4"},
    "mpeg_program_stream": {"name": "a.mpg", "codec": "mpeg2video"},
    "mjpeg": {"name": "a.avi", "codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0},
    "raw_h264_without_timestamps": {"name": "a.h264"},
    "fragmented": {"name": "a.mp4", "options": {"movflags": "frag_keyframe+empty_moov"}},
    "variable_rate": {"name": "a.mp4", "pts": [i + (i > 20) * i + (i > 40) * 7 for i in range(64)]},
    "variable_rate_mkv": {"name": "a.mkv", "pts": [i * i // 3 + i for i in range(64)]},
    "negative_timestamps": {"name": "a.mp4", "pts": range(-7, 57), "options": {"avoid_negative_ts": "disabled"}},
    "negative_timestamps_mkv": {"name": "a.mkv", "pts": range(-7, 57), "options": {"avoid_negative_ts": "disabled"}},
    "late_start": {"name": "a.ts", "pts": range(90, 154)},
    "odd_size": {"name": "a.mp4", "size": (77, 101), "pix_fmt": "yuv444p"},
    "ten_bit": {"name": "a.mp4", "pix_fmt": "yuv420p10le"},
    "one_frame": {"name": "a.mp4", "num_frames": 1},
}


def decode_all(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def written(make_video, folder, name, **arguments):
    return make_video(folder / name, **{"num_frames": 64, **arguments})


@pytest.mark.parametrize("key", FORMATS)
def test_frames_are_those_of_decoding_everything(key, tmp_path, make_video, number_of):
    path = written(make_video, tmp_path, **FORMATS[key])
    everything = decode_all(path)
    assert probe(path).num_frames == len(everything)
    rng = np.random.default_rng(0)
    plans = [[0], [len(everything) - 1], range(len(everything)), range(0, len(everything), 3)]
    plans += [rng.integers(0, len(everything), n) for n in (1, 2, 5, 20)]
    for indices in plans:
        frames = read_frames(path, indices)
        assert frames.shape == (len(indices), *everything[0].shape)
        assert frames.dtype == np.uint8
        assert [number_of(f) for f in frames] == [number_of(everything[i]) for i in indices]
        assert max(np.abs(f.astype(int) - everything[i]).mean() for f, i in zip(frames, indices, strict=True)) < 0.5


def test_numbers_can_be_read(tmp_path, make_video, number_of):
    frames = read_frames(make_video(tmp_path / "a.mp4", 64), range(64), size=(60, 90))
    assert [number_of(f) for f in frames] == list(range(64))


def test_indices_repeat_and_go_backwards(tmp_path, make_video, number_of):
    path = make_video(tmp_path / "a.mp4", 64)
    assert [number_of(f) for f in read_frames(path, [63, 5, 5, 40, 0])] == [63, 5, 5, 40, 0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_sparse_sampling_decodes_little(name, tmp_path, make_video, number_of):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = make_video(tmp_path / name, 600, codec=codec, gop=20)
    wanted = [5, 203, 404, 599]
    with PyAVVideo(path, threads=1) as video:
        decoded = 0
        frames_of = video._frames

        def counted(needed):
            nonlocal decoded
            for frame in frames_of(needed):
                decoded += 1
                yield frame

        video._frames = counted
        assert [number_of(f) for f in video.read(wanted)] == wanted
    assert decoded < 4 * 30


def test_wrong_index_of_timestamps_is_noticed(tmp_path, make_video, number_of):
    path = make_video(tmp_path / "a.mp4", 64)
    with PyAVVideo(path) as video:
        table = video._timestamps()
        assert table.is_guess
        video._table = decode_pyav._Table(table.pts + 1, table.key_ranks, table.key_seeks, is_guess=True)
        assert [number_of(f) for f in video.read([3, 30, 60])] == [3, 30, 60]
        assert not video._table.is_guess


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_flag_is_honoured(rotation, tmp_path, make_video):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    upright = make_video(tmp_path / "up.mp4", 8, size=(48, 80))
    flagged = make_video(tmp_path / "flag.mp4", 8, size=(48, 80), rotation=rotation)
    turned = np.rot90(read_frames(upright, [3])[0], {90: 1, 180: 2, 270: 3}[rotation])
    frames = read_frames(flagged, [3])
    assert frames.shape[1:3] == turned.shape[:2]
    assert np.abs(frames[0].astype(int) - turned).mean() < 0.5
    info = probe(flagged)
    assert (info.height, info.width) == turned.shape[:2]
    assert read_frames(flagged, [3], size=(20, 30)).shape == (1, 20, 30, 3)
    asked = []
    read_frames(flagged, [3], size=lambda h, w: asked.append((h, w)) or (10, 10))
    assert asked == [turned.shape[:2]]


def test_size_is_exact_and_the_picture_the_same(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", 4, size=(96, 160))
    small, full = read_frames(path, [2], size=(48, 80)), read_frames(path, [2])
    averaged = full[0].reshape(48, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(small[0] - averaged).mean() < 2.5
    assert read_frames(path, [0, 1], size=lambda h, w: short_side(h, w, 33)).shape == (2, 33, 55, 3)


def test_probe(tmp_path, make_video):
    info = probe(make_video(tmp_path / "a.mp4", 50, size=(48, 80), fps=25))
    assert (info.num_frames, info.height, info.width) == (50, 48, 80)
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2)


def test_a_relative_name_with_a_colon_is_no_address(tmp_path, make_video, monkeypatch):
    """FFmpeg takes what stands before a colon for a protocol: of recordings named by their time."""
    make_video(tmp_path / "cam1-12:30:00.mp4", 8)
    monkeypatch.chdir(tmp_path)
    assert read_frames("cam1-12:30:00.mp4", [0, 7]).shape[0] == 2
    annotate_video("cam1-12:30:00.mp4", "seen-12:30:00.mp4", [("wave", 0.5)])
    assert probe("seen-12:30:00.mp4").num_frames == 8


def test_what_is_no_video_is_named(tmp_path, make_video):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video at all " * 100)
    (tmp_path / "header.mp4").write_bytes(make_video(tmp_path / "a.mp4").read_bytes()[:40])
    write_sound(tmp_path / "audio.mp4")
    write_sound_with_cover(tmp_path / "cover.mp3")
    for name, why in {
        "empty.mp4": "empty",
        "text.mp4": "no video that can be read",
        "header.mp4": "no video that can be read",
        "audio.mp4": "no video stream, only audio",
        "cover.mp3": "no video stream, only attached picture, audio",
        "missing.mp4": "does not exist",
        ".": "is a folder",
    }.items():
        for action in (lambda p: read_frames(p, [0]), probe):
            with pytest.raises(DecodeError, match=why) as caught:
                action(tmp_path / name)
            assert str(caught.value).startswith(str(tmp_path / name))


def test_frames_that_are_not_there(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", 10)
    for indices in ([10], [-1], []):
        with pytest.raises(DecodeError, match=r"a\.mp4"):
            read_frames(path, indices)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", {}), ("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.ts", {}), ("a.avi", {})],
)
def test_a_cut_file_is_named_or_read_as_far_as_it_goes(share, name, options, tmp_path, make_video, number_of):
    path = make_video(tmp_path / name, 64, options=options, codec="mpeg4" if "avi" in name else "libx264")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    start = time.process_time()
    frames, error = attempt(lambda: read_frames(path, range(probe(path).num_frames - 2)))
    assert time.process_time() - start < 5
    if frames is None:
        assert error.startswith(str(path))
    else:
        assert name != "a.mp4", "an MP4 knows its length: cut, it is an error"
        assert frames.shape[1:] == (48, 80, 3)
        assert [number_of(f) for f in frames[:-1]] == list(range(len(frames) - 1))


def attempt(action):
    try:
        return action(), ""
    except DecodeError as error:
        return None, str(error)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_flipped_bytes_give_the_right_shape_or_a_named_error(name, tmp_path, make_video):
    path = make_video(tmp_path / name, 64, codec="mpeg4" if "avi" in name else "libx264")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for seed in range(25):
        rng = np.random.default_rng(seed)
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 1 + seed)] ^= rng.integers(1, 256, 1 + seed).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        start = time.process_time()
        frames, error = attempt(lambda: read_frames(path, [0, 9, 20, 31], size=(32, 40)))
        assert time.process_time() - start < 5
        assert error.startswith(str(path)) if frames is None else frames.shape == (4, 32, 40, 3)
        outcomes.add("read" if frames is not None else "named")
    assert "read" in outcomes


def test_unknown_decoder(tmp_path, make_video):
    with pytest.raises(ConfigError, match="pyav"):
        read_frames(make_video(tmp_path / "a.mp4"), [0], decoder="opencv")


@pytest.mark.parametrize("key", ["mp4", "mkv", "variable_rate", "negative_timestamps", "ten_bit"])
def test_torchcodec_gives_the_same_frames(key, tmp_path, make_video, number_of):
    path = written(make_video, tmp_path, **FORMATS[key])
    indices = [0, 3, 17, 30, 30, 5]
    try:
        theirs = read_frames(path, indices, decoder="torchcodec")
    except ConfigError as error:
        pytest.skip(str(error))
    ours = read_frames(path, indices)
    assert [number_of(f) for f in ours] == [number_of(f) for f in theirs]
    assert np.abs(ours.astype(int) - theirs).mean() <= 2
    with PyAVVideo(path) as a:
        b = open_video(path, "torchcodec")
        assert a.num_frames == b.num_frames
        b.close()
    small = [read_frames(path, indices, size=(40, 64), decoder=d).astype(int) for d in ("pyav", "torchcodec")]
    assert np.abs(small[0] - small[1]).mean() <= 2


def test_torchcodec_missing_is_a_clear_error(tmp_path, make_video, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match="pip install"):
        read_frames(make_video(tmp_path / "a.mp4"), [0], decoder="torchcodec")


def test_torchcodec_without_ffmpeg_does_not_blame_the_video(tmp_path, make_video, monkeypatch):
    decoders = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError, OSError))

    def broken(*args, **options):
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed")

    monkeypatch.setattr(decoders, "VideoDecoder", broken)
    with pytest.raises(ConfigError, match="apt install ffmpeg"):
        read_frames(make_video(tmp_path / "a.mp4"), [0], decoder="torchcodec")


@pytest.mark.shared
def test_real_clips(shared):
    for path in sorted((shared / "data/scfd/fight").glob("*.mp4"))[::50]:
        everything = decode_all(path)
        indices = np.linspace(0, len(everything) - 1, 7).round().astype(int)
        frames = read_frames(path, indices)
        assert max(np.abs(f.astype(int) - everything[i]).mean() for f, i in zip(frames, indices, strict=True)) < 1
