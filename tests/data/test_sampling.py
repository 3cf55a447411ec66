import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_har.data.sampling import plan
from lightning_har.errors import ConfigError
from lightning_har.spec import InputSpec, Sampling


@st.composite
def samplings(draw):
    snippet = draw(st.sampled_from([1, 1, 2, 5]))
    return Sampling(
        scheme=draw(st.sampled_from(["segments", "uniform", "dense"])),
        num_frames=snippet * draw(st.integers(1, 40)),
        snippet_length=snippet,
        time_stride=draw(st.integers(1, 8)),
        random=draw(st.booleans()),
        num_clips=draw(st.integers(1, 10)),
    )


@given(samplings(), st.integers(1, 2000), st.integers(0, 2**32))
def test_plans_are_frames_of_the_video_in_order(sampling, num_frames, seed):
    indices = plan(num_frames, sampling, np.random.default_rng(seed))
    assert indices.shape == (sampling.num_clips, sampling.num_frames)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < num_frames
    if sampling.snippet_length == 1 or sampling.scheme == "dense":
        assert (np.diff(indices) >= 0).all()
    again = plan(num_frames, sampling, np.random.default_rng(seed))
    assert (indices == again).all()


@given(samplings(), st.integers(10, 2000), st.integers(0, 2**32))
def test_snippets_are_consecutive(sampling, num_frames, seed):
    indices = plan(num_frames, sampling, np.random.default_rng(seed))
    if sampling.scheme != "dense":
        steps = np.diff(indices.reshape(sampling.num_clips, -1, sampling.snippet_length))
        assert (steps == 1).all()


@given(st.integers(1, 40), st.integers(0, 500), st.integers(0, 2**32))
def test_random_segments_stay_in_their_segment_and_reach_all_of_it(segments, extra, seed):
    total = segments + extra
    sampling = Sampling("segments", num_frames=segments, random=True)
    indices = plan(total, sampling, np.random.default_rng(seed))[0]
    edges = np.arange(segments + 1) * total / segments
    assert (indices >= np.floor(edges[:-1])).all()
    assert (indices <= edges[1:]).all()


def test_random_offsets_reach_every_frame():
    rng = np.random.default_rng(0)
    for scheme in ("segments", "uniform", "dense"):
        sampling = Sampling(scheme, num_frames=3, random=True)
        seen = np.unique([plan(20, sampling, rng) for _ in range(500)])
        assert seen.tolist() == list(range(20))


def test_centres_of_segments():
    # TSN, section 3.1: three equal parts of 30 frames, the middle of each.
    assert plan(30, Sampling("segments", num_frames=3)).tolist() == [[5, 15, 25]]
    assert plan(34, Sampling("segments", num_frames=15, snippet_length=5)).tolist() == [
        [5, 6, 7, 8, 9, 15, 16, 17, 18, 19, 25, 26, 27, 28, 29]
    ]


def test_uniform_takes_both_ends():
    assert plan(101, Sampling(num_frames=5)).tolist() == [[0, 25, 50, 75, 100]]
    assert plan(100, Sampling(num_frames=2, num_clips=2)).tolist() == [[0, 49], [50, 99]]
    assert plan(11, Sampling(num_frames=1)).tolist() == [[5]]


def test_dense():
    assert plan(20, Sampling("dense", num_frames=4, time_stride=2)).tolist() == [[6, 8, 10, 12]]
    several = plan(20, Sampling("dense", num_frames=4, time_stride=2, num_clips=3))
    assert several[:, 0].tolist() == [0, 6, 13]
    assert several[-1].tolist() == [13, 15, 17, 19]


def test_short_videos_repeat_their_last_frame():
    assert plan(3, Sampling("dense", num_frames=5)).tolist() == [[0, 1, 2, 2, 2]]
    for scheme in ("segments", "uniform", "dense"):
        assert plan(1, Sampling(scheme, num_frames=4, num_clips=2)).tolist() == [[0] * 4] * 2
    assert plan(3, Sampling("uniform", num_frames=5)).tolist() == [[0, 1, 1, 2, 2]]


def test_what_cannot_be_planned_says_so():
    with pytest.raises(ConfigError, match="0 frames"):
        plan(0, Sampling(num_frames=1))
    with pytest.raises(ConfigError, match="with_defaults"):
        plan(5, Sampling())
    with pytest.raises(ConfigError, match="generator"):
        plan(5, Sampling(num_frames=1, random=True))
    with pytest.raises(ConfigError, match="multiple"):
        plan(5, Sampling("segments", num_frames=5, snippet_length=2))


def test_snippets_come_from_the_spec():
    spec = InputSpec(10, (8, 8), mean=(0.5,), std=(0.5,), modality="flow", snippet_length=5)
    indices = plan(100, Sampling("segments").with_defaults(spec))
    assert np.diff(indices[0]).tolist() == [1, 1, 1, 1, 44, 1, 1, 1, 1]
