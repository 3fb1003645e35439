"""Heat maps of robustness reports, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyimgano._corruptions import CORRUPTIONS
from pyimgano.robustness._report import FIGURES, figure_of, robustness_report
from pyimgano.utils._optional import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RobustnessDisplay"]

_TITLES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "false_positive_rate": "false alarms at the clean threshold",
    "miss_rate": "misses at the clean threshold",
}
_SHOWN = ("image_auroc", "false_positive_rate", "miss_rate")


class RobustnessDisplay:
    """Heat maps of one or several robustness reports: corruptions down, severities across.

    The first column is that of the clean images. Rates are in percent. Good values are light, bad
    ones dark, on the same scale in all reports: from 0.5, which is chance, to 1 for areas under
    curves, and from 0 to 100 % for rates.

    Use :meth:`from_estimator` or :meth:`from_reports` to make one, and :meth:`plot` to draw it
    again.

    Parameters
    ----------
    reports : dict of str to dict
        Results of :func:`robustness_report` by their titles.
    figures : sequence of str, default=("image_auroc", "false_positive_rate", "miss_rate")
        What to draw of each, side by side; also ``"pixel_auroc"`` and ``"aupro"``.

    Attributes
    ----------
    axes_ : ndarray of shape (n_reports, n_figures) of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from pyimgano.robustness import RobustnessDisplay
    >>> display = RobustnessDisplay.from_estimator(
    ...     pipe, data.X_test, data.y_test, corruptions=["dust", "defocus"]
    ... )  # doctest: +SKIP
    """

    def __init__(
        self, reports: Mapping[str, Mapping[str, Any]], *, figures: Sequence[str] = _SHOWN
    ) -> None:
        self.reports = reports
        self.figures = figures

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        masks: Sequence[Any] | None = None,
        corruptions: str | Sequence[str] = "all",
        severities: int | Sequence[int] = (1, 2, 3, 4, 5),
        random_state: int = 0,
        figures: Sequence[str] = _SHOWN,
        axes: Any = None,
    ) -> RobustnessDisplay:
        """Measure an estimator and draw what was found.

        Parameters
        ----------
        estimator, X, y, masks, corruptions, severities, random_state
            As for :func:`robustness_report`.
        figures : sequence of str
            As for the class.
        axes : array-like of shape (1, n_figures) of matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        RobustnessDisplay
        """
        report = robustness_report(
            estimator,
            X,
            y,
            masks=masks,
            corruptions=corruptions,
            severities=severities,
            random_state=random_state,
        )
        name = type(estimator).__name__
        return cls.from_reports({name: report}, figures=figures, axes=axes)

    @classmethod
    def from_reports(
        cls,
        reports: Mapping[str, Mapping[str, Any]],
        *,
        figures: Sequence[str] = _SHOWN,
        axes: Any = None,
    ) -> RobustnessDisplay:
        """Draw reports.

        Parameters
        ----------
        reports : dict of str to dict
            As for the class.
        figures : sequence of str
            As for the class.
        axes : array-like of shape (n_reports, n_figures) of matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        RobustnessDisplay
        """
        return cls(reports, figures=figures).plot(axes)

    def plot(self, axes: Any = None) -> RobustnessDisplay:
        """Draw the heat maps.

        Parameters
        ----------
        axes : array-like of shape (n_reports, n_figures) of matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        RobustnessDisplay
            Itself.
        """
        for name in self.figures:
            if name not in FIGURES:
                raise ValueError(f"there is no figure {name!r}. There are {', '.join(FIGURES)}.")
        shape = (len(self.reports), len(self.figures))
        if axes is None:
            axes = self._make_axes(shape)
        axes = np.atleast_2d(np.asarray(axes, dtype=object))
        if axes.shape != shape:
            raise ValueError(
                f"axes of shape {axes.shape} do not fit: {len(self.reports)} reports and "
                f"{len(self.figures)} figures need the shape {shape}."
            )
        self.axes_ = axes
        self.figure_ = self.axes_[0, 0].figure
        for row, (title, report) in zip(self.axes_, self.reports.items()):
            for column, name in enumerate(self.figures):
                _draw(row[column], report, name, title if column == 0 else "", column == 0)
        return self

    def _make_axes(self, shape: tuple[int, int]) -> Any:
        plt = import_optional("matplotlib.pyplot", "report", "RobustnessDisplay")
        n_kinds = [len(report["corruptions"]) for report in self.reports.values()]
        heights = [max(n, 2) + 2.0 for n in n_kinds]
        _, axes = plt.subplots(
            *shape,
            figsize=(1.6 + 3.6 * shape[1], 0.27 * sum(heights) + 0.6),
            gridspec_kw={"height_ratios": heights},
            squeeze=False,
            layout="constrained",
        )
        return axes


def _draw(axes: Axes, report: Mapping[str, Any], name: str, title: str, with_names: bool) -> None:
    kinds = [kind for kind in CORRUPTIONS if kind in report["corruptions"]]
    severities = [one["severity"] for one in report["corruptions"][kinds[0]]["conditions"]]
    clean = figure_of(report["clean"], name)
    table = [
        [clean, *(figure_of(one, name) for one in report["corruptions"][kind]["conditions"])]
        for kind in kinds
    ]
    values = np.array([[np.nan if one is None else one for one in row] for row in table], float)
    good = FIGURES[name]
    low = 0.5 if good else 0.0
    badness = (1 - values) / (1 - low) if good else values
    axes.imshow(badness, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if np.isnan(values[i, j]):
            text = "-"
        else:
            text = f"{values[i, j]:.3f}" if good else f"{100 * values[i, j]:.0f}"
        color = "white" if badness[i, j] > 0.6 else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
    axes.axvline(0.5, color="black", linewidth=1)
    axes.set_xticks(range(len(severities) + 1), ["clean", *map(str, severities)], fontsize=7)
    names = [kind.replace("_", " ") for kind in kinds] if with_names else [""] * len(kinds)
    axes.set_yticks(range(len(kinds)), names, fontsize=8)
    axes.tick_params(length=0)
    unit = "" if good else " (%)"
    axes.set_title(f"{_TITLES[name]}{unit}", fontsize=8)
    axes.set_xlabel("severity", fontsize=8)
    if title:
        axes.set_ylabel(title, fontsize=9)
