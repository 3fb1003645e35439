"""scikit-learn's tags of the steps that take images."""

from __future__ import annotations

from sklearn.utils import Tags

__all__ = ["ImageInputMixin"]


class ImageInputMixin:
    """Tags of an estimator whose input is images or paths of image files.

    Must come before ``TransformerMixin`` among the bases, where that is one.
    """

    @property
    def _needs_fit(self) -> bool:
        """True if the step learns something that ``transform`` needs."""
        return False

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.requires_fit = self._needs_fit
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags
