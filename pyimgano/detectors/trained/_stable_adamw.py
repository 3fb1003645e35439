"""StableAdamW: AdamW whose step shrinks where gradients are larger than they have been."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pyimgano.backbones._torch_module import torch_module

__all__ = ["stable_adamw"]

_EPSILON = 1e-8


def stable_adamw(
    parameters: Iterable[Any],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-4,
) -> Any:
    """Make a StableAdamW optimizer with the maximum of AMSGrad [2]_.

    AdamW divides the mean of past gradients by the root of the mean of their squares, which lags
    behind when gradients grow: the step is then too long. StableAdamW divides the step of each
    tensor by the root mean square of ``gradient / root``, where that is above one [1]_.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    learning_rate : float
    betas : (float, float), default=(0.9, 0.999)
        Weight of the past in the means of gradients and of their squares.
    weight_decay : float, default=1e-4

    Returns
    -------
    torch.optim.Optimizer

    References
    ----------
    .. [1] M. Wortsman et al., "Stable and low-precision training for large-scale vision-language
       models", NeurIPS 2023.
    .. [2] S. J. Reddi et al., "On the Convergence of Adam and Beyond", ICLR 2018.
    """
    return _optimizer_class()(parameters, learning_rate, betas, weight_decay)


@lru_cache(maxsize=1)
def _optimizer_class() -> Any:
    """``StableAdamW``, a class that cannot be made before torch is imported."""
    torch = torch_module()
    optimizer: Any = torch.optim.Optimizer

    class StableAdamW(optimizer):
        def __init__(
            self,
            parameters: Iterable[Any],
            learning_rate: float,
            betas: tuple[float, float],
            weight_decay: float,
        ) -> None:
            settings = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay}
            super().__init__(parameters, settings)

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            if closure is not None:
                raise ValueError("StableAdamW takes no closure: compute the gradients before it.")
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self._update(p, group["lr"], group["betas"], group["weight_decay"])

        def _update(
            self, p: Any, rate: float, betas: tuple[float, float], weight_decay: float
        ) -> None:
            state, gradient = self.state[p], p.grad
            if not state:
                state["step"] = torch.zeros(())
                for name in ("mean", "mean_square", "largest_mean_square"):
                    state[name] = torch.zeros_like(p)
            state["step"] += 1
            n = int(state["step"])
            mean, square, largest = (
                state[name] for name in ("mean", "mean_square", "largest_mean_square")
            )
            mean.mul_(betas[0]).add_(gradient, alpha=1 - betas[0])
            square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
            torch.maximum(largest, square, out=largest)
            # Both means began at zero, which is divided out.
            root = (largest / (1 - betas[1] ** n)).sqrt_().add_(_EPSILON)
            excess = (gradient / root).square_().mean().sqrt_().clamp_(min=1.0)
            p.mul_(1 - rate * weight_decay)
            p.sub_(mean.div(root).mul_(rate / (1 - betas[0] ** n)).div_(excess))

    return StableAdamW
