from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from edge_models import FRAMES, SIZE, clips, tsn

from lightning_har.edge.bundle import bundle
from lightning_har.edge.runtime import Converter, Recognizer, load_bundle, open_graph, read_clip
from lightning_har.errors import WeightsError
from lightning_har.spec import InputSpec, Sampling


def test_live_windows_are_the_clips_logits(module, made):
    recognizer = Recognizer.from_bundle(load_bundle(made))
    frames = clips(1, frames=FRAMES + 2)["video"]
    images = frames[0].permute(1, 2, 3, 0).numpy()
    shown = [recognizer.push(image) for image in images]
    assert [s is None for s in shown] == [True] * (FRAMES - 1) + [False] * 3
    with torch.no_grad():
        np.testing.assert_allclose(shown[-1]["logits"], module(frames[:, :, 2:])[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(("build", "kind"), [(tsn, "clip"), (lambda: tsn(temporal_shift="causal"), "stream")])
def test_other_cuts_run_too(build, kind, tmp_path):
    model = build()
    bundle(model, tmp_path / "b", kind=kind)
    recognizer = Recognizer.from_bundle(load_bundle(tmp_path / "b"))
    video = clips(1)["video"]
    images = video[0].permute(1, 2, 3, 0).numpy()
    for image in images:
        last = recognizer.push(image)
    with torch.no_grad():
        expected = model(video)[0].numpy()
    np.testing.assert_allclose(last["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(recognizer.clip(images)["logits"], expected, atol=1e-4)


def test_what_onnxruntime_cannot_run_is_an_error_with_its_name(made):
    recognizer = Recognizer.from_bundle(load_bundle(made))
    with pytest.raises(WeightsError, match=r"frame\.onnx: onnxruntime cannot run it: .*invalid dimensions"):
        recognizer.clip(np.zeros((FRAMES, SIZE // 2, SIZE, 3), np.uint8))


def test_what_executorch_cannot_run_is_an_error_with_its_name(tmp_path):
    exir = pytest.importorskip("executorch.exir")
    program = torch.export.export(torch.nn.Linear(2, 3), (torch.zeros(1, 2),))
    path = tmp_path / "model.pte"
    path.write_bytes(exir.to_edge_transform_and_lower(program).to_executorch().buffer)
    graph = open_graph(path)
    assert graph([np.zeros((1, 2), np.float32)])[0].shape == (1, 3)
    with pytest.raises(WeightsError, match=r"model\.pte: executorch cannot run it"):
        graph([np.zeros((1, 5), np.float32)])


def slope(shape):
    """A picture whose colours rise along both axes, so that no part of it is like another."""
    y, x = np.mgrid[0 : 1 : complex(shape[0]), 0 : 1 : complex(shape[1])]
    return np.stack((40 + 170 * x, 40 + 170 * y, 200 - 80 * x - 80 * y), -1).round().astype(np.uint8)


@pytest.mark.parametrize("format", ["yuv420p", "gray", "bgr24", "rgb24", "yuyv422", "yuvj422p"])
@pytest.mark.parametrize("shape", [(48, 120), (200, 100)])
@pytest.mark.parametrize("crop", ["center", "full"])
def test_frames_of_any_size_and_format_become_the_networks(format, shape, crop):
    image = slope(shape)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=format)
    size = (32, 64)
    converted = Converter(InputSpec(4, size), Sampling(crop=crop))(frame).astype(float)
    assert converted.shape == (*size, 3)
    # What the frame shows there, from the slope itself: the crop is the largest of that aspect, times 0.875.
    rows, columns = shape
    if crop == "center":
        scale = max(37 / min(shape), 32 / rows, 64 / columns)
        rows, columns = 32 / scale, 64 / scale
    y = shape[0] / 2 + rows * ((np.arange(32) + 0.5) / 32 - 0.5) - 0.5
    x = shape[1] / 2 + columns * ((np.arange(64) + 0.5) / 64 - 0.5) - 0.5
    y, x = np.meshgrid(y / (shape[0] - 1), x / (shape[1] - 1), indexing="ij")
    expected = np.stack((40 + 170 * x, 40 + 170 * y, 200 - 80 * x - 80 * y), -1)
    if format == "gray":
        expected = (expected @ (0.299, 0.587, 0.114))[..., None]
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(converted - expected)[inner].max() < 8
    assert np.abs(converted - expected)[inner].mean() < 3


@pytest.mark.parametrize("rotation", [None, 90, 180, 270])
@pytest.mark.parametrize("crop", ["center", "full"])
def test_a_cameras_frames_are_those_that_a_file_gives(make_video, tmp_path, rotation, crop):
    video = make_video(tmp_path / "turned.mp4", num_frames=4, size=(96, 128), rotation=rotation)
    spec, sampling = InputSpec(4, (64, 48)), Sampling(crop=crop)
    expected = read_clip(video, spec, sampling)
    convert = Converter(spec, sampling)
    with av.open(str(video)) as container:
        found = [convert(frame) for frame in container.decode(video=0)]
    np.testing.assert_array_equal(found, expected)
