"""How optical flow is computed: OpenCV's methods, Lucas and Kanade's around every pixel, RAFT."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.decode import Frames
from lightning_har.errors import ConfigError

Flow: TypeAlias = NDArray[np.float32]
"""(T, H, W, 2): x and y displacement in pixels."""
Method: TypeAlias = Literal["dis", "farneback", "lucas_kanade", "tvl1", "raft"]


def compute_flow(frames: Frames, method: Method = "dis", device: str = "cpu") -> Flow:
    """Displacements from each frame to the next.

    Args:
        frames: RGB, uint8 (T, H, W, 3), T at least 2.
        method: "dis": dense inverse search (Kroeger et al., ECCV 2016), fast. "farneback" (SCIA 2003).
            "lucas_kanade": its least squares in a 15×15 window around every pixel, over a pyramid.
            "tvl1" (Zach et al., DAGM 2007), the two-stream papers', in OpenCV's contrib modules. "raft": RAFT small
            (Teed and Deng, ECCV 2020) with torchvision's weights, fetched on first use.
        device: For "raft".

    Returns:
        float32 (T - 1, H, W, 2).

    Raises:
        ConfigError: Unknown method, or what it needs is not installed.
    """
    if method == "raft":
        return _raft(frames, device)
    step = stepper(method)
    cv2 = _cv2()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([step(a, b) for a, b in pairwise(grey)]).astype(np.float32, copy=False)


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError("optical flow needs OpenCV: pip install 'lightning-har[flow]'") from error
    cv2.setNumThreads(1)  # clips are parallel already
    return cv2


def stepper(method: Method) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]:
    """What computes (H, W, 2) from two grey pictures.

    Raises:
        ConfigError: Unknown method, or what it needs is not installed.
    """
    cv2 = _cv2()
    if method == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOpticalFlow_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)  # type: ignore[no-any-return]
    if method == "farneback":
        return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[no-any-return]
    if method == "lucas_kanade":
        return dense_lucas_kanade
    if method == "tvl1":
        if not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
            raise ConfigError(
                f"method='tvl1' is in OpenCV's contrib modules, which the installed cv2 {cv2.__version__} lacks: "
                "pip uninstall opencv-python opencv-python-headless; pip install opencv-contrib-python-headless. "
                "Or take method='dis' or 'farneback'"
            )
        tvl1 = cv2.optflow.DualTVL1OpticalFlow_create()
        return lambda a, b: tvl1.calc(a, b, None)  # type: ignore[no-any-return]
    raise ConfigError(f"method is {method!r}; it must be one of {', '.join(get_args(Method))}")


def dense_lucas_kanade(
    first: NDArray[np.uint8], second: NDArray[np.uint8], window: int = 15, iterations: int = 5
) -> NDArray[np.float32]:
    """Lucas and Kanade's least squares (IJCAI 1981) around every pixel, coarse to fine.

    In each window the two equations of the spatial gradients are solved, again after warping by what was found
    (Bouguet 2000). Where a window has no texture in some direction (its structure
    tensor's smaller eigenvalue is near zero), the displacement stays what the coarser level said.

    Args:
        first: Grey (H, W).
        second: The next frame, likewise.
        window: Side of the window in pixels, odd.
        iterations: Of warping, per level.

    Returns:
        (H, W, 2) pixels.
    """
    cv2 = _cv2()
    levels = max(int(math.log2(max(min(first.shape) / 16, 1))), 0)
    pyramid = [(first.astype(np.float32), second.astype(np.float32))]
    for _ in range(levels):
        pyramid.append((cv2.pyrDown(pyramid[-1][0]), cv2.pyrDown(pyramid[-1][1])))
    flow = np.zeros((*pyramid[-1][0].shape, 2), np.float32)
    for a, b in reversed(pyramid):
        h, w = a.shape
        if flow.shape[:2] != (h, w):
            flow = cv2.resize(flow, (w, h)) * np.array([w / flow.shape[1], h / flow.shape[0]], np.float32)
        gx, gy = cv2.Scharr(a, cv2.CV_32F, 1, 0, scale=1 / 32), cv2.Scharr(a, cv2.CV_32F, 0, 1, scale=1 / 32)
        mean = partial(cv2.boxFilter, ddepth=cv2.CV_32F, ksize=(window, window))
        columns, rows = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
        for _ in range(iterations):
            x, y = columns + flow[..., 0], rows + flow[..., 1]
            left = cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - a
            # What has left the picture has no counterpart, and no say.
            inside = ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)).astype(np.float32)
            wx, wy = gx * inside, gy * inside
            xx, xy, yy = mean(wx * gx), mean(wx * gy), mean(wy * gy)
            # One displacement for a window whose pixels were each warped by their own: solved for as a whole, for
            # increments would pile up what the window's mean does not see.
            known = gx * flow[..., 0] + gy * flow[..., 1] - left
            tx, ty = mean(wx * known), mean(wy * known)
            determinant = xx * yy - xy * xy
            smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
            usable = smaller > 0.1
            inverse = 1 / np.maximum(determinant, 1e-6)
            flow[..., 0] = np.where(usable, (yy * tx - xy * ty) * inverse, flow[..., 0])
            flow[..., 1] = np.where(usable, (xx * ty - xy * tx) * inverse, flow[..., 1])
        np.clip(flow, -max(h, w), max(h, w), out=flow)
    return flow.astype(np.float32, copy=False)


def _raft(frames: Frames, device: str) -> Flow:
    import torch
    from torch.nn import functional as F

    model = _raft_model(device)
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    h, w = video.shape[-2:]
    # RAFT wants multiples of 8, and at least 128.
    pad = (0, max(-(-w // 8) * 8, 128) - w, 0, max(-(-h // 8) * 8, 128) - h)
    video = F.pad(video, pad, mode="replicate")
    with torch.inference_mode():
        flows = [model(a[None].to(device), b[None].to(device))[-1][0] for a, b in pairwise(video)]
    found: Flow = torch.stack(flows)[..., :h, :w].permute(0, 2, 3, 1).cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _raft_model(device: str) -> Any:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    weights = Raft_Small_Weights.DEFAULT
    try:
        return raft_small(weights=weights).eval().to(device)
    except OSError as error:
        raise ConfigError(
            f"the weights of RAFT cannot be fetched ({weights.url}): {error}. "
            "Put the file into torch's hub cache, or take another method"
        ) from error
