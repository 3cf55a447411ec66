"""An articulated human figure: proportions, joint limits, forward and inverse kinematics.

NumPy only, and every quantity carries the frames of a clip as its first axis, so that a whole clip is one call.
The actor stands at the origin of a right-handed world in metres: x forward, y up, z to the actor's right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator

JOINT_LIMITS: dict[str, tuple[float, float]] = {
    "pelvis": (-20.0, 70.0),  # forward tilt of the pelvis from upright
    "spine": (-25.0, 80.0),
    "twist": (-40.0, 40.0),
    "neck": (-45.0, 45.0),
    "hip": (-30.0, 125.0),
    "hip_abduction": (-20.0, 45.0),
    "knee": (0.0, 145.0),
    "ankle": (-45.0, 30.0),  # plantar flexion is negative
    "shoulder": (-60.0, 180.0),
    "shoulder_abduction": (-40.0, 170.0),
    "shoulder_rotation": (-110.0, 110.0),
    "elbow": (0.0, 148.0),
}
"""Least and greatest angle of each kind of joint in degrees; 0 is the upright stance with hanging arms."""

SIDES = {"left": -1.0, "right": 1.0}  # sign of z


@dataclass(frozen=True)
class Body:
    """Lengths in metres and colours (RGB, 0..1) of one actor.

    Segment lengths are shares of the stature after Drillis & Contini (1966), each a few per cent off.
    """

    height: float
    thigh: float
    shin: float
    foot: float
    trunk: float
    neck: float
    head: float
    upper_arm: float
    forearm: float
    hand: float
    hip_width: float
    shoulder_width: float
    girth: float
    colors: dict[str, tuple[float, float, float]]


def make_body(actor: int) -> Body:
    """The actor of that number: always the same one."""
    rng = np.random.default_rng((0xAC708, actor))
    height = rng.uniform(1.58, 1.90)
    shares = {
        "thigh": 0.245, "shin": 0.240, "foot": 0.145, "trunk": 0.288, "neck": 0.050, "head": 0.125,
        "upper_arm": 0.186, "forearm": 0.146, "hand": 0.075, "hip_width": 0.052, "shoulder_width": 0.112,
    }  # fmt: skip
    lengths = {name: share * height * rng.uniform(0.95, 1.05) for name, share in shares.items()}
    skin = np.array([0.96, 0.80, 0.69]) * (1 - (tone := rng.uniform(0, 1))) + np.array([0.36, 0.23, 0.16]) * tone
    hair = np.array([[0.09, 0.07, 0.06], [0.28, 0.17, 0.09], [0.72, 0.55, 0.28], [0.55, 0.53, 0.52]])
    colors = {
        "skin": skin,
        "hair": hair[rng.integers(len(hair))] * rng.uniform(0.8, 1.2),
        "shirt": hsv(rng.uniform(), rng.uniform(0.35, 0.95), rng.uniform(0.55, 0.98)),
        "trousers": hsv(rng.uniform(), rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.6)),
        "shoes": hsv(rng.uniform(), rng.uniform(0.0, 0.5), rng.uniform(0.08, 0.9)),
    }
    sleeves, legs = rng.uniform() < 0.5, rng.uniform() < 0.2
    colors["sleeve"] = colors["shirt"] if sleeves else colors["skin"]
    colors["leg"] = colors["skin"] if legs else colors["trousers"]
    plain = {name: (float(c[0]), float(c[1]), float(c[2])) for name, c in colors.items()}
    return Body(height=height, girth=rng.uniform(0.88, 1.22), colors=plain, **lengths)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """(3,) RGB in 0..1."""
    ramp = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation * (1 - ramp)))


@dataclass
class Pose:
    """Angles in degrees, each (T,), by name: a kind of JOINT_LIMITS, with ``_left`` or ``_right`` where paired.

    ``thigh`` and ``foot`` are not joints but what an animator thinks in: the angle of the segment to the
    vertical and to the floor. Hips and ankles follow from them and are then clipped to their limits.
    """

    angles: dict[str, Array]
    lift: Array  # metres above the floor of the lowest point of the feet
    planted: str = "both"  # the foot that stays where it is: "left", "right", "both", or "none" (in place)
    hands: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    # side -> (goal in metres (T, 3), weight (T,)); the hand is drawn there by inverse kinematics
    hands_from: str = "shoulder"  # where goals are measured: "shoulder" (turning with the chest) or "world"

    def __getitem__(self, name: str) -> Array:
        return self.angles[name]


@dataclass(frozen=True)
class Skeleton:
    """What forward kinematics makes of a pose.

    Attributes:
        points: Joint positions (T, 3) by name, in metres.
        joints: The angles of every joint (T,) in degrees, after clipping to JOINT_LIMITS.
        chest: (T, 3, 3), columns are forward, up and right of the chest.
    """

    points: dict[str, Array]
    joints: dict[str, Array]
    chest: Array


def solve(pose: Pose, body: Body) -> Skeleton:
    """Clips every joint to its limits and places the figure so that its feet stand on the floor."""
    joints: dict[str, Array] = {}

    def joint(name: str, value: Array) -> Array:
        low, high = JOINT_LIMITS[name.removesuffix("_left").removesuffix("_right")]
        joints[name] = np.clip(value, low, high)
        return joints[name]

    pelvis = _rot_z(-joint("pelvis", pose["pelvis"]))
    chest = pelvis @ _rot_z(-joint("spine", pose["spine"])) @ _rot_y(joint("twist", pose["twist"]))
    p: dict[str, Array] = {"pelvis": np.zeros((len(pelvis), 3))}
    for side, sign in SIDES.items():
        hip = joint(f"hip_{side}", pose[f"thigh_{side}"] + joints["pelvis"])
        abduction = joint(f"hip_abduction_{side}", pose[f"hip_abduction_{side}"])
        knee = joint(f"knee_{side}", pose[f"knee_{side}"])
        shin_angle = hip - joints["pelvis"] - knee
        ankle = joint(f"ankle_{side}", pose[f"foot_{side}"] - shin_angle)
        thigh = pelvis @ _rot_z(hip) @ _rot_x(-sign * abduction)
        shin = thigh @ _rot_z(-knee)
        foot = shin @ _rot_z(ankle)
        p[f"hip_{side}"] = pelvis @ np.array([0, 0, sign * body.hip_width])
        p[f"knee_{side}"] = p[f"hip_{side}"] + thigh @ _DOWN * body.thigh
        p[f"ankle_{side}"] = p[f"knee_{side}"] + shin @ _DOWN * body.shin
        sole = -0.045 * body.height / 1.75
        p[f"heel_{side}"] = p[f"ankle_{side}"] + foot @ np.array([-0.25 * body.foot, sole, 0])
        p[f"toe_{side}"] = p[f"ankle_{side}"] + foot @ np.array([0.75 * body.foot, sole, 0])

    p["waist"] = pelvis @ np.array([0, 0.30 * body.trunk, 0])
    p["neck"] = p["waist"] + chest @ np.array([0, 0.70 * body.trunk, 0])
    head = chest @ _rot_z(-joint("neck", pose["neck"]))
    p["chin"] = p["neck"] + head @ np.array([0.10 * body.head, body.neck + 0.35 * body.head, 0])
    p["crown"] = p["chin"] + head @ np.array([0, 0.42 * body.head, 0])
    p["hair"] = p["crown"] + head @ np.array([-0.16 * body.head, 0.07 * body.head, 0])
    p["nape"] = p["chin"] + head @ np.array([-0.24 * body.head, 0.12 * body.head, 0])

    # The feet stand on the floor; the planted ones stay where they are in the first frame's stance.
    lowest = np.min([p[f"{part}_{side}"][:, 1] for part in ("heel", "toe") for side in SIDES], axis=0)
    shift = np.zeros_like(p["pelvis"])
    shift[:, 1] = 0.03 - lowest + pose.lift
    if pose.planted == "both":
        shift[:, 0] = -(p["ankle_left"][:, 0] + p["ankle_right"][:, 0]) / 2
    elif pose.planted != "none":
        shift[:, 0] = -p[f"ankle_{pose.planted}"][:, 0]
    p = {name: point + shift for name, point in p.items()}

    for side, sign in SIDES.items():
        shoulder = p["neck"] + chest @ np.array([0, -0.04 * body.height, sign * body.shoulder_width])
        lengths = body.upper_arm, body.forearm + body.hand * 0.6
        arm = [pose[f"{kind}_{side}"] for kind in ("shoulder", "shoulder_abduction", "shoulder_rotation", "elbow")]
        if side in pose.hands:
            goal, weight = pose.hands[side]
            if pose.hands_from == "world":
                goal = _apply(np.swapaxes(chest, 1, 2), goal - shoulder)
            _, hand = _arm(arm, lengths, sign)
            arm = _reach(hand + weight[:, None] * (goal - hand), lengths, sign)
        names = ("shoulder", "shoulder_abduction", "shoulder_rotation", "elbow")
        arm = [joint(f"{kind}_{side}", value) for kind, value in zip(names, arm, strict=True)]
        elbow, hand = _arm(arm, lengths, sign)
        p[f"shoulder_{side}"] = shoulder
        p[f"elbow_{side}"] = shoulder + _apply(chest, elbow)
        p[f"hand_{side}"] = shoulder + _apply(chest, hand)
        p[f"wrist_{side}"] = p[f"elbow_{side}"] + (p[f"hand_{side}"] - p[f"elbow_{side}"]) * (body.forearm / lengths[1])
    return Skeleton(p, joints, chest)


_DOWN = np.array([0.0, -1.0, 0.0])


def _rot_x(degrees: Array) -> Array:
    c, s, o, i = _cos_sin(degrees)
    return np.stack([i, o, o, o, c, -s, o, s, c], -1).reshape(-1, 3, 3)


def _rot_y(degrees: Array) -> Array:
    c, s, o, i = _cos_sin(degrees)
    return np.stack([c, o, s, o, i, o, -s, o, c], -1).reshape(-1, 3, 3)


def _rot_z(degrees: Array) -> Array:
    c, s, o, i = _cos_sin(degrees)
    return np.stack([c, -s, o, s, c, o, o, o, i], -1).reshape(-1, 3, 3)


def _cos_sin(degrees: Array) -> tuple[Array, Array, Array, Array]:
    radians = np.deg2rad(degrees)
    return np.cos(radians), np.sin(radians), np.zeros_like(radians), np.ones_like(radians)


def _apply(rotation: Array, vector: Array) -> Array:
    return np.asarray((rotation @ vector[..., None])[..., 0])


def _arm(arm: list[Array], lengths: tuple[float, float], sign: float) -> tuple[Array, Array]:
    """Elbow and hand (T, 3) from the shoulder, in the chest's frame."""
    flexion, abduction, rotation, elbow = arm
    upper = _rot_z(flexion) @ _rot_x(-sign * abduction)
    lower = upper @ _rot_y(sign * rotation) @ _rot_z(elbow)
    at_elbow = upper @ _DOWN * lengths[0]
    return at_elbow, at_elbow + lower @ _DOWN * lengths[1]


def _reach(goal: Array, lengths: tuple[float, float], sign: float) -> list[Array]:
    """The arm's angles that bring the hand to ``goal`` (T, 3; chest frame), or as near as the arm is long.

    Two-bone inverse kinematics by the law of cosines, the elbow pointing down, out, and back (forward
    for a raised hand).
    """
    first, second = lengths
    distance = np.linalg.norm(goal, axis=1) + 1e-9
    toward = goal / distance[:, None]
    distance = np.clip(distance, abs(first - second) + 0.25 * min(lengths), 0.995 * (first + second))
    cosine = np.clip((first**2 + distance**2 - second**2) / (2 * first * distance), -1, 1)
    raised = np.clip(toward[:, 1], 0, 1)
    pole = np.stack([1.3 * raised - 0.55, raised * 0 - 1, (0.45 + 0.5 * raised) * sign], -1)
    pole = pole - (toward * pole).sum(1, keepdims=True) * toward
    pole /= np.linalg.norm(pole, axis=1, keepdims=True) + 1e-9
    elbow = first * (cosine[:, None] * toward + np.sqrt(1 - cosine**2)[:, None] * pole)
    upper = elbow / first
    lower = (distance[:, None] * toward - elbow) / second
    abduction = np.rad2deg(np.arcsin(np.clip(sign * upper[:, 2], -1, 1)))
    flexion = np.rad2deg(np.arctan2(upper[:, 0], -upper[:, 1]))
    flexion = (flexion + 90) % 360 - 90  # an arm stretched up and a little back is 190 degrees, not -170
    local = _apply(np.swapaxes(_rot_z(flexion) @ _rot_x(-sign * abduction), 1, 2), lower)
    rotation = sign * np.rad2deg(np.arctan2(-local[:, 2], local[:, 0]))
    return [flexion, abduction, rotation, np.rad2deg(np.arccos(np.clip(-local[:, 1], -1, 1)))]
