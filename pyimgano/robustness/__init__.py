from pyimgano._corruptions import CORRUPTIONS, Corruption
