"""A software renderer in NumPy: a perspective camera, a lamp, round cones, boxes and soft shadows.

Every primitive is an impostor: the rays of the pixels inside its bounding rectangle on the screen are
intersected with it analytically, for many frames in one call, and the nearest hit stays in the z-buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_har.data._figure import Array

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

SUPERSAMPLING = 2  # rays per pixel and axis
_FRAMES_AT_ONCE = 16  # keeps the arrays of one call inside the cache


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) metres.
        rotation: (3, 3), rows are the camera's right, down and forward in the world.
        focal: Focal length in rays.
        center: (T, 2) principal point (x, y) in rays; it wanders with the hand that holds the camera.
    """

    position: Array
    rotation: Array
    focal: float
    center: Array

    def look(self, points: Array) -> Array:
        """World points (..., 3) as the camera sees them: x right, y down, z forward, in metres."""
        return np.asarray((points - self.position) @ self.rotation.T)


@dataclass(frozen=True)
class Light:
    """One distant lamp and the light that comes from everywhere, both as the camera sees them."""

    direction: Array  # (3,) towards the lamp
    up: Array  # (3,) the world's up
    lamp: Array  # (3,) RGB
    ambient: Array  # (3,) RGB

    def shade(self, albedo: Array, facing: Float32, upward: Float32 | float) -> UInt8:
        """Lambert's law: RGB 0..255 of surfaces whose normals make these cosines with lamp and up."""
        ambient = (0.78 + 0.22 * np.asarray(upward, np.float32))[..., None] * self.ambient.astype(np.float32)
        light = ambient + np.maximum(facing, 0)[..., None] * self.lamp.astype(np.float32)
        return np.asarray(np.minimum(light * (255 * albedo).astype(np.float32), 255).astype(np.uint8))


class Canvas:
    """Frames (T, H, W, 3) uint8 with their z-buffer (T, H, W), and the primitives that can be drawn on them."""

    def __init__(self, rgb: UInt8, depth: Float32, camera: Camera, light: Light) -> None:
        self.rgb, self.depth, self.camera, self.light = rgb, depth, camera, light
        self._flat_rgb, self._flat_depth = rgb.reshape(-1, 3), depth.reshape(-1)

    def _windows(self, low: Array, high: Array) -> Iterator[tuple[slice, NDArray[np.intp], Float32, Float32]]:
        """Cuts the clip into short runs of frames, each with a window that holds the screen rectangles.

        Args:
            low: (T, 2) upper left corner (x, y) of the rectangle in rays.
            high: (T, 2) lower right corner.

        Yields:
            The frames, the flat indices of the rays (t, h, w), and the rays' x (t, 1, w) and y (t, h, 1) at z = 1.
        """
        frames, height, width = self.depth.shape
        size = np.array([width, height])
        low = np.clip(np.floor(low), 0, size).astype(np.intp)
        high = np.clip(np.ceil(high), 0, size).astype(np.intp)
        for first in range(0, frames, _FRAMES_AT_ONCE):
            run = slice(first, min(first + _FRAMES_AT_ONCE, frames))
            w, h = (high[run] - low[run]).max(0)
            if w < 1 or h < 1:
                continue
            start = np.minimum(low[run], size - [w, h])
            columns = start[:, 0, None] + np.arange(w)
            rows = start[:, 1, None] + np.arange(h)
            x = ((columns + 0.5 - self.camera.center[run, 0, None]) / self.camera.focal).astype(np.float32)
            y = ((rows + 0.5 - self.camera.center[run, 1, None]) / self.camera.focal).astype(np.float32)
            frame = np.arange(run.start, run.stop)[:, None]
            index = ((frame * height + rows) * width)[:, :, None] + columns[:, None, :]
            yield run, index, x[:, None, :], y[:, :, None]

    def _rectangle(self, points: Array, radius: Array) -> tuple[Array, Array]:
        """Screen rectangle of spheres: points (T, N, 3) in the camera's frame, radius (N,) or (T, N)."""
        z = np.maximum(points[..., 2:], 0.2)
        at = points[..., :2] / z * self.camera.focal + self.camera.center[:, None]
        margin = 1.12 * radius[..., None] / (z - np.minimum(radius[..., None], z / 2)) * self.camera.focal + 1
        return (at - margin).min(1), (at + margin).max(1)

    def _paint(self, index: NDArray[np.intp], z: Float32, color: UInt8) -> None:
        self._flat_depth[index] = z
        self._flat_rgb[index] = color

    def round_cone(self, a: Array, b: Array, radius_a: float, radius_b: float, color: Array) -> None:
        """The hull of two spheres, shaded; a capsule where the radii are equal.

        The surface is the envelope of the spheres c(s) = a + s v, r(s) = ra + s (rb - ra), 0 <= s <= 1. A ray
        t d that touches the envelope touches the sphere of ``s = ((t d - a) . v + ra (rb - ra)) / q``,
        ``q = v . v - (rb - ra)^2``, so that one quadratic gives t and s; clamping s to 0..1 and intersecting
        with that sphere covers the body and both ends.

        Args:
            a: (T, 3) centres of the first sphere in the world.
            b: (T, 3) of the second.
            radius_a: Metres.
            radius_b: Metres.
            color: (3,) RGB in 0..1.
        """
        look = self.camera.look
        start, axis = look(a), look(b) - look(a)
        growth = radius_b - radius_a
        low, high = self._rectangle(np.stack([start, start + axis], 1), np.array([radius_a, radius_b]))
        q = np.maximum((axis**2).sum(-1) - growth**2, 1e-6)
        along = (start * axis).sum(-1)
        e = along - radius_a * growth
        c = (start**2).sum(-1) - radius_a**2 - e**2 / q
        shaped = {"ax": start[:, 0], "ay": start[:, 1], "az": start[:, 2], "vx": axis[:, 0], "vy": axis[:, 1],
                  "vz": axis[:, 2], "q": q, "e": e, "c": c}  # fmt: skip
        per_frame = {name: value.astype(np.float32)[:, None, None] for name, value in shaped.items()}
        for run, index, x, y in self._windows(low, high):
            k = {name: value[run] for name, value in per_frame.items()}
            dd = x * x + (y * y + 1)
            da = x * k["ax"] + (y * k["ay"] + k["az"])
            dv = x * k["vx"] + (y * k["vy"] + k["vz"])
            dv_q = dv / k["q"]
            quadratic = np.maximum(dd - dv * dv_q, np.float32(1e-6))
            linear = da - dv_q * k["e"]
            inside = linear * linear - quadratic * k["c"]
            hit = np.flatnonzero(inside > 0)
            if not len(hit):
                continue
            # From here on only the rays that meet the infinite cone.
            frame = hit // (index.shape[1] * index.shape[2])
            dd, da, dv, quadratic, linear = (v.ravel()[hit] for v in (dd, da, dv, quadratic, linear))
            t = (linear - np.sqrt(inside.ravel()[hit])) / quadratic
            qs, es = (k[n].ravel()[frame] for n in ("q", "e"))
            s = np.clip((t * dv - es) / qs, 0, 1)
            r = radius_a + s * np.float32(growth)
            dc = da + s * dv
            cx, cy, cz = (k["a" + n].ravel()[frame] + s * k["v" + n].ravel()[frame] for n in "xyz")
            disc = dc * dc - dd * (cx * cx + cy * cy + cz * cz - r * r)
            t = (dc - np.sqrt(np.maximum(disc, 0))) / dd
            at = index.ravel()[hit]
            seen = np.flatnonzero((disc > 0) & (t > 0.1) & (t < self._flat_depth[at]))
            if not len(seen):
                continue
            hit, at, t, r = hit[seen], at[seen], t[seen], r[seen]
            rows = hit // index.shape[2]
            ray_x = x.reshape(len(x), -1)[frame[seen], hit % index.shape[2]]
            normal = np.stack([(t * ray_x - cx[seen]) / r, (t * y.ravel()[rows] - cy[seen]) / r, (t - cz[seen]) / r])
            facing = self.light.direction.astype(np.float32) @ normal
            self._paint(at, t, self.light.shade(color, facing, self.light.up.astype(np.float32) @ normal))

    def box(self, center: Array, half: Array, color: Array, turn: Array | float = 0.0) -> None:
        """A box with shaded faces.

        Args:
            center: (T, 3) or (3,) in the world.
            half: (3,) half its edges in metres.
            color: (3,) RGB in 0..1.
            turn: (T,) or one, degrees about the vertical.
        """
        frames = len(self.depth)
        angle = np.deg2rad(np.broadcast_to(turn, (frames,)))
        c, s, o, i = np.cos(angle), np.sin(angle), np.zeros(frames), np.ones(frames)
        rotation = self.camera.rotation @ np.stack([c, o, s, o, i, o, -s, o, c], -1).reshape(-1, 3, 3)
        middle = self.camera.look(np.broadcast_to(center, (frames, 3)))
        signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
        corners = middle[:, None] + np.einsum("tij,nj->tni", rotation, signs * half)
        low, high = self._rectangle(corners, np.zeros(8))
        origin = np.einsum("tij,ti->tj", rotation, -middle).astype(np.float32)
        light, up = (np.einsum("tij,i->tj", rotation, v) for v in (self.light.direction, self.light.up))
        r = rotation.astype(np.float32)
        for run, index, x, y in self._windows(low, high):
            near = np.full(index.shape, -np.inf, np.float32)
            far = np.full(index.shape, np.inf, np.float32)
            face = np.zeros(index.shape, np.int8)
            for axis in range(3):
                k = r[run, :, axis, None, None]
                d = x * k[:, 0] + (y * k[:, 1] + k[:, 2])
                inverse = 1 / np.where(np.abs(d) < 1e-6, np.float32(1e-6), d)
                o_axis = origin[run, axis, None, None]
                middle_t, half_t = -o_axis * inverse, np.abs(inverse) * np.float32(half[axis])
                entry = middle_t - half_t
                face = np.where(entry > near, np.int8(2 * axis) + (d < 0), face)
                near, far = np.maximum(near, entry), np.minimum(far, middle_t + half_t)
            seen = np.flatnonzero((near < far) & (near > 0.1))
            at, z = index.ravel()[seen], near.ravel()[seen]
            closer = z < self._flat_depth[at]
            seen, at, z = seen[closer], at[closer], z[closer]
            if not len(seen):
                continue
            # A ray that runs along +axis meets the face whose normal points along -axis.
            cosines = [np.stack([-v[run], v[run]], -1).reshape(len(x), 6).astype(np.float32) for v in (light, up)]
            shades = self.light.shade(color, cosines[0], cosines[1])
            self._paint(at, z, shades[seen // (index.shape[1] * index.shape[2]), face.ravel()[seen]])

    def shadow(self, center: Array, radius: Array | float, strength: float) -> None:
        """A soft round shadow on the floor (y = 0), under whatever stands before it.

        Args:
            center: (T, 2) x and z in the world.
            radius: (T,) or one, metres.
            strength: 0..1.
        """
        frames = len(self.depth)
        radius = np.broadcast_to(radius, (frames,))
        middle = self.camera.look(np.stack([center[:, 0], np.zeros(frames), center[:, 1]], -1))
        low, high = self._rectangle(middle[:, None], radius[:, None])
        right, down, forward = self.camera.rotation.astype(np.float32)
        for run, index, x, y in self._windows(low, high):
            wx, wy, wz = (x * right[i] + (y * down[i] + forward[i]) for i in range(3))
            t = np.float32(-self.camera.position[1]) / np.minimum(wy, np.float32(-1e-4))
            k = [v[run].astype(np.float32)[:, None, None] for v in (center[:, 0], center[:, 1], radius)]
            px = t * wx + np.float32(self.camera.position[0]) - k[0]
            pz = t * wz + np.float32(self.camera.position[2]) - k[1]
            dark = 1 - (px * px + pz * pz) / (k[2] * k[2])
            on_floor = np.abs(self._flat_depth[index] - t) < 0.02
            hit = np.flatnonzero((dark > 0) & on_floor)
            at = index.ravel()[hit]
            keep = 1 - np.float32(strength) * dark.ravel()[hit]
            self._flat_rgb[at] = (self._flat_rgb[at] * keep[:, None]).astype(np.uint8)

    def frames(self) -> UInt8:
        """(T, H, W, 3), the mean of each pixel's rays."""
        n = SUPERSAMPLING
        frames, height, width = self.depth.shape
        total = np.zeros((frames, height // n, width // n, 3), np.uint16)
        for row in range(n):
            for column in range(n):
                total += self.rgb[:, row::n, column::n]
        return ((total + n * n // 2) // (n * n)).astype(np.uint8)
