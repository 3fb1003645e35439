"""Formats of image arrays, and their conversion to canonical RGB uint8."""

from __future__ import annotations

import sys
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image

from pyimgano.exceptions import ImageFormatError
from pyimgano.utils._optional import import_optional

if TYPE_CHECKING:
    import torch


class ImageFormat(str, Enum):
    """The image formats that can be declared: channel order, value type, axis order.

    Members compare equal to their value, so plain strings such as ``"bgr_u8_hwc"`` can be
    used wherever a format is asked for.

    ``u8`` is uint8 in [0, 255]; ``u16`` is uint16 in [0, ``u16_max``], whatever the sensor
    delivers (4095 for 12 bit); ``f32`` is floating point in [0, 1], float32 or float64.
    ``hwc`` is (height, width, 3), ``chw`` is (3, height, width), ``hw`` is a plain 2-D image.

    Examples
    --------
    >>> from pyimgano.inputs import ImageFormat
    >>> ImageFormat("gray_u16_hw") is ImageFormat.GRAY_U16_HW
    True
    >>> ImageFormat.BGR_U8_HWC == "bgr_u8_hwc"
    True
    """

    BGR_U8_HWC = "bgr_u8_hwc"
    RGB_U8_HWC = "rgb_u8_hwc"
    RGB_F32_CHW = "rgb_f32_chw"
    RGB_F32_HWC = "rgb_f32_hwc"
    BGR_U16_HWC = "bgr_u16_hwc"
    RGB_U16_HWC = "rgb_u16_hwc"
    GRAY_U8_HW = "gray_u8_hw"
    GRAY_U16_HW = "gray_u16_hw"
    GRAY_F32_HW = "gray_f32_hw"

    def __str__(self) -> str:
        return self.value


class _Declared(NamedTuple):
    """Properties of one image in a declared format."""

    color: str  # "rgb", "bgr" or "gray"
    dtypes: tuple[type, ...]
    axes: str  # "hwc", "chw" or "hw"

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def shape(self) -> str:
        return {"hwc": "(H, W, 3)", "chw": "(3, H, W)", "hw": "(H, W)"}[self.axes]

    @property
    def dtype(self) -> str:
        return " or ".join(t.__name__ for t in self.dtypes)


_DTYPES: dict[str, tuple[type, ...]] = {
    "u8": (np.uint8,),
    "u16": (np.uint16,),
    # float64 is what numpy makes of float32 in passing; it declares the same range.
    "f32": (np.float32, np.float64),
}
# The names say everything; this is the one place that reads them.
DECLARED: dict[ImageFormat, _Declared] = {}
for _format in ImageFormat:
    _color, _type, _axes = _format.value.split("_")
    DECLARED[_format] = _Declared(_color, _DTYPES[_type], _axes)


def is_torch_tensor(x: object) -> bool:
    """Return True if ``x`` is a torch tensor, without importing torch."""
    # Another thread may just be importing torch, which then has no tensors yet.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def describe(x: object) -> str:
    """Describe an input in a few words, for error messages."""
    if isinstance(x, np.ndarray):
        kind = "masked" if isinstance(x, np.ma.MaskedArray) else "numpy"
        return f"a {kind} array of dtype {x.dtype} and shape {x.shape}"
    if isinstance(x, Image.Image):
        return f"a PIL image of mode {x.mode} and {x.height} x {x.width} pixels"
    if is_torch_tensor(x):
        return f"a torch tensor of dtype {x.dtype} and shape {tuple(x.shape)}"  # type: ignore[attr-defined]
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of length {len(x)}"
    if x is None:
        return "None"
    text = repr(x)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{text} of type {type(x).__name__}"


def check_format(input_format: str | ImageFormat) -> ImageFormat:
    """The declared format as an enum member."""
    try:
        return ImageFormat(input_format)
    except ValueError:
        names = ", ".join(f.value for f in ImageFormat)
        raise ImageFormatError(
            f"input_format={input_format!r} is not an image format; declare one of {names}"
        ) from None


def check_u16_max(u16_max: int) -> int:
    """The declared full scale of 16-bit images as an int in [1, 65535]."""
    is_integer = isinstance(u16_max, (int, np.integer)) and not isinstance(u16_max, bool)
    if not is_integer or not 1 <= u16_max <= 65535:
        raise ImageFormatError(
            f"u16_max={u16_max!r} must be an integer from 1 to 65535: the value of full white, "
            "such as 4095 for a 12-bit sensor"
        )
    return int(u16_max)


def normalize_numpy_image(
    image: np.ndarray | torch.Tensor,
    input_format: str | ImageFormat,
    *,
    u16_max: int = 65535,
    where: str | None = None,
) -> np.ndarray:
    """Convert one image of a declared format to canonical RGB uint8 HWC.

    Nothing is guessed: dtype, shape and value range must be those of ``input_format``.

    Parameters
    ----------
    image : ndarray or torch.Tensor
        One image. Tensors, on any device, pass for ``"rgb_f32_chw"`` only.
    input_format : str or ImageFormat
        The format of ``image``. ``f32`` formats take float32 and float64.
    u16_max : int, default=65535
        Value of full white in ``u16`` formats, such as 1023, 4095 or 65535.
    where : str, optional
        Name of the image in error messages.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        A new C-contiguous array, never a view of ``image``. Floats become ``x * 255``,
        16-bit values ``v * 255 / u16_max``, both rounded to nearest; gray is repeated
        into the three channels.

    Raises
    ------
    ImageFormatError
        When dtype, shape or values are not those of the declared format.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.inputs import normalize_numpy_image
    >>> normalize_numpy_image(np.array([[[1, 2, 3]]], dtype=np.uint8), "bgr_u8_hwc")
    array([[[3, 2, 1]]], dtype=uint8)
    >>> normalize_numpy_image(np.array([[4095]], dtype=np.uint16), "gray_u16_hw", u16_max=4095)
    array([[[255, 255, 255]]], dtype=uint8)
    """
    fmt = check_format(input_format)
    u16_max = check_u16_max(u16_max)
    declared = DECLARED[fmt]
    where = where or "the image"
    array = _check_declared(image, fmt, where)
    if np.float32 in declared.dtypes:
        array = _float_to_u8(array, fmt, where)
    elif np.uint16 in declared.dtypes:
        array = _u16_to_u8(array, fmt, u16_max, where)
    if declared.axes == "chw":
        array = array.transpose(1, 2, 0)
    if declared.color == "gray":
        return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2RGB)
    if declared.color == "bgr":
        return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_BGR2RGB)
    if np.uint8 in declared.dtypes:  # still the caller's memory
        return np.array(array, order="C", copy=True)
    return np.ascontiguousarray(array)


def ensure_rgb_u8_hwc(image: np.ndarray, where: str | None = None) -> np.ndarray:
    """Check that one image is canonical: uint8, RGB, of shape (H, W, 3).

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        The image.
    where : str, optional
        Name of the image in error messages.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        ``image`` itself, not a copy.

    Raises
    ------
    ImageFormatError
        When it is anything else; the message names the ``input_format`` of
        :class:`ImageFormatNormalizer` that accepts it, where one does.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.inputs import ensure_rgb_u8_hwc
    >>> ensure_rgb_u8_hwc(np.zeros((4, 5, 3), dtype=np.uint8)).shape
    (4, 5, 3)
    """
    where = where or "the image"
    if (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size
        and not isinstance(image, np.ma.MaskedArray)
    ):
        return image
    raise ImageFormatError(
        f"{where} is {describe(image)}; needed is a canonical image, uint8 RGB of shape "
        f"(H, W, 3). {way_out(image)}"
    )


def to_torch_chw_float(image: np.ndarray) -> torch.Tensor:
    """Convert a canonical image to a float tensor as networks take it.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        Canonical RGB image.

    Returns
    -------
    torch.Tensor of shape (3, H, W), float32
        Values in [0, 1], on the CPU, sharing no memory with ``image``.

    Raises
    ------
    ImageFormatError
        When ``image`` is not canonical.
    MissingExtraError
        When torch is not installed.
    """
    ensure_rgb_u8_hwc(image)
    torch = import_optional("torch", "torch", "to_torch_chw_float")
    # astype copies, so read-only images do not end up in a writable tensor.
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order="C")).div_(255)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image or a map to (height, width): area averages down, linear up.

    The two directions are taken one after the other when one side shrinks and the other
    grows, so that the shrinking side is not aliased.

    Raises
    ------
    MemoryError
        When there is not enough for the resized image.
    """
    height, width = size
    small = (min(height, image.shape[0]), min(width, image.shape[1]))
    try:
        if small != image.shape[:2]:
            image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
        if small != size:
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise MemoryError(
            f"there is no memory for an image of {width} x {height} pixels"
        ) from error
    return image


def way_out(x: object, batch: bool = False) -> str:
    """Say in a sentence how to convert an image, or a batch, of the wrong format."""
    if x is None:
        return (
            "cv2.imread gives None for a file it cannot read: pass the paths themselves, and the "
            "error says which file it is and what is wrong with it."
        )
    if not isinstance(x, np.ndarray) and not is_torch_tensor(x):
        return "Read files by passing their paths, and make arrays of everything else."
    if isinstance(x, np.ma.MaskedArray):
        return (
            "Images have no masked pixels: fill them, as in x.filled(0), or leave them out with "
            "fit(X, roi_mask=mask)."
        )
    shape = tuple(x.shape)  # type: ignore[attr-defined]
    kind = str(x.dtype).replace("torch.", "")  # type: ignore[attr-defined]
    if 0 in shape:
        return "Images must have at least one pixel."
    if batch:
        shape = shape[1:]
    value = {"uint8": "u8", "uint16": "u16", "float32": "f32", "float64": "f32"}.get(kind)
    if value is None:
        return (
            f"No input_format takes {kind}: convert to uint8, uint16 or float32 in [0, 1] "
            "and declare that."
        )
    if len(shape) == 2:
        axes = "hw"
    elif len(shape) == 3 and shape[2] == 3:
        axes = "hwc"
    elif len(shape) == 3 and shape[0] == 3:
        axes = "chw"
    elif len(shape) == 3 and 4 in (shape[0], shape[2]):
        if shape[2] == 4:
            part = "X[..., :3]" if batch else "image[..., :3]"
        else:
            part = "X[:, :3]" if batch else "image[:3]"
        return f"No input_format takes a fourth channel: drop it, as in {part}."
    elif len(shape) == 3 and shape[2] == 1:
        part = "X[..., 0]" if batch else "image[..., 0]"
        return f"Drop the last axis, as in {part}, and declare 'gray_{value}_hw'."
    else:
        return f"No input_format takes images of shape {shape}."
    names = [f.value for f in ImageFormat if f.value.endswith(f"{value}_{axes}")]
    if not names:  # integers in CHW
        order = "(0, 2, 3, 1)" if batch else "(1, 2, 0)"
        moved = f"{'X' if batch else 'image'}.transpose{order}"
        if is_torch_tensor(x):
            moved = f"{'X' if batch else 'image'}.permute{order}.cpu().numpy()"
        return (
            f"Move the channels last, as in {moved}, and declare 'rgb_{value}_hwc' or "
            f"'bgr_{value}_hwc'."
        )
    calls = " or ".join(f"ImageFormatNormalizer(input_format={n!r})" for n in names)
    out = f"{calls} accepts it."
    if is_torch_tensor(x) and axes != "chw":
        out = f"Convert it with .cpu().numpy(); then {out}"
    return out


def _check_declared(image: object, fmt: ImageFormat, where: str) -> np.ndarray:
    """The image as an array, once dtype and shape are those of the format."""
    declared = DECLARED[fmt]
    wanted = f"input_format={fmt.value!r} declares {declared.dtype} of shape {declared.shape}"
    array = image
    if is_torch_tensor(image):
        if declared.axes != "chw":
            raise ImageFormatError(
                f"{where} is {describe(image)}, but {wanted} as a numpy array. {way_out(image)}"
            )
        if not image.dtype.is_floating_point or image.element_size() < 4:  # type: ignore[attr-defined]
            raise ImageFormatError(f"{where} is {describe(image)}, but {wanted}. {way_out(image)}")
        array = image.detach().cpu().numpy()  # type: ignore[attr-defined]
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise ImageFormatError(f"{where} is {describe(image)}, but {wanted}. {way_out(image)}")
    right_shape = array.ndim == declared.ndim and (
        declared.axes == "hw" or array.shape[declared.axes.index("c")] == 3
    )
    right_dtype = array.dtype.newbyteorder("=") in declared.dtypes
    if not right_shape or not right_dtype or array.size == 0:
        raise ImageFormatError(f"{where} is {describe(image)}, but {wanted}. {way_out(image)}")
    return array


def _float_to_u8(array: np.ndarray, fmt: ImageFormat, where: str) -> np.ndarray:
    low, high = array.min(), array.max()  # NaN anywhere makes both NaN
    if not (low >= 0 and high <= 1):
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            found = f"holds {bad} values that are NaN or infinite"
        else:
            found = f"has values from {low:g} to {high:g}"
        raise ImageFormatError(
            f"{where} {found}, but input_format={fmt.value!r} declares values in [0, 1]. "
            "Divide by the value of full white, undo any standardization, and replace or "
            "leave out what is not finite."
        )
    # In double precision float32 * 255 is exact, so the rounding is to nearest.
    scaled = np.multiply(array, 255.0, dtype=np.float64)
    return np.rint(scaled, out=scaled).astype(np.uint8)


@lru_cache(maxsize=16)
def _u16_table(u16_max: int) -> np.ndarray:
    """uint8 for every 16-bit value: round(v * 255 / u16_max), halves up, exactly."""
    values = np.arange(u16_max + 1, dtype=np.int64)
    table = ((values * 510 + u16_max) // (2 * u16_max)).astype(np.uint8)
    table.setflags(write=False)
    return table


def _u16_to_u8(array: np.ndarray, fmt: ImageFormat, u16_max: int, where: str) -> np.ndarray:
    high = int(array.max())
    if high > u16_max:
        raise ImageFormatError(
            f"{where} has values up to {high}, but input_format={fmt.value!r} with "
            f"u16_max={u16_max} declares at most {u16_max}. Set u16_max to the value of full "
            "white of the sensor (1023 for 10 bit, 4095 for 12 bit, 65535 for 16 bit)."
        )
    return _u16_table(u16_max)[array]
