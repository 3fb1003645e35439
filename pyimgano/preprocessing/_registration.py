"""Bring an image to where the reference image lies: phase correlation and ECC.

A motion is a (2, 3) matrix that takes positions (x, y, 1) of the reference frame to the place
in the image where the same thing is seen, which is the direction ``cv2.warpAffine`` calls
inverse.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from pyimgano.inputs._formats import resize_image

__all__ = ["ALIGNMENTS", "MOTIONS", "Registrar", "Registration", "covered", "warp", "warp_image"]

ALIGNMENTS = ("phase_correlation", "ecc")
MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
}

# ECC runs on images of at most this side: a fourth of the time at 256, and its steps reach
# twice as far. It finds a part of a pixel, so that little accuracy is lost.
_ECC_SIDE = 128
_ECC_STEPS, _ECC_EPSILON = 50, 1e-5
_ECC_BLUR = 5  # side of OpenCV's Gaussian in pixels, odd
# A motion that leaves less of the reference in view has most likely matched unrelated things.
_LEAST_OVERLAP = 0.5


class Registration(NamedTuple):
    """Outcome for one image.

    Parameters
    ----------
    motion : ndarray of shape (2, 3) or None
        None where the image stays as it lies.
    problem : str
        Why no motion was found; empty if there is no cause for complaint.
    correlation : float
        Correlation coefficient with the reference in the common area, with that motion.
    """

    motion: np.ndarray | None
    problem: str
    correlation: float


class Registrar:
    """Estimates motions to one reference image.

    An estimated motion is taken only if it brings the image closer to the reference, that is
    if their correlation coefficient in the common area rises. Otherwise the image stays as it
    lies. That is no cause for complaint where the image was in place to begin with; it is one
    where the method found no solution, or one that moves most of the part out of view.

    Parameters
    ----------
    reference : ndarray of shape (height, width), uint8
        Gray reference image.
    method : {"phase_correlation", "ecc"}
        Phase correlation [1]_ estimates a translation from the Fourier spectra at once. ECC
        [2]_ maximizes the correlation coefficient step by step, for any motion model; it
        starts from the translation that phase correlation finds.
    motion : {"translation", "euclidean", "affine"}
        The motion model; phase correlation has translations only.
    n_directions : int, default=1
        Directions, evenly spaced over a full turn, in which the image is compared with the
        reference before ECC starts from the best one. ECC alone finds rotations of some 10 to
        20 degrees.

    References
    ----------
    .. [1] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [2] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import cv2, numpy as np
    >>> from pyimgano.preprocessing._registration import Registrar
    >>> scene = np.random.RandomState(0).randint(0, 256, size=(80, 80)).astype(np.uint8)
    >>> scene = cv2.GaussianBlur(scene, (0, 0), 1.5)
    >>> registrar = Registrar(scene[5:69, 5:69], "phase_correlation", "translation")
    >>> registrar.register(scene[8:72, 3:67]).motion.round()  # sees all 2 right, 3 up
    array([[ 1.,  0.,  2.],
           [ 0.,  1., -3.]])
    """

    def __init__(
        self, reference: np.ndarray, method: str, motion: str, n_directions: int = 1
    ) -> None:
        self._method, self._motion, self._n_directions = method, motion, n_directions
        self._reference = reference.astype(np.float32)
        height, width = reference.shape
        scale = _ECC_SIDE / max(height, width) if method == "ecc" else 1.0
        self._small = (
            (height, width)
            if scale >= 1
            else (max(1, round(height * scale)), max(1, round(width * scale)))
        )
        self._small_reference = resize_image(self._reference, self._small)
        self._hann = cv2.createHanningWindow(self._small[::-1], cv2.CV_32F)

    def register(self, image: np.ndarray) -> Registration:
        """Estimate the motion of a gray uint8 image of the reference's shape."""
        image = image.astype(np.float32)
        if self._n_directions == 1:
            return self._register(image)
        turn = self._best_turn(image)
        found = self._register(warp_image(image, turn))
        if found.problem:
            return found
        motion = turn if found.motion is None else turn @ np.vstack([found.motion, [0.0, 0.0, 1.0]])
        as_it_lies = _correlation(self._reference, image, None)
        return self._judged(image, motion, as_it_lies)

    def _register(self, image: np.ndarray) -> Registration:
        as_it_lies = _correlation(self._reference, image, None)
        small = resize_image(image, self._small)
        motion: np.ndarray | None = self._enlarged(self._shift(small))
        if self._method == "ecc":
            better = _correlation(self._reference, image, motion) > as_it_lies
            motion = self._ecc(small, motion if better else None)
        if motion is None:
            return Registration(None, "ECC did not converge", as_it_lies)
        return self._judged(image, motion, as_it_lies)

    def _judged(self, image: np.ndarray, motion: np.ndarray, as_it_lies: float) -> Registration:
        """The motion, if it keeps the part in view and brings the image closer."""
        if covered(motion, image.shape).mean() < _LEAST_OVERLAP:
            share = f"{_LEAST_OVERLAP:.0%}"
            problem = f"the motion found leaves less than {share} in view"
            return Registration(None, problem, as_it_lies)
        correlation = _correlation(self._reference, image, motion)
        if correlation <= as_it_lies:
            return Registration(None, "", as_it_lies)
        return Registration(motion, "", correlation)

    def _best_turn(self, image: np.ndarray) -> np.ndarray:
        """The turn about the center after which the image is most like the reference.

        ECC is then left with a small motion; it often fails to converge from a large one.
        """
        small = resize_image(image, self._small)
        center = ((small.shape[1] - 1) / 2, (small.shape[0] - 1) / 2)
        best: np.ndarray = np.eye(2, 3)
        highest = -np.inf
        for k in range(self._n_directions):
            turn = cv2.getRotationMatrix2D(center, 360.0 * k / self._n_directions, 1.0)
            shift = self._shift(warp_image(small, turn))
            motion = turn @ np.vstack([shift, [0.0, 0.0, 1.0]])
            correlation = -1.0
            if covered(motion, small.shape).mean() >= _LEAST_OVERLAP:
                correlation = _correlation(self._small_reference, small, motion)
            if correlation > highest:
                best, highest = turn, correlation
        return self._enlarged(best)

    def _shift(self, small: np.ndarray) -> np.ndarray:
        # OpenCV multiplies both images by the window in place where it need not pad them.
        (dx, dy), _ = cv2.phaseCorrelate(self._small_reference.copy(), small.copy(), self._hann)
        return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])

    def _ecc(self, small: np.ndarray, start: np.ndarray | None) -> np.ndarray | None:
        first = np.eye(2, 3) if start is None else self._reduced(start)
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ECC_STEPS, _ECC_EPSILON)
        try:
            _, found = cv2.findTransformECC(
                self._small_reference,
                small,
                first.astype(np.float32),
                MOTIONS[self._motion],
                criteria,
                np.full(small.shape, 255, dtype=np.uint8),
                _ECC_BLUR,
            )
        except cv2.error as error:
            if error.code != cv2.Error.StsNoConv:
                raise
            return None
        return self._enlarged(found.astype(np.float64)) if np.isfinite(found).all() else None

    def _to_small(self) -> np.ndarray:
        """Positions in the frame to positions in the small one; pixel centers are integers."""
        factors = np.array(self._small[::-1]) / np.array(self._reference.shape[::-1])
        matrix = np.diag([*factors, 1.0])
        matrix[:2, 2] = (factors - 1) / 2
        return matrix

    def _enlarged(self, motion: np.ndarray) -> np.ndarray:
        there = self._to_small()
        return (np.linalg.inv(there) @ np.vstack([motion, [0, 0, 1]]) @ there)[:2]

    def _reduced(self, motion: np.ndarray) -> np.ndarray:
        there = self._to_small()
        return (there @ np.vstack([motion, [0, 0, 1]]) @ np.linalg.inv(there))[:2]


def _correlation(reference: np.ndarray, image: np.ndarray, motion: np.ndarray | None) -> float:
    """Correlation of an image with the reference in the common area; -1 where there is none."""
    if motion is not None:
        inside = covered(motion, image.shape)
        if not inside.any():
            return -1.0
        image, reference = warp_image(image, motion)[inside], reference[inside]
    a = image - image.mean(dtype=np.float64)
    b = reference - reference.mean(dtype=np.float64)
    norm = np.sqrt((a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64))
    return float((a * b).sum(dtype=np.float64) / norm) if norm > 0 else -1.0


def warp_image(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """An image, gray or of several channels, as the reference frame sees it.

    What lies outside the image repeats its border.
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    return cv2.warpAffine(image, motion, image.shape[1::-1], flags=flags, borderMode=border)


def warp(planes: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The planes ``(n_planes, height, width)`` of an image as the reference frame sees them."""
    return np.stack([warp_image(plane, motion) for plane in planes])


def covered(motion: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels of the reference frame that lie inside the image, (height, width), bool."""
    size = shape[::-1]
    full = np.full(shape, 255, dtype=np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(full, motion, size, flags=flags, borderMode=cv2.BORDER_CONSTANT) == 255
