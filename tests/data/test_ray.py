"""On Ray: what the pool of processes does, on a real cluster of this machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ray_jobs import refuse, square, visible_gpus

from lightning_har import VideoFolderDataModule
from lightning_har.cli.main import main
from lightning_har.data.check import check_files, read_report
from lightning_har.data.extract import extract_features
from lightning_har.data.fake import write_fake_folder, write_video
from lightning_har.data.flow import FlowVideo, cache_flow
from lightning_har.data.folder import scan_folder
from lightning_har.data.parallel import Died, map_unordered
from lightning_har.data.shards import write_shards
from lightning_har.errors import ConfigError, DecodeError
from lightning_har.spec import InputSpec, Sampling

SPEC = InputSpec(num_frames=4, size=(16, 16))


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two processors, and of one GPU that it only believes in."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'lightning-har[ray]'")
    pytest.importorskip("ray.data", reason="Ray's data library is not installed: pip install 'lightning-har[ray]'")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent  # where the functions of these tests are
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
        ray.init(num_cpus=2, num_gpus=1, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def clips(tmp_path):
    """Ten clips, of which one is no video and one is cut."""
    write_fake_folder(tmp_path / "clips", clips=5)
    (tmp_path / "clips" / "wave" / "wave_01.mp4").write_bytes(b"no video")
    path = tmp_path / "clips" / "clap" / "clap_02.mp4"
    path.write_bytes(path.read_bytes()[:-300])
    return tmp_path / "clips"


@pytest.fixture
def sound(tmp_path):
    """Ten clips that can be read; one is white."""
    write_fake_folder(tmp_path / "clips", clips=5)
    (tmp_path / "clips" / "wave" / "wave_01.mp4").unlink()
    write_video(tmp_path / "clips" / "wave" / "wave_01.mp4", np.full((16, 48, 64, 3), 255, np.uint8))
    return tmp_path / "clips"


def folder(clips, **kwargs):
    kwargs = {"batch_size": 2, "num_workers": 0, "eval_sampling": Sampling("uniform", crop="full")} | kwargs
    return VideoFolderDataModule(clips, spec=SPEC, **kwargs)


def colours(video):
    return video.float().mean((3, 4)).transpose(1, 2)


def die_of_white(video):
    if (video > 250).flatten(1).all(1).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return colours(video)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'lightning-har\[ray\]'"):
        list(map_unordered(refuse, [1], engine="ray"))
    write_fake_folder(tmp_path, clips=4)
    for call in (
        ["data", "check", str(tmp_path), "--report", str(tmp_path / "r.csv")],
        ["data", "flow", str(tmp_path), "--out", str(tmp_path / "flow")],
        ["extract", "--model", "mobilenetv2_050", "--weights", "none", "--data", str(tmp_path), "--out",
         str(tmp_path / "f")],
    ):  # fmt: skip
        if "flow" in call:
            pytest.importorskip("cv2")
        assert main([*call, "--engine", "ray"]) == 2
        assert "pip install 'lightning-har[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_names_its_item_and_takes_no_other_along(cluster):
    found = dict(map_unordered(square, range(12), engine="ray", time_limit=20))
    assert "SIGKILL" in str(found[3])
    assert "took longer than 20 s" in str(found[5])
    assert isinstance(found.pop(3), Died)
    assert isinstance(found.pop(5), Died)
    assert found == {i: i * i for i in range(12) if i not in (3, 5)}
    assert list(map_unordered(square, [], engine="ray")) == []


@pytest.mark.slow
def test_errors_come_back_as_they_were_raised(cluster):
    with pytest.raises(DecodeError, match=r"^four\.mp4: is no video"):
        list(map_unordered(refuse, range(8), engine="ray"))
    assert sorted(map_unordered(refuse, "abc", engine="ray", workers=1)) == [("a", "a"), ("b", "b"), ("c", "c")]


@pytest.mark.slow
def test_a_gpu_is_asked_for_only_where_it_is_needed(cluster):
    assert dict(map_unordered(visible_gpus, range(2), engine="ray", gpus=1)) == {0: "0", 1: "0"}
    assert "0" not in dict(map_unordered(visible_gpus, range(2), engine="ray")).values()


@pytest.mark.slow
def test_check_finds_the_same_and_goes_on(cluster, clips, tmp_path, monkeypatch, capsys):
    paths = sorted(p.relative_to(clips).as_posix() for p in clips.rglob("*.mp4"))
    here = check_files(clips, paths, tmp_path / "here.csv", workers=0)
    monkeypatch.chdir(tmp_path)  # a relative path is meant from here, wherever Ray works
    there = check_files("clips", paths, tmp_path / "ray.csv", engine="ray")
    assert there == here
    assert {r.path for r in there if r.status == "corrupt"} == {"wave/wave_01.mp4", "clap/clap_02.mp4"}
    lines = (tmp_path / "ray.csv").read_text().splitlines(keepends=True)
    mark = lines[1].replace(",ok,", ",odd,", 1)
    assert mark != lines[1]
    (tmp_path / "ray.csv").write_text("".join([lines[0], mark, *lines[2:5]]))
    again = check_files("clips", paths, tmp_path / "ray.csv", engine="ray")
    assert again[0].status == "odd", "a row that was there was worked on again"
    assert again[1:] == here[1:]
    assert read_report(tmp_path / "ray.csv") == again
    assert main(["data", "check", str(clips), "--report", str(tmp_path / "cli.csv"), "--engine", "ray"]) == 1
    assert "corrupt: wave/wave_01.mp4: " in capsys.readouterr().out


@pytest.mark.slow
def test_flow_is_the_same_once(cluster, clips, tmp_path):
    pytest.importorskip("cv2", reason="flow is computed by OpenCV, which is not installed")
    manifest = scan_folder(clips)
    told = cache_flow(manifest, tmp_path / "here", method="farneback", workers=0)
    assert cache_flow(manifest, tmp_path / "ray", method="farneback", engine="ray") == told
    assert "wave/wave_01.mp4" in told
    stored = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.mkv"))
    assert stored == sorted(p.relative_to(tmp_path / "ray") for p in (tmp_path / "ray").rglob("*.mkv"))
    assert len(stored) == 10 - len(told)
    for path in stored:
        ours, theirs = (FlowVideo(tmp_path / name / path) for name in ("ray", "here"))
        assert ours.info == theirs.info
        assert (ours.read(range(16)) == theirs.read(range(16))).all()
    (tmp_path / "ray" / stored[0]).unlink()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "ray").rglob("*.mkv")}
    assert cache_flow(manifest, tmp_path / "ray", method="farneback", engine="ray") == told
    assert (tmp_path / "ray" / stored[0]).exists()
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_features_are_the_same(cluster, sound, tmp_path, dtype):
    here = extract_features(colours, folder(sound), tmp_path / "here", dtype=dtype)
    there = extract_features(colours, folder(sound), tmp_path / "ray", dtype=dtype, engine="ray")
    assert (there.extracted, there.kept, there.failures) == (10, 0, [])
    assert there.manifest.read_text() == here.manifest.read_text()
    for path in (tmp_path / "here").rglob("*.npy"):
        assert (tmp_path / "ray" / path.relative_to(tmp_path / "here")).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_clip_that_fails_or_kills_is_named_alone(cluster, sound, tmp_path):
    with pytest.raises(DecodeError, match=r"^wave/wave_01\.mp4: the process that worked on it died"):
        extract_features(die_of_white, folder(sound), tmp_path / "a", engine="ray")
    done = extract_features(die_of_white, folder(sound, on_error="skip"), tmp_path / "a", engine="ray")
    assert [f.path for f in done.failures] == ["wave/wave_01.mp4"]
    assert done.extracted + done.kept == 9
    (sound / "clap" / "clap_03.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"clap_03\.mp4: is no video"):
        extract_features(colours, folder(sound), tmp_path / "b", engine="ray")


KILLED = """
import os, signal, sys
import lightning_har.data.extract as extract
from test_ray import colours, folder
real, stored = extract._store, 0
def store(*arguments):
    global stored
    real(*arguments)
    stored += 1
    if stored == 4:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    extract._store = store
    extract.extract_features(colours, folder(sys.argv[1]), sys.argv[2], engine="ray")
"""


@pytest.mark.slow
def test_a_killed_extraction_goes_on_from_another_program_of_the_same_cluster(cluster, sound, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster.get_runtime_context().gcs_address,
        "PYTHONPATH": f"tests{os.pathsep}tests/data",
    }
    command = [sys.executable, str(tmp_path / "killed.py"), str(sound), str(tmp_path / "out")]
    killed = subprocess.run(command, check=False, capture_output=True, text=True, timeout=500, env=environment)
    assert killed.returncode == -9, killed.stderr
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.npy")}
    assert len(before) == 4
    done = extract_features(colours, folder(sound), tmp_path / "out", engine="ray")
    assert (done.extracted, done.kept) == (6, 4)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    whole = extract_features(colours, folder(sound), tmp_path / "whole")
    assert done.manifest.read_text() == whole.manifest.read_text()


@pytest.mark.slow
def test_extract_from_the_command_line(cluster, sound, tmp_path, capsys):
    call = ["extract", "--model", "mobilenetv2_050", "--weights", "none", "--frames", "3", "--size", "32", "--data",
            str(sound), "--batch-size", "3"]  # fmt: skip
    import torch

    torch.manual_seed(0)
    assert main([*call, "--out", str(tmp_path / "here"), "--num-workers", "0"]) == 0
    torch.manual_seed(0)
    assert main([*call, "--out", str(tmp_path / "ray"), "--engine", "ray"]) == 0
    assert "10 clips extracted" in capsys.readouterr().out
    for path in (tmp_path / "here").rglob("*.npy"):
        ours = np.load(tmp_path / "ray" / path.relative_to(tmp_path / "here"))
        np.testing.assert_allclose(ours, np.load(path), atol=1e-5)
        assert ours.std() > 0


@pytest.mark.slow
def test_shards_are_the_same(cluster, sound, tmp_path):
    pytest.importorskip("webdataset", reason="shards are written by webdataset, which is not installed")
    write_shards(folder(sound), tmp_path / "here", shard_bytes=6000, workers=0)
    write_shards(folder(sound), tmp_path / "ray", shard_bytes=6000, engine="ray")
    files = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.*"))
    assert len(files) > 4
    for path in files:
        assert (tmp_path / "ray" / path).read_bytes() == (tmp_path / "here" / path).read_bytes()
