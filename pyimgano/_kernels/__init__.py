"""Numeric kernels on plain arrays: no images, no estimators, no other room of the package."""
