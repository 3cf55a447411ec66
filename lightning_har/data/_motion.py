"""The actions: how the figure moves in each, and what moves with it.

Order pairs share one path, walked from its start or from its end; walk and run share one stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_har.data._figure import SIDES, Array, Body, Pose, Rng, Skeleton, solve

ACTIONS = (
    "sit_down", "stand_up", "open_door", "close_door", "pick_up", "put_down",
    "walk", "run", "wave", "clap", "jump", "kick",
)  # fmt: skip
"""The classes, in label order."""

ORDER_PAIRS = (("sit_down", "stand_up"), ("open_door", "close_door"), ("pick_up", "put_down"))
"""Pairs whose clips have one distribution up to the reversal of time."""

SPEED_PAIR = ("walk", "run")
"""The pair whose clips show the same stride, once or twice in the same number of frames."""


@dataclass(frozen=True)
class Motion:
    """What moves in a clip.

    Attributes:
        skeleton: The figure.
        progress: (T,) how far the path of an order pair has been walked, 0..1; 0 for the other actions.
        parcel: (T, 3) centre of the parcel that is picked up, else None.
    """

    skeleton: Skeleton
    progress: Array
    parcel: Array | None = None


DOOR_HINGE = (0.86, -0.44)  # x, z; the closed door runs from there towards -x, in the plane of the wall
DOOR_WIDTH = 0.76
DOOR_SWING = 68.0  # degrees, towards the viewer
PARCEL_SIZE = 0.15  # half the edge


def perform(action: str, body: Body, num_frames: int, rng: Rng) -> Motion:
    """One performance of ``action``, with its own tempo, start phase and amplitude.

    The draws from ``rng`` and what is made of them are the same for both members of a pair, so that the
    second clip of an order pair is the first one backwards.
    """
    second = {b: a for a, b in (*ORDER_PAIRS, SPEED_PAIR)}
    if action in SPEED_PAIR:
        # Whole cycles, so that with an odd number of frames both visit the very same phases (2 is a unit mod T).
        phase = rng.uniform() + (1 + SPEED_PAIR.index(action)) * np.arange(num_frames) / num_frames
        return Motion(solve(_stride(phase, rng), body), np.zeros(num_frames))
    base = second.get(action, action)
    if base in _CYCLES:
        cycle, least, most = _CYCLES[base]
        phase = rng.uniform() + rng.uniform(least, most) * np.arange(num_frames) / num_frames
        return Motion(solve(cycle(phase, body, rng), body), np.zeros(num_frames))
    before, after = rng.uniform(0.02, 0.22, 2)
    time = np.arange(num_frames) / (num_frames - 1)
    u = np.clip((time - before) / (1 - before - after), 0, 1)
    sway = np.sin(2 * np.pi * (rng.uniform() + rng.uniform(0.5, 1.5) * time))
    if action in second:
        u, sway = u[::-1], sway[::-1]
    return _PATHS[base](u, sway, body, rng)


def _smooth(u: Array, start: float = 0.0, stop: float = 1.0) -> Array:
    x = np.clip((u - start) / (stop - start), 0, 1)
    return x * x * (3 - 2 * x)


def _stance(num_frames: int) -> Pose:
    """Upright, arms hanging."""
    names = ("thigh", "foot", "knee", "hip_abduction", "shoulder", "shoulder_abduction", "shoulder_rotation", "elbow")
    zeros = {name: np.zeros(num_frames) for name in ("pelvis", "spine", "twist", "neck")}
    zeros |= {f"{name}_{side}": np.zeros(num_frames) for name in names for side in SIDES}
    pose = Pose(zeros, np.zeros(num_frames))
    for side in SIDES:
        pose.angles[f"shoulder_abduction_{side}"] += 9
        pose.angles[f"elbow_{side}"] += 14
        pose.angles[f"hip_abduction_{side}"] += 3
        pose.angles[f"thigh_{side}"] += 3
        pose.angles[f"knee_{side}"] += 6
    return pose


def _crouch(pose: Pose, thigh: Array, knee: Array, pelvis: Array) -> None:
    for side in SIDES:
        pose.angles[f"thigh_{side}"] = pose[f"thigh_{side}"] + thigh
        pose.angles[f"knee_{side}"] = pose[f"knee_{side}"] + knee
    pose.angles["pelvis"] = pose["pelvis"] + pelvis


def _sit(u: Array, sway: Array, body: Body, rng: Rng) -> Motion:
    pose, down, lean = _stance(len(u)), _smooth(u), rng.uniform(24, 38)
    arc = np.sin(np.pi * down)
    _crouch(pose, 84 * down, 84 * down + 16 * arc, lean * arc)
    pose.angles["spine"] = pose["spine"] + 0.5 * lean * arc + 5 * down + 1.5 * sway
    pose.angles["neck"] = pose["neck"] - 0.6 * lean * arc + 2 * sway
    for side in SIDES:
        pose.angles[f"shoulder_{side}"] = 30 * arc + 28 * down + 2 * sway
        pose.angles[f"elbow_{side}"] = 14 + 42 * down
    return Motion(solve(pose, body), u)


def handle(swing: Array) -> Array:
    """(T, 3) the door's handle, where the hand is, when the door stands open by ``swing`` degrees."""
    angle, reach = np.deg2rad(swing), DOOR_WIDTH - 0.07
    x, z = DOOR_HINGE
    return np.stack([x - reach * np.cos(angle), np.full_like(angle, 1.03), z + 0.05 + reach * np.sin(angle)], -1)


def door_swing(u: Array) -> Array:
    """(T,) degrees by which the door stands open at that share of the path."""
    return DOOR_SWING * _smooth(u, 0.22, 0.85)


def _door(u: Array, sway: Array, body: Body, rng: Rng) -> Motion:
    pose, swing = _stance(len(u)), door_swing(u)
    opened = swing / DOOR_SWING
    grip = _smooth(u, 0.0, 0.2) * (1 - _smooth(u, 0.88, 1.0))
    lean = rng.uniform(5, 12)
    pose.angles["pelvis"] = lean * grip
    pose.angles["spine"] = (6 + 10 * opened) * grip + 1.5 * sway
    pose.angles["twist"] = (22 - 50 * opened) * grip
    pose.angles["neck"] = -0.5 * lean * grip + 2 * sway
    _crouch(pose, 6 * grip, 9 * grip, np.zeros_like(u))
    pose.hands = {"left": (handle(swing), grip)}
    pose.hands_from = "world"
    pose.angles["shoulder_right"] = -8 * grip + 3 * sway
    return Motion(solve(pose, body), u)


def _parcel(u: Array, sway: Array, body: Body, rng: Rng) -> Motion:
    pose = _stance(len(u))
    depth = _smooth(u, 0.0, 0.42) * (1 - _smooth(u, 0.52, 0.95))
    holding = _smooth(u, 0.52, 0.95)
    squat = rng.uniform(42, 62)
    _crouch(pose, squat * depth, (squat + 24) * depth, (104 - squat) * depth * 0.85)
    pose.angles["spine"] = 40 * depth - 5 * holding + 1.5 * sway
    pose.angles["neck"] = -14 * depth + 2 * sway
    grip = _smooth(u, 0.05, 0.42)
    arm = body.upper_arm + body.forearm
    # In the chest's frame the arms hang towards the floor when bent, and carry before the belly when upright.
    low = np.array([0.93, 0.06, 0.0]) * arm
    high = np.array([0.66, -0.40, 0.0]) * arm
    middle = low + holding[:, None] * (high - low)
    inward = PARCEL_SIZE - body.shoulder_width
    pose.hands = {side: (middle + np.array([0, 0, sign * inward]), grip) for side, sign in SIDES.items()}
    skeleton = solve(pose, body)
    between = (skeleton.points["hand_left"] + skeleton.points["hand_right"]) / 2
    grasped = int(np.searchsorted(np.sort(u), 0.47))  # the frame, counted along the path, from which it is carried
    order = np.argsort(u, kind="stable")
    at_grasp = between[order[min(grasped, len(u) - 1)]]
    rest = np.array([at_grasp[0] + 0.02, PARCEL_SIZE, 0.0])
    weight = _smooth(u, 0.47, 0.56)[:, None]
    carried = between + np.array([0.03, -0.04, 0.0])
    return Motion(skeleton, u, rest + weight * (carried - rest))


def _stride(phase: Array, rng: Rng) -> Pose:
    pose, reach = _stance(len(phase)), rng.uniform(29, 37)
    pose.planted = "none"
    for side, offset in (("left", 0.0), ("right", 0.5)):
        turn = 2 * np.pi * (phase + offset)
        swing = np.exp(2.5 * (np.cos(turn - 2 * np.pi * 0.74) - 1))
        pose.angles[f"thigh_{side}"] = 6 + reach * np.cos(turn)
        pose.angles[f"knee_{side}"] = 10 + 62 * swing
        pose.angles[f"foot_{side}"] = -14 * swing - 14 * np.clip(-np.cos(turn), 0, 1)
        pose.angles[f"shoulder_{side}"] = -4 - 38 * np.cos(turn)
        pose.angles[f"elbow_{side}"] = 62 - 18 * np.cos(turn)
    pose.angles["pelvis"] = pose["pelvis"] + 5
    pose.angles["spine"] = pose["spine"] + 3
    pose.angles["twist"] = 8 * np.cos(2 * np.pi * phase)
    return pose


def _wave(phase: Array, body: Body, rng: Rng) -> Pose:
    pose, turn = _stance(len(phase)), np.sin(2 * np.pi * phase)
    angle = np.deg2rad(rng.uniform(28, 42) * turn)
    arm = body.upper_arm + body.forearm
    across = np.array([0.80, 0.0, 0.60])
    up = np.array([0.36, 0.20, 0.34]) * arm
    goal = up + 0.55 * arm * (np.sin(angle)[:, None] * across + np.cos(angle)[:, None] * np.array([0.0, 1.0, 0.0]))
    pose.hands = {"right": (goal, np.ones_like(phase))}
    pose.angles["twist"] = 3 * turn
    return pose


def _clap(phase: Array, body: Body, rng: Rng) -> Pose:
    pose = _stance(len(phase))
    opened = np.deg2rad(rng.uniform(68, 88) * (0.5 - 0.5 * np.cos(2 * np.pi * phase)))
    arm = body.upper_arm + body.forearm
    height = rng.uniform(-0.22, 0.02) * arm
    for side, sign in SIDES.items():
        z = sign * (0.82 * arm * np.sin(opened) + (0.03 - body.shoulder_width) * np.cos(opened))
        pose.hands[side] = np.stack([0.80 * arm * np.cos(opened), np.full_like(z, height), z], -1), np.ones_like(z)
    pose.angles["spine"] = 3 * np.cos(2 * np.pi * phase)
    return pose


def _jump(phase: Array, body: Body, rng: Rng) -> Pose:
    pose, p = _stance(len(phase)), phase % 1
    crouch = np.where(p < 0.55, np.sin(np.pi * np.clip(p / 0.55, 0, 1)) ** 2, 0.0)
    air = np.where(p >= 0.5, np.sin(np.pi * np.clip((p - 0.5) / 0.5, 0, 1)), 0.0)
    depth = rng.uniform(44, 60)
    _crouch(pose, depth * crouch, 1.75 * depth * crouch, 0.65 * depth * crouch)
    pose.lift = rng.uniform(0.18, 0.30) * air
    for side in SIDES:
        pose.angles[f"foot_{side}"] = -40 * air
        pose.angles[f"shoulder_{side}"] = -35 * crouch + 125 * air
        pose.angles[f"shoulder_abduction_{side}"] = 9 + 14 * air
    return pose


def _kick(phase: Array, body: Body, rng: Rng) -> Pose:
    pose, turn = _stance(len(phase)), 2 * np.pi * phase
    pose.planted = "left"
    out = np.exp(2.2 * (np.cos(turn) - 1))
    back = np.exp(3.0 * (np.cos(turn + 2 * np.pi * 0.27) - 1))
    height = rng.uniform(74, 92)
    pose.angles["thigh_right"] = height * out - 26 * back
    pose.angles["knee_right"] = 8 + 72 * back + 12 * out
    pose.angles["foot_right"] = 10 * out - 30 * back + (height - 30) * out
    pose.angles["knee_left"] = 12 + 6 * out
    pose.angles["thigh_left"] = 6 + 2 * out
    pose.angles["pelvis"] = -12 * out + 8 * back
    pose.angles["spine"] = 14 * out
    for side, sign in SIDES.items():
        pose.angles[f"shoulder_{side}"] = 12 - sign * 38 * (out - back)
        pose.angles[f"shoulder_abduction_{side}"] = 16 + 20 * out
        pose.angles[f"elbow_{side}"] = 55 + 0 * out
    return pose


_Path = Callable[[Array, Array, Body, Rng], Motion]
_Cycle = Callable[[Array, Body, Rng], Pose]
_PATHS: dict[str, _Path] = {"sit_down": _sit, "open_door": _door, "pick_up": _parcel}
_CYCLES: dict[str, tuple[_Cycle, float, float]] = {  # the motion, least and most cycles of a clip
    "wave": (_wave, 1.5, 3.0),
    "clap": (_clap, 1.5, 3.0),
    "jump": (_jump, 1.0, 1.8),
    "kick": (_kick, 1.0, 1.8),
}
