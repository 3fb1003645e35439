"""The circuit board of the synthetic dataset: one layout, no two boards quite alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano.datasets.synthetic._painting import (
    Canvas,
    Fault,
    Picture,
    Scene,
    blend,
    flat_color,
    jittered,
    to_color,
    to_sheet,
    upper_left,
)

# Kind, x, y, half width, half height of what is soldered to the board.
_PARTS = (
    ("chip", -34, -18, 25, 25), ("chip", 44, 30, 15, 22),
    ("resistor", -80, 38, 9, 4.5), ("resistor", -80, 52, 9, 4.5), ("resistor", -52, 38, 9, 4.5),
    ("resistor", 10, -58, 9, 4.5), ("resistor", 10, -44, 9, 4.5), ("capacitor", 10, 44, 4.5, 8),
    ("capacitor", -10, 44, 4.5, 8), ("capacitor", -28, 44, 4.5, 8), ("can", 72, -42, 14, 14),
    ("can", 38, -42, 11, 11), ("led", 86, 60, 6, 6), ("capacitor", 82, 4, 4.5, 8),
)  # fmt: skip
_TRACES = (
    ((-86, -68), (-70, -52), (-70, -30), (-62, -22)), ((-62, -12), (-84, 0), (-84, 34)),
    ((-62, -2), (-74, 10), (-74, 24), (-52, 34)), ((-4, -30), (6, -40), (6, -44)),
    ((-4, -22), (20, -22), (28, -32)), ((-4, -12), (16, -2), (16, 14), (28, 22)),
    ((-4, -4), (6, 6), (6, 22), (28, 34)), ((60, 22), (72, 12), (82, 12)),
    ((60, 38), (76, 38), (86, 52)), ((-40, 10), (-40, 22), (-28, 34)),
    ((-28, 10), (-28, 18), (-10, 34)), ((20, -58), (56, -62), (68, -54)),
    ((-40, -44), (-40, -58), (0, -58)), ((44, 54), (36, 66), (-40, 66), (-52, 44)),
    ((-92, 66), (-84, 56)), ((92, -10), (92, -26), (80, -36)),
)  # fmt: skip
_HALF = (107, 83)


def circuit_board(canvas: Canvas, rng: np.random.Generator, fault: Fault | None) -> Scene:
    """A populated circuit board: chips, resistors, capacitors, a diode, traces, a header."""
    light = upper_left(rng)
    table = jittered(rng, [0.62, 0.62, 0.60], 0.05)
    board = _Board(canvas, rng, table)
    offsets = rng.normal(0, 0.6, (len(_PARTS), 2))
    skews = rng.normal(0, 0.02, len(_PARTS))
    tones = rng.uniform(0.88, 1.1, len(_PARTS))
    gloss = rng.uniform(0.7, 1.15, (len(_PARTS), 32))

    board.box((4, 5), (_HALF[0] + 1, _HALF[1] + 1), table * 0.55)  # the shadow on the table
    board.box((0, 0), (_HALF[0] + 1, _HALF[1] + 1), board.green * 0.7)
    board.box((0, 0), _HALF, board.green)
    for trace in _TRACES:
        board.line(trace, board.copper, 2.6)
    if fault is not None and fault.kind == "open_trace":
        board.cut_trace(fault)
    for at in ((-98, -74), (98, -74), (-98, 74), (98, 74)):  # mounting holes
        board.disc(at, 7, board.solder * 0.9)
        board.disc(at, 4.2, table * 0.4)
    for number in range(9):  # a header along the top edge
        board.disc((-40 + 9.5 * number, -75), 3.3, board.solder * gloss[0, number])
        board.disc((-40 + 9.5 * number, -75), 1.4, board.black)

    victim = -1
    if fault is not None and fault.kind in ("missing_component", "misplaced_component"):
        victim = int(fault.rng.integers(len(_PARTS)))
    pins: list[NDArray[np.float64]] = []
    for number, (kind, x, y, half_x, half_y) in enumerate(_PARTS):
        pads = _pads(kind, half_x, half_y)
        for pad, shine in zip(pads, gloss[number]):
            board.box((x + pad[0], y + pad[1]), pad[2:], board.solder * shine)
        if kind == "chip":
            pins += [np.array([x + pad[0], y + pad[1]]) for pad in pads]
        at = np.array([x, y]) + offsets[number]
        angle = skews[number]
        if number == victim and fault is not None:
            if fault.kind == "missing_component":
                continue
            angle += fault.rng.choice([-1, 1]) * (0.2 + 0.6 * fault.strength * fault.rng.random())
            at += fault.rng.normal(0, 1.5 + 2 * fault.strength, 2)
        board.component(kind, at, (half_x, half_y), angle, tones[number])

    image = board.sheet / np.float32(255)
    if fault is not None and fault.kind == "solder_bridge":
        image = board.bridge(fault, image, np.array(pins))
    image *= (1 + np.float32(0.05) * canvas.noise(rng, 2.5, 2))[..., None]
    surface = np.zeros(canvas.shape, np.uint8)
    inner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (_HALF[0] - 3, _HALF[1] - 3)
    canvas.polygon(surface, board.place(inner), 255)
    return Scene(image, surface > 127, light)


def _pads(kind: str, half_x: float, half_y: float) -> list[tuple[float, float, float, float]]:
    """Solder pads of a component: offset and half size of each."""
    if kind == "chip":
        pads: list[tuple[float, float, float, float]] = []
        for step in np.linspace(-0.8, 0.8, 7):
            pads += [(side * (half_x + 3), step * half_y, 3.6, 1.3) for side in (-1, 1)]
            if half_x > 20:
                pads += [(step * half_x, side * (half_y + 3), 1.3, 3.6) for side in (-1, 1)]
        return pads
    if kind == "resistor":
        return [(-half_x, 0, 3.5, half_y + 1), (half_x, 0, 3.5, half_y + 1)]
    if kind == "capacitor":
        return [(0, -half_y, half_x + 1, 3.5), (0, half_y, half_x + 1, 3.5)]
    return [(-0.5 * half_x, 0, 3, 3), (0.5 * half_x, 0, 3, 3)]


class _Board:
    """A sheet to draw on in the coordinates of a board that lies a little askew."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, table: Picture) -> None:
        turn = rng.normal(0, 0.05)
        self.rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        self.center = rng.normal(0, 4.5, 2)
        self.canvas = canvas
        self.sheet = to_sheet(flat_color(canvas, table))
        self.green = jittered(rng, [0.10, 0.36, 0.22], 0.07)
        self.copper = self.green * np.float32(1.45) + np.float32(0.07)
        self.solder = jittered(rng, [0.78, 0.78, 0.76], 0.04)
        self.black = jittered(rng, [0.13, 0.13, 0.14], 0.10)

    def place(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points on the board to points in the picture."""
        return np.asarray(points, float) @ self.rotation.T + self.center

    def disc(self, at: ArrayLike, radius: float, color: Picture) -> None:
        x, y = self.place(at)
        self.canvas.disc(self.sheet, (float(x), float(y)), radius, to_color(color))

    def line(self, points: ArrayLike, color: Picture, width: float) -> None:
        self.canvas.line(self.sheet, self.place(points), to_color(color), width)

    def box(self, at: ArrayLike, half: ArrayLike, color: Picture, angle: float = 0.0) -> None:
        cos, sin = np.cos(angle), np.sin(angle)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.asarray(half)
        corners = corners @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(at)
        self.canvas.polygon(self.sheet, self.place(corners), to_color(color))

    def component(
        self,
        kind: str,
        at: NDArray[np.float64],
        half: tuple[float, float],
        angle: float,
        tone: float,
    ) -> None:
        """Draw the body of one component with its markings."""
        x, y = half
        cos, sin = np.cos(angle), np.sin(angle)

        def on_body(dx: float, dy: float) -> NDArray[np.float64]:
            return at + np.array([cos * dx - sin * dy, sin * dx + cos * dy])

        white = np.full(3, 0.85, np.float32)
        if kind == "chip":
            self.box(at + 1.5, half, self.black * 0.5, angle)
            self.box(at, half, self.black * tone, angle)
            self.box(at, (x - 2, y - 2), self.black * tone * 1.35, angle)
            self.disc(on_body(-0.7 * x, -0.7 * y), 2, self.black * 3.2)
            for row in (-0.15, 0.15, 0.45):
                self.box(on_body(0, row * y), (0.55 * x, 0.9), self.black * 4, angle)
        elif kind == "resistor":
            self.box(at, half, white * 0.85 * tone, angle)
            self.box(at, (0.66 * x, y), self.black * 1.1 * tone, angle)
            self.box(at, (0.35 * x, 0.8), white, angle)
        elif kind == "capacitor":
            self.box(at, half, white * 0.85 * tone, angle)
            body = np.array([0.66, 0.52, 0.36], np.float32)
            self.box(at, (x, 0.66 * y), body * tone, angle)
        elif kind == "can":
            self.disc(at + np.array([2, 2.5]), x, self.black * 0.6)
            self.disc(at, x, white * 0.65 * tone)
            self.disc(at, x - 2, white * 0.93 * tone)
            self.box(on_body(-0.66 * x, 0), (0.12 * x, 0.5 * x), self.black, angle)
        else:  # a light-emitting diode
            self.disc(at, x, white)
            self.disc(at, 0.6 * x, np.array([0.86, 0.28, 0.20], np.float32) * tone)

    def cut_trace(self, fault: Fault) -> None:
        """Etch a piece of a trace away."""
        rng = fault.rng
        trace = np.asarray(_TRACES[int(rng.integers(len(_TRACES)))], float)
        piece = int(np.argmax(np.hypot(*np.diff(trace, axis=0).T)))
        way = trace[piece + 1] - trace[piece]
        size = 4 + 6 * fault.strength * rng.random()
        middle = trace[piece] + way * rng.uniform(0.35, 0.65)
        step = way / np.hypot(*way) * size
        self.line([middle - step, middle + step], self.green * 0.92, 4.6)

    def bridge(self, fault: Fault, image: Picture, pins: NDArray[np.float64]) -> Picture:
        """Let solder run from one pin of a chip to the next."""
        first = pins[int(fault.rng.integers(len(pins)))]
        second = pins[np.argsort(np.hypot(*(pins - first).T))[1]]
        x, y = self.place((first + second) / 2)
        size = 2.8 + 2.5 * fault.strength
        edge = self.canvas.blob(fault.rng, (float(x), float(y)), size, 0.25)
        shine = np.float32(0.85) + np.float32(0.1) * np.clip(-edge, 0, 3)
        return blend(image, np.minimum(self.solder * shine[..., None], 1), self.canvas.cover(edge))
