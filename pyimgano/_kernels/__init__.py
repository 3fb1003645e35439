"""Numeric kernels on plain arrays: no images, no estimators, no other room of the package."""

from pyimgano._kernels.memory import watch_compiler

watch_compiler()
