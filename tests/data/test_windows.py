"""Sliding windows: they cover the video, and their predictions become segments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_har.data.windows import Window, merge_windows, sliding_windows, window_indices
from lightning_har.errors import ConfigError
from lightning_har.spec import Sampling


@given(st.integers(1, 3000), st.floats(1, 120), st.floats(0.05, 20), st.floats(0.01, 1))
def test_windows_cover_every_frame_and_leave_none_out(frames, fps, seconds, share):
    windows = sliding_windows(frames, fps, seconds, seconds * share)
    assert windows[0].start == 0
    assert windows[-1].stop == frames
    assert len({w.stop - w.start for w in windows}) == 1
    assert all(a.start < b.start <= a.stop for a, b in itertools.pairwise(windows))
    assert len(set(windows)) == len(windows)


def test_windows_are_as_long_and_as_far_apart_as_asked():
    assert sliding_windows(100, 25, 2, 1) == [(0, 50), (25, 75), (50, 100)]
    assert sliding_windows(110, 25, 2) == [(0, 50), (25, 75), (50, 100), (60, 110)]
    assert sliding_windows(10, 25, 2) == [(0, 10)]
    for wrong in ((0, 25, 1), (10, 0, 1), (10, 25, 0), (10, float("nan"), 1), (10, 25, 1, 2), (10, 25, 1, 0)):
        with pytest.raises(ConfigError):
            sliding_windows(*wrong)


def test_frames_of_a_window_are_those_of_a_video_of_its_length():
    indices = window_indices([Window(0, 9), Window(91, 100)], Sampling("uniform", num_frames=3))
    assert indices.tolist() == [[0, 4, 8], [91, 95, 99]]
    with pytest.raises(ConfigError):
        window_indices([Window(0, 9)], Sampling("uniform", num_frames=3, random=True))


def one_hot(labels, k=3, p=0.9):
    out = np.full((len(labels), k), (1 - p) / (k - 1))
    out[np.arange(len(labels)), labels] = p
    return out


def times(seconds, fps=10):
    return np.arange(round(seconds * fps) + 1) / fps


def test_neighbours_of_one_class_are_one_segment():
    windows = [Window(10 * i, 10 * i + 10) for i in range(6)]
    segments = merge_windows(windows, one_hot([0, 0, 1, 1, 1, 2]), times(6))
    assert [s[:3] for s in segments] == [(0, 2, 0), (2, 5, 1), (5, 6, 2)]
    assert [s.score for s in segments] == pytest.approx([0.9] * 3)


def test_overlapping_windows_vote():
    windows = [Window(0, 20), Window(10, 30), Window(20, 40)]
    segments = merge_windows(windows, np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), times(4))
    assert [s[:3] for s in segments] == [(0, 2, 0), (2, 4, 1)]
    assert segments[1].score == pytest.approx((0.55 + 0.9) / 2)


def test_what_is_unsure_is_no_segment():
    windows = [Window(10 * i, 10 * i + 10) for i in range(5)]
    probabilities = one_hot([0, 0, 1, 0, 2])
    probabilities[4] = [0.3, 0.3, 0.4]
    assert [s[:3] for s in merge_windows(windows, probabilities, times(5), threshold=0.5)] == [
        (0, 2, 0), (2, 3, 1), (3, 4, 0)]  # fmt: skip
    with pytest.raises(ConfigError, match="5 windows"):
        merge_windows(windows, probabilities[:4], times(5))
    with pytest.raises(ConfigError, match="51 times"):
        merge_windows(windows, probabilities, times(4))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.floats(0, 1))
def test_segments_never_overlap_and_stay_within(labels, threshold):
    windows = sliding_windows(10 * len(labels) + 5, 10, 2, 1)
    rng = np.random.default_rng(len(labels))
    probabilities = rng.dirichlet([1, 1, 1], len(windows))
    segments = merge_windows(windows, probabilities, times(len(labels) + 0.5), threshold=threshold)
    assert all(0 <= s.start < s.stop <= len(labels) + 0.5 for s in segments)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(segments))
    assert all(a.label != b.label for a, b in itertools.pairwise(segments) if a.stop == b.start)


@given(st.integers(1, 60), st.floats(0.1, 3), st.floats(0.05, 1), st.integers(0, 99))
def test_every_frame_has_the_mean_of_its_windows(frames, seconds, share, seed):
    windows = sliding_windows(frames, 10, seconds, seconds * share)
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], len(windows))
    edges = np.append(0, np.cumsum(rng.uniform(0.02, 0.5, frames)))  # a frame rate that varies
    means = np.array(
        [np.mean([p for w, p in zip(windows, probabilities, strict=True) if w.start <= f < w.stop], axis=0)
         for f in range(frames)]
    )  # fmt: skip
    segments = merge_windows(windows, probabilities, edges, threshold=0.4)
    for f in range(frames):
        here = [s for s in segments if s.start <= edges[f] < s.stop]
        assert [s.label for s in here] == ([means[f].argmax()] if means[f].max() >= 0.4 else [])
    for s in segments:
        inside = (edges[:-1] >= s.start) & (edges[:-1] < s.stop)
        assert s.score == pytest.approx(means[inside, s.label].mean())
        assert s.stop in edges
