"""A performance in a room: the scene around the figure, and the clip that a camera takes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_har.data._figure import SIDES, Array, Body, Rng, hsv, make_body
from lightning_har.data._motion import (
    DOOR_HINGE,
    DOOR_WIDTH,
    ORDER_PAIRS,
    PARCEL_SIZE,
    Motion,
    door_swing,
    handle,
    perform,
)
from lightning_har.data._render import SUPERSAMPLING, Camera, Canvas, Light, UInt8


def render_clip(action: str, actor: int, *, num_frames: int, size: int, rng: Rng) -> UInt8:
    """Renders one clip.

    Args:
        action: One of ``ACTIONS``.
        actor: Who performs it; the same number is always the same person in the same clothes.
        num_frames: T; odd, so that walk and run show the very same poses.
        size: Height and width in pixels.
        rng: Draws everything else: performance, camera, room, clutter, light. The draws do not depend on which
            member of a pair ``action`` is: the same state of ``rng`` gives an order pair's clips as each other's
            reversal, frame by frame.

    Returns:
        (T, H, W, 3) uint8 RGB.
    """
    body = make_body(actor)
    motion = perform(action, body, num_frames, rng)
    wall, props = _props(action, motion, rng)
    rays = size * SUPERSAMPLING
    camera, light, margin = _shoot(num_frames, rays, rng)
    if action in [second for _, second in ORDER_PAIRS]:  # the whole clip runs backwards, the shaking hand too
        camera.center[:] = camera.center[::-1].copy()
    canvas = _room(camera, light, rays, margin, wall, props, rng)

    points = motion.skeleton.points
    down = np.linalg.solve(camera.rotation, light.direction)
    lean = -down[[0, 2]] / down[1]  # where the lamp throws a point one metre up
    for side in SIDES:
        foot = (points[f"heel_{side}"] + points[f"toe_{side}"]) / 2
        canvas.shadow(foot[:, [0, 2]] + foot[:, 1:2] * lean, 0.20, 0.55)
    middle = points["waist"]
    canvas.shadow(middle[:, [0, 2]] + 0.6 * middle[:, 1:2] * lean, 0.42, 0.35)
    for moving in props.moving:
        canvas.box(moving.center, moving.half, moving.color, moving.turn)
    _draw_figure(canvas, motion, body)
    frames = canvas.frames()
    return frames[:, :, ::-1] if rng.uniform() < 0.5 else frames


@dataclass(frozen=True)
class Block:
    """A box of the scene: as ``Canvas.box`` takes it."""

    center: Array
    half: Array
    color: Array
    turn: Array | float = 0.0


@dataclass(frozen=True)
class Props:
    """Boxes that stand still, and boxes that move or cast a shadow with the figure."""

    still: list[Block]
    moving: list[Block]


def _props(action: str, motion: Motion, rng: Rng) -> tuple[float, Props]:
    """The wall's z, and the things in the room. What one action uses stands idle in other actions' clips."""
    still: list[Block] = []
    moving: list[Block] = []
    uses_door, uses_chair = action in ("open_door", "close_door"), action in ("sit_down", "stand_up")
    chair_color = hsv(rng.uniform(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.9))
    door_color = hsv(rng.uniform(), rng.uniform(0.2, 0.8), rng.uniform(0.45, 0.95))
    parcel_color = hsv(rng.uniform(), rng.uniform(0.4, 1.0), rng.uniform(0.5, 1.0))
    wall = DOOR_HINGE[1] - 0.04 if uses_door else -rng.uniform(0.6, 1.8)
    side = rng.choice([-1.0, 1.0])

    if uses_chair:
        hip = motion.skeleton.points["pelvis"]
        seated = hip[np.argmax(motion.progress)]
        still += _chair(np.array([seated[0] - 0.02, 0, 0]), 1.0, seated[1] - 0.13, chair_color)
    elif rng.uniform() < 0.5:
        at = np.array([side * rng.uniform(0.75, 1.3), 0, rng.uniform(wall + 0.3, -0.25) if wall < -0.6 else 0.0])
        still += _chair(at, rng.choice([-1.0, 1.0]), 0.44, chair_color)

    if uses_door or rng.uniform() < 0.5:
        swing = door_swing(motion.progress) if uses_door else np.full(len(motion.progress), rng.choice([0.0, 55.0]))
        x = 0.0 if uses_door else rng.uniform(-1.6, 0.4)
        shift = np.array([x, 0, wall + 0.04 - DOOR_HINGE[1]])
        hinge = np.array([DOOR_HINGE[0], 0, DOOR_HINGE[1]]) + shift
        angle = np.deg2rad(swing)
        panel = hinge + DOOR_WIDTH / 2 * np.stack([-np.cos(angle), 0 * angle, np.sin(angle)], -1) + [0, 1.0, 0]
        knob = handle(swing) + shift
        leaf = [
            Block(panel, np.array([DOOR_WIDTH / 2, 0.98, 0.022]), door_color, swing),
            Block(knob, np.array([0.05, 0.02, 0.03]), np.array([0.85, 0.8, 0.6]), swing),
        ]
        if uses_door:
            moving += leaf
        else:
            still += [Block(b.center[0], b.half, b.color, float(swing[0])) for b in leaf]
        middle = hinge + np.array([-DOOR_WIDTH / 2, 1.0, -0.035])
        still.append(Block(middle, np.array([DOOR_WIDTH / 2, 1.0, 0.003]), np.array([0.05, 0.05, 0.06])))
        frame = door_color * 0.55
        for end in (-1, 1):
            post = middle + np.array([end * (DOOR_WIDTH / 2 + 0.04), 0, 0.01])
            still.append(Block(post, np.array([0.04, 1.04, 0.03]), frame))
        lintel = middle + np.array([0, 1.04, 0.01])
        still.append(Block(lintel, np.array([DOOR_WIDTH / 2 + 0.08, 0.04, 0.03]), frame))

    cube = np.full(3, PARCEL_SIZE)
    if motion.parcel is not None:
        moving.append(Block(motion.parcel, cube, parcel_color))
    elif rng.uniform() < 0.5:
        at = np.array([-side * rng.uniform(0.7, 1.2), PARCEL_SIZE, rng.uniform(-0.4, 0.1)])
        still.append(Block(at, cube, parcel_color, rng.uniform(0, 90)))

    for _ in range(rng.integers(1, 5)):  # cupboards and boxes along the wall
        half = rng.uniform([0.1, 0.1, 0.08], [0.3, 0.6, 0.15])
        x = rng.choice([-1.0, 1.0]) * rng.uniform(0.95, 1.9)
        color = hsv(rng.uniform(), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.85))
        still.append(Block(np.array([x, half[1], wall + half[2] + 0.02]), half, color))
    for _ in range(rng.integers(0, 4)):  # pictures
        half = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3), 0.01])
        color = hsv(rng.uniform(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.95))
        still.append(Block(np.array([rng.uniform(-1.8, 1.8), rng.uniform(1.2, 2.1), wall + 0.01]), half, color))
    return wall, Props(still, moving)


def _chair(at: Array, facing: float, seat: float, color: Array) -> list[Block]:
    half = 0.21
    parts = [(0.0, seat - 0.02, 0.0, half, 0.025, half)]
    parts.append((-facing * (half - 0.02), seat + 0.25, 0.0, 0.02, 0.25, half))
    parts += [(x, seat / 2, z, 0.02, seat / 2, 0.02) for x in (-0.18, 0.18) for z in (-0.18, 0.18)]
    return [Block(at + np.array(p[:3]), np.array(p[3:]), color) for p in parts]


def _shoot(num_frames: int, rays: int, rng: Rng) -> tuple[Camera, Light, int]:
    """A camera to the actor's right, a lamp, and the margin in rays that the hand-held camera may wander."""
    yaw, pitch = np.deg2rad(rng.uniform(48, 102)), np.deg2rad(rng.uniform(2, 17))
    distance = rng.uniform(3.6, 4.6)
    target = np.array([rng.uniform(0.0, 0.16), rng.uniform(0.96, 1.06), -0.05])
    away = np.array([np.cos(pitch) * np.cos(yaw), np.sin(pitch), np.cos(pitch) * np.sin(yaw)])
    forward = -away
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    roll = np.deg2rad(rng.uniform(-2, 2))
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    rotation = np.stack([right, down, forward])

    margin = round(0.03 * rays)
    time = np.arange(num_frames)[:, None] / 25  # seconds
    wander = np.zeros((num_frames, 2))
    for rate in (0.4, 0.9, 1.7):
        phase, strength = rng.uniform(size=2), rng.uniform(0, 0.010 / rate, 2)
        wander += strength * rays * np.sin(2 * np.pi * (rate * rng.uniform(0.8, 1.2) * time + phase))
    # Whole rays, because the room is drawn once and then shifted.
    wander = np.clip(np.round(wander), -margin, margin)
    camera = Camera(target + distance * away, rotation, rays * distance * rng.uniform(0.345, 0.40), rays / 2 + wander)

    around, height = rng.uniform(-1.2, 1.2), np.deg2rad(rng.uniform(30, 70))
    lamp = np.array([np.cos(height) * np.cos(yaw + around), np.sin(height), np.cos(height) * np.sin(yaw + around)])
    tint = 1 + rng.uniform(-0.12, 0.12) * np.array([1.0, 0.1, -1.0])
    exposure, share = rng.uniform(0.85, 1.15), rng.uniform(0.40, 0.62)
    light = Light(
        rotation @ lamp,
        rotation @ np.array([0.0, 1.0, 0.0]),
        exposure * (1 - share) * 1.35 * tint,
        exposure * share * np.ones(3),
    )
    return camera, light, margin


def _room(camera: Camera, light: Light, rays: int, margin: int, wall: float, props: Props, rng: Rng) -> Canvas:
    """Floor, wall and still things, drawn once on a larger picture from which every frame is cut."""
    large = rays + 2 * margin
    once = Camera(camera.position, camera.rotation, camera.focal, np.full((1, 2), large / 2))
    x = (np.arange(large) + 0.5 - large / 2) / camera.focal
    world = np.stack(np.broadcast_arrays(x[None, :], x[:, None], 1.0), -1) @ camera.rotation
    to_floor = -camera.position[1] / np.minimum(world[..., 1], -1e-4)
    to_wall = (wall - camera.position[2]) / np.minimum(world[..., 2], -1e-4)
    on_floor = to_floor < to_wall
    depth = np.minimum(to_floor, to_wall)
    at = camera.position + depth[..., None] * world

    rgb = np.zeros((large, large, 3), np.uint8)
    up = np.array([0.0, 1.0, 0.0])
    for mask, normal, plane in ((on_floor, up, (0, 2)), (~on_floor, np.array([0.0, 0.0, 1.0]), (0, 1))):
        color = hsv(rng.uniform(), rng.uniform(0.0, 0.35), rng.uniform(0.35, 0.9))
        pattern = _texture(at[mask][:, plane], rng)
        facing = float(normal @ (camera.rotation.T @ light.direction))
        shade = light.shade(np.ones(3), np.array(facing, np.float32), float(normal @ up))
        rgb[mask] = np.minimum(shade * color * pattern[:, None], 255).astype(np.uint8)

    still = Canvas(rgb[None], depth.astype(np.float32)[None], once, light)
    for block in props.still:
        still.box(block.center, block.half, block.color, block.turn)
    corner = (margin - np.round(camera.center - rays / 2)).astype(int)
    cut = [(slice(None), slice(y, y + rays), slice(x, x + rays)) for x, y in corner]
    return Canvas(
        np.concatenate([still.rgb[c] for c in cut]), np.concatenate([still.depth[c] for c in cut]), camera, light
    )


def _texture(at: Array, rng: Rng) -> Array:
    """(N,) brightness of a pattern at plane coordinates (N, 2) in metres: tiles, planks, or blotches."""
    kind, period, contrast = rng.integers(4), rng.uniform(0.25, 0.6), rng.uniform(0.04, 0.22)
    u, v = at.T / period
    if kind == 0:
        pattern = np.where((np.floor(u) + np.floor(v)) % 2 > 0, 1.0, -1.0)
    elif kind == 1:
        pattern = np.where(np.floor(u * 2) % 2 > 0, 1.0, -1.0)
    else:
        grid = rng.uniform(-1, 1, (32, 32))
        i, j = np.floor(u).astype(int), np.floor(v).astype(int)
        a, b = u - i, v - j
        a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
        corner = [grid[(i + m) % 32, (j + n) % 32] for m in (0, 1) for n in (0, 1)]
        pattern = (corner[0] * (1 - b) + corner[1] * b) * (1 - a) + (corner[2] * (1 - b) + corner[3] * b) * a
        pattern = pattern * (1.6 if kind == 2 else 0.5)
    return np.asarray(1 + contrast * pattern)


def _draw_figure(canvas: Canvas, motion: Motion, body: Body) -> None:
    p, g = motion.skeleton.points, body.girth * body.height / 1.75
    color = {name: np.array(value) for name, value in body.colors.items()}
    right = motion.skeleton.chest[:, :, 2]

    def cone(a: Array, b: Array, radius_a: float, radius_b: float, name: str) -> None:
        canvas.round_cone(a, b, radius_a * g, radius_b * g, color[name])

    for side, sign in SIDES.items():
        hip, knee, ankle = (p[f"{n}_{side}"] for n in ("hip", "knee", "ankle"))
        shoulder, elbow, wrist, hand = (p[f"{n}_{side}"] for n in ("shoulder", "elbow", "wrist", "hand"))
        cone(hip, knee, 0.088, 0.058, "trousers")
        cone(knee, ankle, 0.057, 0.038, "leg")
        cone(p[f"heel_{side}"] + [0, 0.02, 0], p[f"toe_{side}"], 0.042, 0.030, "shoes")
        cone(shoulder, elbow, 0.058, 0.044, "shirt")
        cone(elbow, wrist, 0.042, 0.031, "sleeve")
        cone(wrist, hand, 0.036, 0.042, "skin")
        beside = sign * 0.055 * body.height / 1.75 * right
        cone(p["waist"] + beside, p["neck"] + 1.15 * beside - [0, 0.09, 0], 0.082, 0.098, "shirt")
        cone(p["neck"] - [0, 0.025, 0], shoulder, 0.055, 0.060, "shirt")
    cone(p["hip_left"], p["hip_right"], 0.098, 0.098, "trousers")
    cone(p["pelvis"] + [0, 0.04, 0], p["waist"], 0.118, 0.120, "shirt")
    cone(p["neck"], p["chin"], 0.048, 0.046, "skin")
    head = body.head / (0.125 * 1.75) / body.girth
    cone(p["chin"], p["crown"], 0.072 * head, 0.092 * head, "skin")
    cone(p["nape"], p["hair"], 0.078 * head, 0.094 * head, "hair")
