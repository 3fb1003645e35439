"""
Declared image formats
======================

An array does not say whether its channels are BGR or RGB, nor whether full scale is 4095 or 65535.
Guessing goes well until the day it does not. So the format is declared once, in the first step of
a pipeline, and whatever does not fit it is an error.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector
from pyimgano.datasets import make_inspection_dataset
from pyimgano.exceptions import ImageFormatError
from pyimgano.features import FilterBankFeatures

data = make_inspection_dataset(
    "bottle_cap", n_train=30, n_test_good=20, n_test_defect=0, size=96, random_state=0
)

# %%
# The same parts as three sources deliver them: OpenCV's channel order, a 12-bit camera, and the
# tensors of a training loop. Each becomes the same RGB bytes.
deliveries = {
    "bgr_u8_hwc": data.X_test[..., ::-1],
    "rgb_u16_hwc": np.round(data.X_test / 255 * 4095).astype(np.uint16),
    "rgb_f32_chw": (data.X_test / 255).astype(np.float32).transpose(0, 3, 1, 2),
}
for name, frames in deliveries.items():
    images = ImageFormatNormalizer(name, u16_max=4095).transform(frames)
    same = (images == data.X_test).all()
    print(f"{name:12} {frames.dtype!s:8} {frames.shape!s:18} -> {images.shape}, same: {same}")

# %%
# What is not in the declared format never gets a score. The message says what came and what
# accepts it.
normalizer = ImageFormatNormalizer("rgb_u16_hwc", u16_max=1023)  # 10 bit; the camera has 12
try:
    normalizer.transform(deliveries["rgb_u16_hwc"])
except ImageFormatError as error:
    print(error)
try:
    PatchCoreDetector("filterbank").fit(deliveries["rgb_f32_chw"])
except ImageFormatError as error:
    print(error)

# %%
# Some mistakes no check can find: frames in BGR order make perfectly good RGB images, and 12-bit
# values fit into 16 bits. A detector trained on the right colors then takes all twenty good parts
# for defective ones.
cases = [
    ("right", "bgr_u8_hwc", "bgr_u8_hwc", 65535),
    ("wrong order", "bgr_u8_hwc", "rgb_u8_hwc", 65535),
    ("right", "rgb_u16_hwc", "rgb_u16_hwc", 4095),
    ("wrong scale", "rgb_u16_hwc", "rgb_u16_hwc", 65535),
]
pipe = make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(FilterBankFeatures(resize=96))).fit(
    data.X_train
)
threshold = -pipe[-1].offset_

figure = plt.figure(figsize=(9, 5.6), layout="constrained")
grid = figure.add_gridspec(2, 4, height_ratios=(1, 1.1))
below = figure.add_subplot(grid[1, :])
jitter = np.linspace(-0.15, 0.15, len(data.X_test))
for column, (verdict, source, declared, u16_max) in enumerate(cases):
    pipe.set_params(
        imageformatnormalizer__input_format=declared, imageformatnormalizer__u16_max=u16_max
    )
    color = "tab:green" if verdict == "right" else "tab:red"
    scores = -pipe.score_samples(deliveries[source])
    below.plot(column + jitter, scores, "o", color=color)
    above = figure.add_subplot(grid[0, column])
    above.imshow(pipe[0].transform(deliveries[source][:1])[0])
    above.set_title(verdict, color=color)
    above.set_xlabel(declared if "u8" in declared else f"{declared}\nu16_max={u16_max}")
    above.set(xticks=[], yticks=[])
below.axhline(threshold, color="black", linewidth=1)
below.annotate("threshold", (-0.48, threshold), xytext=(0, 4), textcoords="offset points")
below.set(xlim=(-0.5, 3.5), ylabel="anomaly score", title="Twenty good parts, by what was declared")
below.set_xticks(range(4), [f"{case[2]}\n{case[0]}" for case in cases])
plt.show()
