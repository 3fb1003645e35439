"""The parts of the synthetic dataset: five textures and four objects.

A scene function draws one part from a random generator. ``fault`` is ``None`` for a sound
part, else the name of a structural defect with a generator of its own, so that the same part
can be drawn with and without the defect: the part's own generator is used in the same way in
both cases.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.datasets.synthetic._painting import (
    Canvas,
    Fault,
    Picture,
    Scene,
    bearing,
    blend,
    flat_color,
    jittered,
    length,
    smoothstep,
    to_color,
    to_sheet,
    upper_left,
)


def _everywhere(canvas: Canvas) -> NDArray[np.bool_]:
    return np.ones(canvas.shape, bool)


# ---------------------------------------------------------------------------- textures


def woven_fabric(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """Twill of blue warp and pale weft; every yarn has its own thickness and tone."""
    light = upper_left(rng)
    pitch = 7.5 * rng.uniform(0.92, 1.08)
    x, y = canvas.turned((0, 0), rng.normal(0, 0.10))
    u = (x + np.float32(1.8) * canvas.noise(rng, 70)) / np.float32(pitch) + rng.uniform(50, 60)
    v = (y + np.float32(1.8) * canvas.noise(rng, 70)) / np.float32(pitch) + rng.uniform(50, 60)
    in_u, in_v = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
    # Yarns far outside the picture are only met by very wide pictures: the tables repeat.
    warp_tone, weft_tone = 1 + rng.normal(0, 0.09, (2, 1024)).astype(np.float32)
    warp_width, weft_width = rng.uniform(0.80, 1.0, (2, 1024)).astype(np.float32)
    column, row = u.astype(np.int32) % 1024, v.astype(np.int32) % 1024
    warp_color = jittered(rng, [0.22, 0.31, 0.52], 0.08)
    weft_color = jittered(rng, [0.74, 0.73, 0.69], 0.06)
    fluff = canvas.noise(rng, 2.0, 2)
    warp_on_top = (column + row) % 4 < 2

    across_warp = np.abs(in_u) / (np.float32(0.5) * warp_width[column])
    across_weft = np.abs(in_v) / (np.float32(0.5) * weft_width[row])
    warp_round = np.sqrt(np.clip(1 - across_warp**2, 0.04, 1))
    weft_round = np.sqrt(np.clip(1 - across_weft**2, 0.04, 1))
    if fault is not None and fault.kind == "broken_thread":
        warp_on_top, warp_round, weft_round = _break_threads(
            fault, (column, row), (x, y), (warp_on_top, warp_round, weft_round)
        )
    # A yarn bends down where it dives under the next one.
    warp_shade = warp_round * (np.float32(0.72) + np.float32(0.28) * weft_round)
    weft_shade = weft_round * (np.float32(0.72) + np.float32(0.28) * warp_round)
    warp = (warp_tone[column] * warp_shade)[..., None] * warp_color
    weft = (weft_tone[row] * weft_shade)[..., None] * weft_color
    image = np.where(warp_on_top[..., None], warp, weft)
    image = image * (1 + np.float32(0.09) * fluff[..., None])
    return Scene(image, _everywhere(canvas), light)


def _break_threads(
    fault: Fault,
    yarns: tuple[NDArray[np.int32], NDArray[np.int32]],
    along: tuple[Picture, Picture],
    weave: tuple[NDArray[np.bool_], Picture, Picture],
) -> tuple[NDArray[np.bool_], Picture, Picture]:
    """Take out one or two neighboring yarns over some length: what lies below shows, in shadow."""
    rng = fault.rng
    warp_on_top, warp_round, weft_round = weave
    is_warp = rng.random() < 0.6
    yarn = yarns[0] if is_warp else yarns[1]
    running = along[1] if is_warp else along[0]
    height, width = yarn.shape
    place = (int(rng.integers(height // 6, height - height // 6)),
             int(rng.integers(width // 6, width - width // 6)))  # fmt: skip
    count = 1 + int(rng.random() < fault.strength)
    broken = (yarn >= yarn[place]) & (yarn < yarn[place] + count)
    length = 14 + 45 * fault.strength * rng.random()
    broken &= np.abs(running - running[place]) < length
    shadow = np.where(broken, np.float32(0.55), np.float32(1))
    warp_on_top = np.where(broken, not is_warp, warp_on_top)
    return warp_on_top, warp_round * shadow, weft_round * shadow


def brushed_metal(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """Sheet steel with a brushed finish and a broad, wandering reflection."""
    light = upper_left(rng)
    angle = rng.normal(0, 0.10)
    lines = np.zeros(canvas.shape, np.float32)
    for cell, stretch, height in ((1.0, 60, 0.050), (2.2, 70, 0.050), (7.0, 40, 0.022)):
        lines += np.float32(height) * canvas.noise(rng, cell, stretch=stretch, angle=angle)
    deep = canvas.noise(rng, 1.6, stretch=45, angle=angle)
    lines -= np.float32(0.24) * smoothstep(deep, 1.9, 3.2)
    lines += np.float32(0.24) * smoothstep(-deep, 1.9, 3.2)
    _, across = canvas.turned((0, rng.uniform(-110, 110)), angle + rng.normal(0, 0.15))
    glare = np.exp(-((across / np.float32(rng.uniform(35, 70))) ** 2))
    tone = rng.uniform(0.44, 0.56) + np.float32(rng.uniform(0.10, 0.30)) * glare + lines
    tint = 1 + rng.normal(0, 0.012, 3) + [-0.012, 0.0, 0.02]
    image = tone[..., None] * tint.astype(np.float32)
    return Scene(image, _everywhere(canvas), light)


def wood(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """A planed board: cathedral grain, fibers and pores, no two boards alike."""
    light = upper_left(rng)
    x, y = canvas.turned((rng.uniform(-110, 110), rng.uniform(-500, 500)), rng.normal(0, 0.06))
    wave = canvas.noise(rng, 70, 2, stretch=2.5, angle=np.pi / 2)
    rings = length(x + np.float32(9) * wave, y * np.float32(rng.uniform(0.06, 0.16)))
    rings = rings / np.float32(rng.uniform(9, 17)) + np.float32(0.10) * canvas.noise(rng, 12)
    phase = rings - np.floor(rings)
    late = smoothstep(phase, 0.25, 0.93) * (1 - smoothstep(phase, 0.93, 1.0))
    fibers = canvas.noise(rng, 1.3, stretch=28, angle=np.pi / 2)
    pores = smoothstep(canvas.noise(rng, 1.5, stretch=9, angle=np.pi / 2), 1.7, 2.6)
    early_color = jittered(rng, [0.83, 0.65, 0.44], 0.05)
    late_color = jittered(rng, [0.58, 0.38, 0.21], 0.07)
    image = blend(flat_color(canvas, early_color), late_color, late * np.float32(0.9))
    image = image * (1 + np.float32(0.045) * fibers - np.float32(0.42) * pores)[..., None]
    image = image * (1 + np.float32(0.05) * canvas.noise(rng, 90))[..., None]
    return Scene(image, _everywhere(canvas), light)


_CHIPS = ([0.93, 0.92, 0.88], [0.28, 0.27, 0.28], [0.62, 0.33, 0.25], [0.76, 0.62, 0.40],
          [0.42, 0.50, 0.45], [0.60, 0.58, 0.57])  # fmt: skip


def terrazzo(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """Polished stone: chips of six sorts of marble in cement."""
    light = upper_left(rng)
    cement = jittered(rng, [0.72, 0.70, 0.66], 0.04)
    grain = np.float32(0.035) * canvas.noise(rng, 3, 2) + np.float32(0.03) * canvas.noise(rng, 60)
    sheet = to_sheet(flat_color(canvas, cement) * (1 + grain)[..., None])
    palette = [jittered(rng, chip, 0.06) for chip in _CHIPS]
    half = np.array([canvas.width, canvas.height]) / (2 * canvas.scale) + 8
    number = round(260 * half[0] * half[1] / 136**2)
    sizes = np.sort(np.clip(rng.lognormal(1.65, 0.5, number), 1.5, 15))[::-1]
    corners = 6
    turns = (np.arange(corners) + rng.uniform(0, 0.9, (number, corners))) * (2 * np.pi / corners)
    reach = sizes[:, None] * rng.uniform(0.75, 1.2, (number, corners))
    flat = rng.uniform(0.6, 1, (number, 1))
    outlines = np.stack([reach * np.cos(turns), reach * flat * np.sin(turns)], axis=2)
    outlines += rng.uniform(-half, half, (number, 2))[:, None]
    tones = np.array(palette)[rng.integers(len(palette), size=number)]
    tones = tones * rng.uniform(0.88, 1.1, (number, 1))
    for outline, tone in zip(outlines, tones):
        canvas.polygon(sheet, outline, to_color(tone))
    image = sheet / np.float32(255)
    image *= (1 + np.float32(0.03) * canvas.noise(rng, 5, 2))[..., None]
    return Scene(image, _everywhere(canvas), light)


def printed_grid(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """Screen-printed conductor grid with a dot on every crossing, on a pale film."""
    light = upper_left(rng)
    pitch = 21 * rng.uniform(0.96, 1.04)
    phase = rng.uniform(0, pitch, 2)
    x, y = canvas.turned((float(phase[0]), float(phase[1])), rng.normal(0, 0.08))
    bend = np.float32(0.8) * canvas.noise(rng, 90)
    u, v = (x + bend) / np.float32(pitch), (y - bend) / np.float32(pitch)
    column, row = np.rint(u), np.rint(v)
    du, dv = (u - column) * np.float32(pitch), (v - row) * np.float32(pitch)
    edge = np.float32(0.35) * canvas.noise(rng, 3)
    line = np.float32(rng.uniform(0.9, 1.3))
    dot = np.float32(rng.uniform(3.9, 4.7))
    wires = np.minimum(np.abs(du), np.abs(dv)) - line
    dots = length(du, dv) - dot
    ink = canvas.cover(np.minimum(wires, dots) + edge)
    film = jittered(rng, [0.86, 0.87, 0.83], 0.03)
    ink_color = jittered(rng, [0.20, 0.21, 0.25], 0.10)
    density = np.float32(0.93) + np.float32(0.05) * canvas.noise(rng, 4, 2)
    speck = smoothstep(canvas.noise(rng, 2.2), 2.7, 3.6) * np.float32(0.5)
    if fault is not None:
        ink = _misprint(fault, canvas, ink, (column, row))
    image = blend(flat_color(canvas, film), ink_color, np.clip(ink * density + speck, 0, 1))
    image *= (1 + np.float32(0.012) * canvas.noise(rng, 2, 2))[..., None]
    return Scene(image, _everywhere(canvas), light)


def _misprint(
    fault: Fault,
    canvas: Canvas,
    ink: Picture,
    cell: tuple[Picture, Picture],
) -> Picture:
    """Ink missing where the screen was clogged, or dragged along by the squeegee."""
    rng = fault.rng
    column, row = cell
    height, width = canvas.shape
    place = (int(rng.integers(height // 6, height - height // 6)),
             int(rng.integers(width // 6, width - width // 6)))  # fmt: skip
    center = (float(canvas.x[place]), float(canvas.y[place]))
    if fault.kind == "misprint":
        if rng.random() < 0.5:  # one dot and the line beside it
            missing = (column == column[place]) & (row == row[place])
            if rng.random() < 0.5 * fault.strength:
                missing |= (column == column[place] + 1) & (row == row[place])
            return np.where(missing, ink * np.float32(0.35 * (1 - fault.strength)), ink)
        patch = canvas.blob(rng, center, 7 + 12 * fault.strength * rng.random(), 0.3)
        fade = canvas.cover(patch + canvas.noise(rng, 4, 2), 2)
        return ink * (1 - fade * np.float32(0.55 + 0.45 * fault.strength))
    if fault.kind == "smear":
        reach = int((10 + 18 * fault.strength) * canvas.scale) | 1
        kernel = np.full((1, reach), np.float32(1.8 / reach))
        dragged = np.minimum(cv2.filter2D(ink, -1, kernel), 1)
        patch = canvas.blob(rng, center, rng.uniform(12, 22), 0.2)
        alpha = canvas.cover(patch, 3)
        return np.maximum(ink, alpha * dragged)
    return ink


# ----------------------------------------------------------------------------- objects


def flange(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """A turned steel flange with a bore and six bolt holes, lying on a dark belt."""
    light = upper_left(rng)
    center = (float(rng.normal(0, 5)), float(rng.normal(0, 5)))
    turn = rng.uniform(0, 2 * np.pi)
    outer, bore, bolt, circle = 96.0, 30.0, 9.5, 63.0
    x, y = canvas.turned(center, 0)
    radius = length(x, y)
    around = bearing(x, y)
    belt = jittered(rng, [0.16, 0.17, 0.19], 0.12)
    weave = canvas.noise(rng, 2.0, 2)
    speck = smoothstep(canvas.noise(rng, 2.5), 2.4, 3.4)
    rings = rng.normal(0, 1, 512).astype(np.float32)
    glint_at, glint_width = rng.uniform(0, np.pi), rng.uniform(3, 9)
    tone = rng.uniform(0.46, 0.56)
    grime = canvas.noise(rng, 45, 2)

    body = np.maximum(radius - outer, bore - radius)
    holes = np.full(canvas.shape, np.inf, np.float32)
    skipped = -1
    if fault is not None and fault.kind == "missing_hole":
        skipped = int(fault.rng.integers(6))
    for number in range(6):
        if number == skipped:
            continue
        at = turn + number * np.pi / 3
        holes = np.minimum(
            holes, length(x - circle * math.cos(at), y - circle * math.sin(at)) - bolt
        )
    if fault is not None and fault.kind == "chipped_edge":
        at = fault.rng.uniform(0, 2 * np.pi)
        size = 5 + 11 * fault.strength * fault.rng.random()
        where = (center[0] + outer * np.cos(at), center[1] + outer * np.sin(at))
        body = np.maximum(body, -canvas.blob(fault.rng, where, size, 0.35))
    body = np.maximum(body, -holes).astype(np.float32)

    groove = rings[np.clip((radius * 1.4).astype(int), 0, 511)]
    fan = np.abs(np.cos(around - np.float32(glint_at))) ** np.float32(glint_width)
    steel = tone + np.float32(0.045) * groove + np.float32(0.34) * fan
    steel += np.float32(0.03) * grime
    step = canvas.cover(np.abs(radius - 42) - np.float32(1.6))  # the raised inner face
    steel = steel * (1 - np.float32(0.35) * step)
    rim = np.exp(-((body + 3) ** 2) / np.float32(3.5))  # chamfers catch the light
    steel = steel + rim * np.float32(0.30) * np.cos(around - np.float32(light))
    metal = steel[..., None] * np.array([0.99, 1.0, 1.02], np.float32)

    ground = (
        belt * (1 + np.float32(0.16) * np.clip(weave, -2, 2) + np.float32(1.2) * speck)[..., None]
    )
    shadow = canvas.moved(canvas.cover(body, 6), 5, 6)
    ground = ground * (1 - np.float32(0.6) * shadow[..., None])
    cover = canvas.cover(body)
    image = blend(ground.astype(np.float32), np.clip(metal, 0, 1), cover)
    return Scene(image, cover > 0.9, light)


def bottle_cap(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """A red crown cap with 21 flutes and a white print, in any rotation."""
    light = upper_left(rng)
    center = (float(rng.normal(0, 4)), float(rng.normal(0, 4)))
    turn = rng.uniform(0, 2 * np.pi)
    x, y = canvas.turned(center, turn)
    radius = length(x, y)
    around = bearing(x, y)
    red = jittered(rng, [0.72, 0.13, 0.13], 0.06)
    white = jittered(rng, [0.93, 0.91, 0.86], 0.03)
    ground = jittered(rng, [0.48, 0.50, 0.52], 0.08)
    shift = rng.normal(0, 1.5, 2)  # the print is never quite central
    fine = canvas.noise(rng, 2, 2)
    cloudy = canvas.noise(rng, 50, 2)

    flute = np.cos(21 * around)
    depth = np.float32(1)
    outer: Picture = np.float32(100) + np.float32(4.5) * flute
    if fault is not None and fault.kind == "bent_edge":
        at = fault.rng.uniform(-np.pi, np.pi)
        gap = np.abs(np.angle(np.exp(1j * (around - at)))).astype(np.float32)
        bend = np.exp(-((gap / np.float32(fault.rng.uniform(0.10, 0.22))) ** 4))
        outer = outer - bend * np.float32(5 + 9 * fault.strength)
        depth = 1 - bend
    body = radius - outer
    skirt = smoothstep(radius, 72, 100)  # the edge falls off and its flutes come out
    relief = -np.float32(16) * skirt + np.float32(6.5) * skirt * flute * depth
    shade = canvas.slope(relief, light) * np.float32(0.55)

    px, py = x - np.float32(shift[0]), y - np.float32(shift[1])
    reach = length(px, py)
    angle = bearing(px, py)
    ray = angle * np.float32(5 / (2 * math.pi))
    point = np.abs(ray - np.floor(ray) - np.float32(0.5)) * 2
    star = reach - (np.float32(17) + np.float32(24) * point**2)
    ring = np.abs(reach - 56) - np.float32(2.4)
    cell = angle * np.float32(9 / math.pi)
    letters = np.abs(cell - np.floor(cell) - np.float32(0.5)) - np.float32(0.26)
    letters = np.maximum(letters * 12, np.abs(reach - 64.5) - np.float32(3.2))
    arc = cell < 12  # the rest of the way round is free
    letters = np.where(arc, letters, np.float32(9))
    ink = canvas.cover(np.minimum(np.minimum(star, ring), letters).astype(np.float32))
    if fault is not None and fault.kind == "misprint":
        ink = _spoil_print(fault, canvas, ink, center)

    paint = blend(flat_color(canvas, red), white, ink)
    paint = paint * (1 + np.float32(0.02) * fine + np.float32(0.04) * cloudy)[..., None]
    paint = paint * np.clip(1 + shade, 0.25, 1.7)[..., None]
    hot_x, hot_y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    hot = np.exp(
        -((hot_x - 30 * math.cos(light)) ** 2 + (hot_y - 30 * math.sin(light)) ** 2) / 1800
    )
    paint = paint + np.float32(0.14) * hot[..., None]
    paint = paint + np.clip(shade - 0.35, 0, 1)[..., None] * np.float32(0.5)

    table = ground * (1 + np.float32(0.05) * fine)[..., None]
    shadow = canvas.moved(canvas.cover(body, 8), 4, 5)
    table = table * (1 - np.float32(0.55) * shadow[..., None])
    cover = canvas.cover(body.astype(np.float32))
    image = blend(table.astype(np.float32), np.clip(paint, 0, 1), cover)
    return Scene(image, (radius < 92), light)


def _spoil_print(
    fault: Fault, canvas: Canvas, ink: Picture, center: tuple[float, float]
) -> Picture:
    """Print rubbed off in a patch, or printed twice a little apart in a sector."""
    rng = fault.rng
    at, reach = rng.uniform(0, 2 * np.pi), rng.uniform(18, 58)
    where = (center[0] + reach * np.cos(at), center[1] + reach * np.sin(at))
    patch = canvas.blob(rng, where, 8 + 10 * fault.strength, 0.3)
    if rng.random() < 0.6:
        worn = canvas.cover(patch + np.float32(1.5) * canvas.noise(rng, 4, 2), 1.5)
        return ink * (1 - worn * np.float32(0.6 + 0.4 * fault.strength))
    dx, dy = rng.choice([-1, 1], 2) * rng.uniform(3, 5, 2)
    ghost = canvas.moved(ink, float(dx), float(dy))
    return np.maximum(
        ink, ghost * canvas.cover(patch - 8, 4) * np.float32(0.5 + 0.5 * fault.strength)
    )


def screw(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """A countersunk wood screw at any angle on a light table."""
    light = upper_left(rng)
    turn = rng.uniform(0, 2 * np.pi)
    center = (float(rng.normal(0, 5)), float(rng.normal(0, 5)))
    a, b = canvas.turned(center, turn)  # along, across
    table = jittered(rng, [0.80, 0.80, 0.78], 0.03)
    steel = jittered(rng, [0.60, 0.58, 0.52], 0.05)
    pitch = 9.0
    roll = rng.uniform(0, 1)
    fine = canvas.noise(rng, 1.6, 2)
    drawn = canvas.noise(rng, 1.4, stretch=18, angle=turn)

    # Half width of the silhouette, from the head (left) to the tip (right).
    knots = np.array([-104, -103, -97, -94, -76, -72, -30, -26, 70, 102, 106], float)
    core = np.array([0, 21, 24, 24, 11.5, 10.5, 10.5, 9.5, 9.5, 1.0, -3.0])
    width = np.interp(a, knots, core).astype(np.float32)
    threaded = smoothstep(a, -30, -24) * (1 - smoothstep(a, 84, 102))
    damage = np.zeros(canvas.shape, np.float32)
    if fault is not None and fault.kind == "damaged_thread":
        at = fault.rng.uniform(-20, 75)
        reach = 6 + 12 * fault.strength * fault.rng.random()
        damage = np.exp(-(((a - np.float32(at)) / np.float32(reach)) ** 4))
        side = fault.rng.choice([-1, 0, 1])
        if side:
            damage = damage * smoothstep(b * side, -4, 4)
    bend: Picture = np.zeros(canvas.shape, np.float32)
    if fault is not None and fault.kind == "bent_tip":
        start = fault.rng.uniform(45, 75)
        slope = fault.rng.choice([-1, 1]) * (0.15 + 0.35 * fault.strength)
        bend = np.maximum(a - np.float32(start), 0) * np.float32(slope)
    b = b - bend
    # The thread winds round: its crest runs from one side to the other over half a turn.
    phase = a / np.float32(pitch) + b / np.float32(4.5 * pitch) + np.float32(roll)
    saw = np.abs(phase - np.floor(phase) - np.float32(0.5)) * 2
    ridge = threaded * (1 - damage) * saw
    half = width + np.float32(4.2) * ridge
    if fault is not None and fault.kind == "broken_tip":
        cut = 98 - 26 * fault.strength * fault.rng.random()
        jag = np.float32(2.0) * canvas.noise(fault.rng, 4) + b * np.float32(
            fault.rng.normal(0, 0.4)
        )
        half = np.where(a > cut + jag, np.float32(-3), half)
    body = np.abs(b) - half
    body = np.maximum(body, np.float32(-104) - a)

    across = np.clip(b / np.maximum(half, 1), -1, 1)
    tilt = np.float32(np.sin(light - turn))  # how the light meets the cylinder
    facing = np.sqrt(1 - across**2)
    shade = np.float32(0.30) + np.float32(0.55) * facing + np.float32(0.28) * tilt * across
    glint = np.exp(-(((across - np.float32(0.45) * tilt) / np.float32(0.16)) ** 2))
    flank = np.cos(2 * np.pi * phase) * threaded * (1 - damage)
    shade = (
        shade + np.float32(0.30) * flank * facing + np.float32(0.30) * glint * (1 - threaded / 2)
    )
    shade = shade + np.float32(0.05) * drawn + np.float32(0.04) * fine
    edge = np.exp(-((a + 95) ** 2) / 6) * np.float32(0.25)
    metal = (shade + edge)[..., None] * steel + np.float32(0.10) * glint[..., None]

    ground = table * (1 + np.float32(0.02) * fine)[..., None]
    shadow = canvas.moved(canvas.cover(body, 7), 4, 5)
    ground = ground * (1 - np.float32(0.45) * shadow[..., None])
    cover = canvas.cover(body.astype(np.float32))
    image = blend(ground.astype(np.float32), np.clip(metal, 0, 1).astype(np.float32), cover)
    return Scene(image, cover > 0.9, light)
