from __future__ import annotations

import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from edge_models import FRAMES, tsn
from edge_runs import without_torch

from lightning_har.edge import bundle as bundle_file
from lightning_har.edge.bundle import _WHEELS, _requirements, bundle
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.runtime import MANIFEST, Recognizer, digest_of, load_bundle, read_clip
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import Sampling


def test_the_bundle_predicts_as_pytorch_without_torch(module, made, video, tmp_path):
    done = without_torch(made / "run.py", video, "--json", "--output", tmp_path / "seen.mp4", "--threads", 1, cwd="/")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = load_bundle(made)
    frames = read_clip(video, found.spec, found.sampling)
    with torch.no_grad():
        expected = module(torch.from_numpy(frames).permute(3, 0, 1, 2)[None]).softmax(1)[0]
    best = int(expected.argmax())
    assert told["labels"][0][0] == module.class_names[best]
    assert told["labels"][0][1] == pytest.approx(float(expected[best]), abs=1e-4)
    assert told["clip"]["p50_ms"] > 0
    assert 0 < told["peak_memory_mb"] < 500
    with av.open(str(tmp_path / "seen.mp4")) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    with av.open(str(video)) as container:
        originals = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(images) == len(originals) == 30
    assert np.abs(images[0][:20].astype(int) - originals[0][:20]).mean() > 20  # the caption
    assert np.abs(images[0][40:].astype(int) - originals[0][40:]).mean() < 20


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Of a TSN that is tested on more frames than it was trained on, and whose classes have awkward names."""
    module = tsn()
    module.eval_sampling = Sampling("segments", num_frames=8)
    module.class_names = ("file", "allow_pickle", "on/off", "a.npy")
    folder = tmp_path_factory.mktemp("longer") / "b"
    bundle(module, folder)
    return module, folder


def test_the_graphs_take_as_many_frames_as_the_evaluation_samples(longer, video):
    module, folder = longer
    found = load_bundle(folder)
    frames = read_clip(video, found.spec, found.sampling)
    assert len(frames) == found.spec.num_frames == 8
    assert module.spec.num_frames == FRAMES
    with torch.no_grad():
        expected = module(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])[0].numpy()
    np.testing.assert_allclose(Recognizer.from_bundle(found).clip(frames)["logits"], expected, atol=1e-4)


def test_a_class_may_have_any_name(longer, video, tmp_path, capsys):
    module, folder = longer
    with np.load(folder / "captions.npz") as stored:
        pictures = list(stored.values())
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert run_bundle([str(video), "--top", "4", "--output", str(tmp_path / "seen.mp4")], folder=folder) == 0
    said = capsys.readouterr().out
    assert [name for name in module.class_names if name not in said] == []


def test_frames_that_the_network_does_not_take_are_refused(tmp_path):
    module = tsn(temporal_shift="causal")
    module.eval_sampling = Sampling("segments", num_frames=8)
    with pytest.raises(ConfigError, match="a shift over 6 segments got 8 frames"):
        bundle(module, tmp_path / "b", kind="clip")


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False])
def test_a_bundle_that_fails_leaves_nothing(module, tmp_path, monkeypatch, is_new):
    out = tmp_path / "b"
    if not is_new:
        out.mkdir()

    def fail(texts):
        assert (out / "frame.onnx").is_file()
        raise OSError("no space left")

    monkeypatch.setattr(bundle_file, "draw_captions", fail)
    with pytest.raises(OSError, match="no space left"):
        bundle(module, out)
    assert list(tmp_path.rglob("*")) == ([] if is_new else [out])


def test_a_folder_with_files_is_not_overwritten(module, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        bundle(module, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "copy")


def test_a_missing_file_is_named(copied):
    (copied / "head.onnx").unlink()
    with pytest.raises(DataError, match=r"head\.onnx is missing"):
        load_bundle(copied)


@pytest.mark.parametrize("name", ["frame.onnx", "run.py", "lightning_har/edge/runtime.py", "captions.npz"])
def test_an_altered_file_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"{name} was altered"):
        load_bundle(copied)


def test_an_altered_network_does_not_run(copied, video, capsys):
    content = bytearray((copied / "head.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "head.onnx").write_bytes(bytes(content))
    assert run_bundle([str(video), "--json"], folder=copied) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {copied / 'head.onnx'} was altered")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", ["edge/source.py", "__init__.py"])
@pytest.mark.parametrize("how", ["deleted", "cut", "altered"])
def test_a_runner_that_is_not_whole_is_refused_before_it_runs(copied, video, name, how):
    path = copied / "lightning_har" / name
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-10] + b"(")
    else:
        path.write_text("print('runs')\n" + path.read_text())
    expected = refusal(copied)
    assert name in expected
    done = without_torch(copied / "run.py", video, "--json")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {expected}\n")


def test_a_manifest_that_is_not_whole_is_refused_before_the_runner_runs(copied, video):
    (copied / "lightning_har" / "__init__.py").write_text("print('runs')")
    path = copied / MANIFEST
    for content in (path.read_text()[:-10], path.read_text().replace("gru", "lstm", 1), None):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        expected = refusal(copied)
        assert MANIFEST in expected
        done = without_torch(copied / "run.py", video)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {expected}\n")


def refusal(folder):
    """What load_bundle says of it."""
    with pytest.raises(DataError) as refused:
        load_bundle(folder)
    return str(refused.value)


def test_altered_labels_are_refused(copied):
    values = json.loads((copied / MANIFEST).read_text())
    values["labels"]["logits"].reverse()
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match="altered"):
        load_bundle(copied)


def test_a_newer_format_is_refused(copied):
    values = json.loads((copied / MANIFEST).read_text())
    values["format_version"] = 99
    values["digest"] = digest_of({k: v for k, v in values.items() if k != "digest"})
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match="99"):
        load_bundle(copied)


def test_no_bundle_and_no_video(tmp_path, made):
    with pytest.raises(DataError, match="is no bundle"):
        load_bundle(tmp_path)
    done = without_torch(made / "run.py", tmp_path / "none.mp4")
    assert done.returncode == 2
    assert "none.mp4" in done.stderr
    assert "Traceback" not in done.stderr


# -- where it is installed -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_fresh_environment(made, video, tmp_path):
    """Only what requirements.txt names is installed."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", made / "requirements.txt"], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    done = subprocess.run([python, made / "run.py", video, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["peak_memory_mb"] < 250


def test_the_dockerfile_is_for_arm64_and_this_python(made):
    lines = (made / "Dockerfile").read_text().splitlines()
    assert f"FROM --platform=linux/arm64 python:{sys.version_info[0]}.{sys.version_info[1]}-slim" in lines
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert (made / json.loads(entry.removeprefix("ENTRYPOINT "))[1]).is_file()
    for copied in (line.split()[1] for line in lines if line.startswith("COPY")):
        assert (made / copied).exists()
    assert "RUN pip install --no-cache-dir --only-binary=:all: -r requirements.txt" in lines


# As if this were the device: pip asks the running machine which of a package's requirements hold.
_PIP_ON_ARM64 = (
    "import platform, runpy; platform.machine = lambda: 'aarch64'; runpy.run_module('pip', run_name='__main__')"
)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_every_requirement_has_a_wheel_for_arm64(tmp_path, format):
    """With what they require in turn, as the Dockerfile installs them: wheels, for this Python."""
    wanted = _requirements(format).split()
    for option in _WHEELS[format].split():
        if option.startswith("--no-binary="):
            # pip builds these from source; here beforehand, since with --platform it takes wheels alone.
            built = tmp_path / "built"
            source = [option, f"{option.partition('=')[2]}==4.9.*"]
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", built, *source], check=True)
            assert all(path.name.endswith("-py3-none-any.whl") for path in built.iterdir())
    wheels = []
    for options, names in (
        ([], [w for w in wanted if not w.startswith("torch")]),
        # Of torch's own requirements most are CUDA's.
        (["--no-deps"], [w for w in wanted if w.startswith("torch")]),
    ):
        if not names:
            continue
        done = subprocess.run(
            [
                *(sys.executable, "-c", _PIP_ON_ARM64, "install", "--dry-run", "--ignore-installed", *options),
                *("--only-binary=:all:", "--find-links", tmp_path / "built", "--target", tmp_path / "none"),
                *("--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64"),
                *("--platform", "manylinux_2_17_aarch64", "--platform", "manylinux2014_aarch64"),
                *("--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"),
                *(*names, "--report", tmp_path / "report.json", "-q"),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "report.json").read_text())["install"]
        wheels += [part["download_info"]["url"].rsplit("/", 1)[1] for part in found]
    assert all(wheel.endswith(("aarch64.whl", "none-any.whl")) for wheel in wheels), wheels
    for name in (requirement.split(">=")[0] for requirement in wanted):
        assert any(wheel.startswith(f"{name}-") and wheel.endswith("aarch64.whl") for wheel in wheels), name
