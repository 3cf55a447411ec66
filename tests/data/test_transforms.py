import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_har.data.transforms import Geometry, decode_size, draw_geometry, mirror, to_clips
from lightning_har.spec import InputSpec, Sampling

SPEC = InputSpec(4, (32, 32))
FLOW = InputSpec(4, (32, 32), mean=(0.5,), std=(0.5,), modality="flow")


def pixels(t, h, w, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, c), dtype=np.uint8)


def evaluate(frames, sampling, num_clips=1, spec=SPEC):
    return to_clips(frames, num_clips, spec, sampling, Geometry())


@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from(["center", "three", "ten", "full", "random"]),
)
def test_the_crop_always_fits_and_the_aspect_is_kept(height, width, size, crop):
    spec = InputSpec(1, size)
    sampling = Sampling(crop=crop).with_defaults(spec)
    h, w = decode_size(height, width, spec, sampling)
    assert h >= size[0]
    assert w >= size[1]
    if crop == "full":
        assert (h, w) == size
    else:
        factor = max(h / height, w / width)
        assert abs(h - height * factor) <= max(1, 0.51 * factor) or h == size[0]
        assert abs(w - width * factor) <= max(1, 0.51 * factor) or w == size[1]


def test_the_short_side():
    assert decode_size(360, 480, InputSpec(1, (224, 224)), Sampling().with_defaults(InputSpec(1, (224, 224)))) == (
        256,
        341,
    )


def test_centre_crop():
    frames = pixels(4, 37, 49)
    clip = evaluate(frames, Sampling())
    assert clip.shape == (3, 4, 32, 32)
    assert clip.dtype == torch.uint8
    assert clip.is_contiguous()
    assert (clip.permute(1, 2, 3, 0).numpy() == frames[:, 2:34, 8:40]).all()


def test_three_crops_along_the_longer_side():
    frames = pixels(4, 32, 60)
    views = evaluate(frames, Sampling(crop="three"))
    assert views.shape == (3, 3, 4, 32, 32)
    for view, x in zip(views, (0, 14, 28), strict=True):
        assert (view.permute(1, 2, 3, 0).numpy() == frames[:, :, x : x + 32]).all()
    tall = evaluate(frames.transpose(0, 2, 1, 3), Sampling(crop="three"))
    assert (tall[2].permute(1, 3, 2, 0).numpy() == frames[:, :, 28:60]).all()


def test_ten_crops_are_five_and_their_mirror_images():
    frames = pixels(4, 40, 50)
    views = evaluate(frames, Sampling(crop="ten"))
    assert views.shape == (10, 3, 4, 32, 32)
    for i, (y, x) in enumerate([(0, 0), (0, 18), (8, 0), (8, 18), (4, 9)]):
        assert (views[i].permute(1, 2, 3, 0).numpy() == frames[:, y : y + 32, x : x + 32]).all()
        assert (views[i + 5] == views[i].flip(-1)).all()


def test_views_go_clip_by_clip():
    frames = pixels(8, 32, 60)
    views = evaluate(frames, Sampling(num_clips=2, crop="three"), num_clips=2)
    assert views.shape == (6, 3, 4, 32, 32)
    for clip in (0, 1):
        alone = evaluate(frames[4 * clip : 4 * clip + 4], Sampling(crop="three"))
        assert (views[3 * clip : 3 * clip + 3] == alone).all()
    one_crop = evaluate(frames, Sampling(num_clips=2), num_clips=2)
    assert one_crop.shape == (2, 3, 4, 32, 32)


def test_random_crop_is_the_same_for_all_frames():
    frame = pixels(1, 40, 60)
    frames = np.repeat(frame, 4, axis=0)
    sampling = Sampling(crop="random", flip=0.5, scale=(0.2, 1.0))
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(10):
        clip = to_clips(frames, 1, SPEC, sampling, draw_geometry((40, 60), SPEC, sampling, rng))
        assert clip.shape == (3, 4, 32, 32)
        assert clip.is_contiguous()
        assert (clip == clip[:, :1]).all()
        clips.append(clip)
    assert len({c.numpy().tobytes() for c in clips}) == 10


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**32))
def test_random_boxes_lie_in_the_frame_and_keep_their_share(height, width, seed):
    sampling = Sampling(crop="random", scale=(0.3, 0.8))
    top, left, h, w = draw_geometry((height, width), SPEC, sampling, np.random.default_rng(seed)).box
    assert 0 <= top <= top + h <= 1 + 1e-9
    assert 0 <= left <= left + w <= 1 + 1e-9
    if 0.8 < height / width < 1.25:
        assert 0.3 - 1e-9 <= h * w <= 0.8 + 1e-9


def test_flow_changes_its_sign_when_mirrored():
    video = torch.randint(0, 256, (2, 4, 5, 6), dtype=torch.uint8)
    mirrored = mirror(video, is_flow=True)
    assert (mirrored[0] == 255 - video[0].flip(-1)).all()
    assert (mirrored[1] == video[1].flip(-1)).all()
    assert (mirror(mirrored, is_flow=True) == video).all()
    frames = pixels(4, 32, 32, c=2)
    clip = to_clips(frames, 1, FLOW, Sampling(crop="full"), Geometry(flip=True))
    assert (clip[0].numpy() == 255 - frames[:, :, ::-1, 0]).all()


def test_modalities_get_the_same_crop():
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, None, :, None], (4, 40, 60, 3))
    sampling = Sampling(crop="random", scale=(0.2, 0.5))
    geometry = draw_geometry((40, 60), SPEC, sampling, np.random.default_rng(3))
    rgb = to_clips(ramp, 1, SPEC, sampling, geometry)
    flow = to_clips(ramp[..., :2], 1, FLOW, sampling, geometry)
    assert (rgb[:2] == flow).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_probability(flip):
    rng = np.random.default_rng(0)
    sampling = Sampling(crop="center", flip=flip)
    assert all(draw_geometry((9, 9), SPEC, sampling, rng).flip == bool(flip) for _ in range(20))
