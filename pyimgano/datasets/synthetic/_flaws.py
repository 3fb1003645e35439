"""Surface flaws that can be painted on any scene.

Every painter takes the scene, the canvas, a random generator and a strength in (0, 1], and
returns the flawed picture; the scene's own picture stays as it is.
"""

from __future__ import annotations

import math
from typing import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.datasets.synthetic._painting import Canvas, Picture, Point, Scene, blend, smoothstep

Painter = Callable[[Scene, Canvas, np.random.Generator, float], Picture]


def pick_place(scene: Scene, canvas: Canvas, rng: np.random.Generator, margin: float) -> Point:
    """A random point of the surface, ``margin`` units from its rim where it is that wide."""
    padded = np.pad(scene.surface.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= min(margin * canvas.scale, 0.7 * float(depth.max())))
    which = int(rng.integers(len(rows)))
    return float(canvas.x[0, columns[which]]), float(canvas.y[rows[which], 0])


def wander(
    rng: np.random.Generator, start: Point, angle: float, length: float, steps: int, turn: float
) -> NDArray[np.float64]:
    """Points of a path that keeps its direction but for random turns of ``turn`` radians."""
    angles = angle + np.cumsum(rng.normal(0, turn / 3, steps)) + rng.normal(0, turn, steps)
    stride = length / steps * np.column_stack([np.cos(angles), np.sin(angles)])
    path = np.vstack([[0.0, 0.0], np.cumsum(stride, axis=0)])
    return path - path.mean(axis=0) + np.asarray(start)


def scratch(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """One to three thin gouges with a bright floor and a dark edge."""
    image = scene.image
    center = pick_place(scene, canvas, rng, 8)
    angle = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(1, 4))):
        start = (center[0] + rng.normal(0, 5), center[1] + rng.normal(0, 5))
        path = wander(rng, start, angle + rng.normal(0, 0.1), rng.uniform(26, 85), 14, 0.05)
        width = rng.uniform(1.0, 2.4)
        alpha = canvas.stroke(path, width) * scene.surface
        shade = canvas.stroke(path + np.array([0.9, 1.1]), width) * scene.surface
        image = image * (1 - np.float32(0.65 * strength) * shade[..., None])
        lit = np.minimum(image * 1.15 + np.float32(0.45), 0.97)
        image = blend(image, lit, alpha * np.float32(0.35 + 0.65 * strength))
    return image


def crack(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A jagged dark line with side branches and a faint bright lip."""
    center = pick_place(scene, canvas, rng, 10)
    angle = rng.uniform(0, np.pi)
    main = wander(rng, center, angle, rng.uniform(40, 110), 22, 0.5)
    width = 0.9 + 1.5 * strength
    dark = canvas.stroke(main, width)
    for _ in range(int(rng.integers(0, 4))):
        root = main[int(rng.integers(4, 18))]
        branch = wander(
            rng, (0, 0), angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1), 22, 9, 0.4
        )
        dark = np.maximum(dark, canvas.stroke(branch - branch[0] + root, 0.7 * width))
    dark = dark * scene.surface
    lip = cv2.GaussianBlur(dark, (0, 0), 1.2 * canvas.scale) * scene.surface
    image = scene.image * (1 + np.float32(0.25 * strength) * lip[..., None])
    return blend(image, scene.image * np.float32(0.16), dark * np.float32(0.45 + 0.5 * strength))


def stain(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A dried liquid: darker, tinted, with a rim where it dried last."""
    center = pick_place(scene, canvas, rng, 10)
    edge = canvas.blob(rng, center, rng.uniform(8, 24), 0.22)
    edge = edge + np.float32(1.2) * canvas.noise(rng, 6, 2)
    inside = canvas.cover(edge, 2.5) * scene.surface
    rim = np.exp(-((edge + 1.5) ** 2) / np.float32(4.5)) * inside
    tints = ([0.55, 0.42, 0.25], [0.42, 0.42, 0.45], [0.62, 0.33, 0.22], [0.30, 0.36, 0.48])
    tint = np.asarray(tints[int(rng.integers(len(tints)))], np.float32)
    cloud = 1 + np.float32(0.15) * canvas.noise(rng, 10, 2)
    alpha = np.clip((0.35 + 0.45 * strength) * inside * cloud + 0.4 * strength * rim, 0, 0.95)
    return blend(scene.image, scene.image * tint, alpha.astype(np.float32))


def discoloration(
    scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float
) -> Picture:
    """A patch whose hue is off while its brightness and texture stay."""
    center = pick_place(scene, canvas, rng, 12)
    edge = canvas.blob(rng, center, rng.uniform(12, 30), 0.15)
    alpha = smoothstep(-edge, 0, 7) * scene.surface
    shift = rng.permutation([1.0, -0.2, -0.8]) * (0.09 + 0.16 * strength)
    gray = scene.image.mean(axis=2, keepdims=True)
    shifted = np.clip(scene.image + (0.25 + 0.75 * gray) * shift.astype(np.float32), 0, 1)
    return blend(scene.image, shifted, alpha)


def dent(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A pressed-in spot: dark on the side of the light, bright on the other."""
    center = pick_place(scene, canvas, rng, 10)
    x, y = canvas.turned(center, rng.uniform(0, np.pi))
    radius = rng.uniform(7, 17)
    stretch = rng.uniform(1.0, 1.5)
    around = (x / np.float32(stretch)) ** 2 + (y * np.float32(stretch)) ** 2
    relief = np.float32(-radius) * np.exp(-around / np.float32(radius**2 / 1.3))
    shade = canvas.slope(relief, scene.light) * np.float32(0.35 + 0.65 * strength)
    shade = np.clip(shade, -0.8, 0.8) * scene.surface
    image = scene.image * (1 + np.minimum(shade, 0)[..., None])
    return image + (np.maximum(shade, 0)[..., None]) * (1 - image) * np.float32(0.8)


def contamination(
    scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float
) -> Picture:
    """A few foreign particles lying on the part, each with a shadow."""
    image = scene.image
    center = pick_place(scene, canvas, rng, 6)
    colors = ([0.10, 0.09, 0.09], [0.86, 0.85, 0.80], [0.52, 0.30, 0.12], [0.20, 0.45, 0.75])
    color = np.asarray(colors[int(rng.integers(len(colors)))], np.float32)
    for particle in range(int(rng.integers(1, 6))):
        spread = 0.0 if particle == 0 else 14.0
        place = (center[0] + rng.normal(0, spread), center[1] + rng.normal(0, spread))
        radius = rng.uniform(2.0, 3.5) + 4.0 * strength * rng.random()
        edge = canvas.blob(rng, place, radius, 0.45)
        body = canvas.cover(edge)
        away = -2.2 * math.cos(scene.light), -2.2 * math.sin(scene.light)
        shadow = canvas.moved(body, *away)
        image = image * (1 - np.float32(0.5) * shadow[..., None])
        facets = np.clip(1 + np.float32(0.3) * canvas.noise(rng, 3), 0.4, 1.6)
        image = blend(image, np.minimum(color * facets[..., None], 1), body)
    return image


def fiber(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A hair or thread that fell on the part, curled, with a faint shadow."""
    center = pick_place(scene, canvas, rng, 8)
    steps = 40
    bend = np.cumsum(rng.normal(0, 0.02, steps)) + rng.normal(0, 0.06)
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    stride = rng.uniform(40, 100) / steps
    path = np.cumsum(stride * np.column_stack([np.cos(angles), np.sin(angles)]), axis=0)
    path += np.asarray(center) - path.mean(axis=0)
    width = rng.uniform(1.0, 2.0)
    dark = rng.random() < 0.5
    color = [0.08, 0.07, 0.07] if dark else [0.93, 0.92, 0.88]
    shadow = canvas.stroke(path + np.array([1.6, 2.0]), width + 0.8, fade=False)
    image = scene.image * (1 - np.float32(0.35) * shadow[..., None])
    alpha = canvas.stroke(path, width, fade=False) * np.float32(0.55 + 0.45 * strength)
    return blend(image, color, alpha)


def rust(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """Orange-brown, grainy corrosion."""
    center = pick_place(scene, canvas, rng, 8)
    edge = canvas.blob(rng, center, rng.uniform(8, 22), 0.3)
    eaten = smoothstep(-edge / 7 + np.float32(0.9) * canvas.noise(rng, 5, 3), 0.1, 0.9)
    alpha = eaten * (edge < 4) * scene.surface * np.float32(0.5 + 0.45 * strength)
    mix = smoothstep(canvas.noise(rng, 4, 2), -1, 1)[..., None]
    bright, dark = np.array([[0.62, 0.33, 0.13], [0.30, 0.15, 0.08]], np.float32)
    color = mix * bright + (1 - mix) * dark
    return blend(scene.image, color, alpha)


def hole(scene: Scene, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """Material torn or broken out: a dark pit with a lit far wall."""
    center = pick_place(scene, canvas, rng, 9)
    edge = canvas.blob(rng, center, rng.uniform(4, 6) + 8 * strength * rng.random(), 0.3)
    edge = edge + np.float32(0.8) * canvas.noise(rng, 4)
    inside = canvas.cover(edge, 0.5) * scene.surface
    relief = np.float32(-6) * canvas.cover(edge, 5)
    wall = np.clip(canvas.slope(relief, scene.light), -0.5, 0.5) * scene.surface
    image = blend(
        scene.image, scene.image * np.float32(0.22), inside * np.float32(0.6 + 0.4 * strength)
    )
    return np.clip(image + np.float32(0.35) * wall[..., None], 0, 1)
