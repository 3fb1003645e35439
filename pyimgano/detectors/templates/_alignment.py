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

__all__ = ["ALIGNMENTS", "MOTIONS", "Registrar", "Registration", "covered", "warp", "warp_back"]

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
    """Outcome for one image: the motion, None where it stays as it lies, and the complaint."""

    motion: np.ndarray | None
    problem: str = ""


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

    References
    ----------
    .. [1] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [2] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import cv2, numpy as np
    >>> from pyimgano.detectors.templates._alignment import Registrar
    >>> scene = np.random.RandomState(0).randint(0, 256, size=(80, 80)).astype(np.uint8)
    >>> scene = cv2.GaussianBlur(scene, (0, 0), 1.5)
    >>> registrar = Registrar(scene[5:69, 5:69], "phase_correlation", "translation")
    >>> registrar.register(scene[8:72, 3:67]).motion.round()  # sees all 2 right, 3 up
    array([[ 1.,  0.,  2.],
           [ 0.,  1., -3.]])
    """

    def __init__(self, reference: np.ndarray, method: str, motion: str) -> None:
        self._method, self._motion = method, motion
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
        as_it_lies = self._correlation(image, None)
        small = resize_image(image, self._small)
        shift = self._shift(small)
        candidate = Registration(shift)
        if self._method == "ecc":
            start = shift if self._correlation(image, shift) > as_it_lies else None
            candidate = self._ecc(small, start)
        motion = candidate.motion
        if motion is None:
            return candidate
        if covered(motion, image.shape).mean() < _LEAST_OVERLAP:
            share = f"{_LEAST_OVERLAP:.0%}"
            return Registration(None, f"the motion found leaves less than {share} in view")
        if self._correlation(image, motion) <= as_it_lies:
            return Registration(None)
        return candidate

    def _shift(self, small: np.ndarray) -> np.ndarray:
        # OpenCV multiplies both images by the window in place where it need not pad them.
        (dx, dy), _ = cv2.phaseCorrelate(self._small_reference.copy(), small.copy(), self._hann)
        return self._enlarged(np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]]))

    def _ecc(self, small: np.ndarray, start: np.ndarray | None) -> Registration:
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
            return Registration(None, "ECC did not converge")
        if not np.isfinite(found).all():
            return Registration(None, "ECC did not converge")
        return Registration(self._enlarged(found.astype(np.float64)))

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

    def _correlation(self, image: np.ndarray, motion: np.ndarray | None) -> float:
        """Correlation with the reference in the common area; -1 where there is none."""
        reference = self._reference
        if motion is not None:
            inside = covered(motion, image.shape)
            if not inside.any():
                return -1.0
            image, reference = warp(image[None], motion)[0][inside], reference[inside]
        a = image - image.mean(dtype=np.float64)
        b = reference - reference.mean(dtype=np.float64)
        norm = np.sqrt((a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64))
        return float((a * b).sum(dtype=np.float64) / norm) if norm > 0 else -1.0


def warp(planes: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The planes ``(n_planes, height, width)`` of an image as the reference frame sees them.

    What lies outside the image repeats its border.
    """
    size = planes.shape[:0:-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    return np.stack(
        [cv2.warpAffine(p, motion, size, flags=flags, borderMode=border) for p in planes]
    )


def covered(motion: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels of the reference frame that lie inside the image, (height, width), bool."""
    size = shape[::-1]
    full = np.full(shape, 255, dtype=np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(full, motion, size, flags=flags, borderMode=cv2.BORDER_CONSTANT) == 255


def warp_back(heat: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """A map in the reference frame in the image's own pixels; its minimum where it has none."""
    size = heat.shape[::-1]
    return cv2.warpAffine(
        heat,
        motion,
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float(heat.min()),
    )
