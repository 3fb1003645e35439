"""The training loop of all trained detectors, and its checkpoints.

The randomness of a step depends on the seed and the number of the step alone, so that training
that goes on from a checkpoint takes the same steps as training that was never interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyimgano.backbones._torch_module import torch_module, torch_threads
from pyimgano.exceptions import TrainingError
from pyimgano.utils._outputs import atomic_write
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._threads import n_threads

__all__ = [
    "History",
    "Plan",
    "Step",
    "Trial",
    "as_arrays",
    "checkpoints",
    "fill",
    "initialize",
    "train",
    "trial",
]

# How often held-out images are looked at in one training, and how many of them.
_N_EVALUATIONS, _MOST_EVALUATED = 20, 32
# Training ends early once the held-out loss has not fallen by this share in so many looks.
_TOLERANCE, _PATIENCE = 0.01, 5
_FORMAT = 1
# A trial takes so many steps at most, and no further one after so many seconds.
_TRIED, _TRIAL_SECONDS = 3, 10.0


class Step(NamedTuple):
    """A step of training, and its sources of randomness.

    Attributes
    ----------
    number : int
        From 0.
    n_steps : int
        Number of all steps.
    rng : numpy.random.Generator
        For what is drawn by numpy.
    generator : torch.Generator
        For what is drawn by torch, on the device of the networks.
    """

    number: int
    n_steps: int
    rng: np.random.Generator
    generator: Any


class Plan(NamedTuple):
    """Settings of one training.

    Attributes
    ----------
    n_steps : int
    batch_size : int
    seed : int
    device : str
        A torch device.
    precision : {"float32", "bfloat16"}
    max_grad_norm : float or None
        Largest norm of all gradients together.
    early_stopping : bool
    rate : callable
        ``rate(step, n_steps)`` is the factor on the learning rates at a step.
    verbose : bool
    """

    n_steps: int
    batch_size: int
    seed: int
    device: str
    precision: str
    max_grad_norm: float | None
    early_stopping: bool
    rate: Callable[[int, int], float]
    verbose: bool


#: Numbers of steps and losses, by name; see ``history_`` of the detectors.
History = dict[str, np.ndarray]


# ---- checkpoints ----------------------------------------------------------------------
class _Checkpoints(NamedTuple):
    folder: Path
    every: int


_CHECKPOINTS: ContextVar[_Checkpoints | None] = ContextVar("_CHECKPOINTS", default=None)


@contextmanager
def checkpoints(folder: Any, every: int = 200) -> Iterator[None]:
    """Keep checkpoints of all training inside the block, and go on from those that are there.

    A checkpoint is a file of its own for each training, named by what is trained: the class,
    its parameters, and the content of the training images. Training that was killed goes on
    from the last checkpoint when the same ``fit`` is called again, and ends with the same
    networks, bit for bit, as if it had not been interrupted. It also works for a detector inside
    pipelines, calibrators and searches, as long as they fit in this thread (``n_jobs=None``).

    Parameters
    ----------
    folder : str or Path
        An existing folder for the files. Delete them when the model is saved.
    every : int, default=200
        Steps from one checkpoint to the next. There is one at the end in any case, and one where
        Ctrl-C ends the training.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano.detectors import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder, checkpoints(folder, every=100):
    ...     pass  # detector.fit(images)
    """
    if not isinstance(every, (int, np.integer)) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every must be an int of at least 1, got {every!r}.")
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(
            f"{str(place)!r} is no folder. Make it first: pathlib.Path(...).mkdir(parents=True)."
        )
    token = _CHECKPOINTS.set(_Checkpoints(place, int(every)))
    try:
        yield
    finally:
        _CHECKPOINTS.reset(token)


# ---- trials ---------------------------------------------------------------------------
@dataclass
class Trial:
    """Times of a training that ended after the first few steps.

    Attributes
    ----------
    step_seconds : list of float
        Of each step; the first one includes what is done once.
    look_seconds : float
        For the loss of one held-out image.
    """

    step_seconds: list[float] = field(default_factory=list)
    look_seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """True if there are enough steps, or they took long enough."""
        taken = self.step_seconds
        return len(taken) >= _TRIED or sum(taken) > _TRIAL_SECONDS

    def estimate(self, n_steps: int, n_held_out: int) -> float:
        """Estimate the seconds of a whole training.

        Parameters
        ----------
        n_steps : int
            Of the whole training.
        n_held_out : int
            Samples held out of it, whose loss is looked at now and then.

        Returns
        -------
        float
        """
        measured = self.step_seconds[1:] or self.step_seconds
        n_looks = -(-n_steps // _looks_every(n_steps)) * min(n_held_out, _MOST_EVALUATED)
        return sum(measured) / len(measured) * n_steps + self.look_seconds * n_looks


_TRIAL: ContextVar[Trial | None] = ContextVar("_TRIAL", default=None)


@contextmanager
def trial() -> Iterator[Trial]:
    """End all training inside the block after the first few steps, and note what they took.

    No checkpoint is read or written.

    Yields
    ------
    Trial
        Filled in by the training.
    """
    asked = Trial()
    no_checkpoints, token = _CHECKPOINTS.set(None), _TRIAL.set(asked)
    try:
        yield asked
    finally:
        _TRIAL.reset(token)
        _CHECKPOINTS.reset(no_checkpoints)


class _Checkpoint:
    """The file of one training: networks, optimizer, losses so far."""

    def __init__(self, identity: str) -> None:
        self._wanted = _CHECKPOINTS.get()
        self._sha256 = hashlib.sha256(identity.encode()).hexdigest()

    @property
    def _path(self) -> Path:
        assert self._wanted is not None
        return self._wanted.folder / f"checkpoint-{self._sha256[:16]}.npz"

    def is_due(self, n_done: int) -> bool:
        return self._wanted is not None and n_done % self._wanted.every == 0

    def save(self, n_done: int, networks: Any, optimizer: Any, losses: dict[str, list]) -> None:
        if self._wanted is None:
            return
        arrays = {
            f"network/{name}/{key}": value
            for name, network in networks.items()
            for key, value in as_arrays(network).items()
        }
        for i, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                arrays[f"optimizer/{i}/{key}"] = _as_array(value)
        for name, values in losses.items():
            arrays[f"losses/{name}"] = np.array(values, dtype=np.float64)
        about = {"format": _FORMAT, "identity": self._sha256, "steps": n_done}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with atomic_write(self._path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
                archive.writestr(f"{name}.npy", content.getvalue())

    def load(self, networks: Any, optimizer: Any, losses: dict[str, list]) -> int:
        """Fill in what the file holds; return the number of steps that are done."""
        if self._wanted is None or not self._path.exists():
            return 0
        torch = torch_module()
        try:
            with np.load(self._path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(bytes(arrays.pop("about")))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise TrainingError(
                f"the checkpoint {str(self._path)!r} cannot be read ({error}). Delete it to train "
                "from the start."
            ) from error
        if about.get("format") != _FORMAT or about.get("identity") != self._sha256:
            raise TrainingError(
                f"the checkpoint {str(self._path)!r} is of another training or version. Delete it, "
                "or give another folder."
            )
        parts: dict[str, dict[str, Any]] = {"network": {}, "optimizer": {}, "losses": {}}
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = value
        for name, network in networks.items():
            prefix = f"{name}/"
            fill(
                network,
                {
                    key[len(prefix) :]: value
                    for key, value in parts["network"].items()
                    if key.startswith(prefix)
                },
            )
        state = optimizer.state_dict()
        for key, value in parts["optimizer"].items():
            i, _, name = key.partition("/")
            state["state"].setdefault(int(i), {})[name] = torch.from_numpy(value.copy())
        optimizer.load_state_dict(state)
        for name in losses:
            losses[name][:] = parts["losses"][name].tolist()
        return int(about["steps"])


# ---- networks as arrays ---------------------------------------------------------------
def _as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy().copy() if hasattr(value, "detach") else np.asarray(value)


def as_arrays(network: Any) -> dict[str, np.ndarray]:
    """Copy the values of a torch module into arrays, by their names in its state dict."""
    return {name: _as_array(value) for name, value in network.state_dict().items()}


def fill(network: Any, arrays: dict[str, np.ndarray]) -> None:
    """Copy arrays into a torch module of the same names and shapes.

    Raises
    ------
    ValueError
        If they do not have them.
    """
    torch = torch_module()
    state = network.state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    given = {name: np.shape(value) for name, value in arrays.items()}
    if wanted != given:
        differ = sorted(set(wanted.items()) ^ set(given.items()))
        raise ValueError(f"the values are of another network; the first difference: {differ[0]}.")
    with torch.no_grad():
        for name, target in state.items():
            target.copy_(torch.from_numpy(np.array(arrays[name])))


def initialize(
    network: Any, rng: np.random.Generator, draw: Callable[..., np.ndarray] | None = None
) -> Any:
    """Give a torch module, which may lie on the meta device, values drawn by numpy.

    Weights are drawn from ``rng``, gains and variances are one, biases and means zero. No
    global generator is asked.

    Parameters
    ----------
    network : torch.nn.Module
    rng : numpy.random.Generator
    draw : callable, default=None
        ``draw(rng, name, shape)`` returns the weights of one parameter of two dimensions or more.
        By default they are normal with variance ``2 / (n_outputs * kernel size)`` (He's
        initialization by fan-out).

    Returns
    -------
    network
        On the CPU.
    """
    torch = torch_module()
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        network = network.to_empty(device="cpu")
    gains = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in network.named_modules()
        if "Norm" in type(module).__name__
    }
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            shape = tuple(tensor.shape)
            if name in gains or name.endswith("running_var"):
                tensor.fill_(1)
            elif len(shape) > 1:
                value = (draw or _he)(rng, name, shape)
                tensor.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
            else:
                tensor.zero_()
    return network


def _he(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape) * math.sqrt(2.0 / (shape[0] * math.prod(shape[2:])))


# ---- the loop -------------------------------------------------------------------------
def train(
    networks: dict[str, Any],
    optimizer: Any,
    loss_of: Callable[[tuple[Any, ...], Step], Any],
    collate: Callable[[list[int], Step], tuple[np.ndarray, ...]],
    trained_on: np.ndarray,
    held_out: np.ndarray,
    plan: Plan,
    identity: str,
) -> History:
    """Take the steps of a training.

    Parameters
    ----------
    networks : dict of str to torch.nn.Module
        Trained in place, and left in eval mode.
    optimizer : torch.optim.Optimizer
        Of their parameters.
    loss_of : callable
        ``loss_of(batch, step)`` is the loss of a batch, a tensor of one value.
    collate : callable
        ``collate(indices, step)`` makes the arrays of a batch of samples.
    trained_on, held_out : ndarray of int
        Samples to train on; samples whose loss is only looked at.
    plan : Plan
    identity : str
        Text that says all that the training depends on; see ``checkpoints``.

    Returns
    -------
    dict of str to ndarray
        Step and loss, ``held_out_step`` and ``held_out_loss``.

    Raises
    ------
    TrainingError
        If the loss is no longer a finite number.
    KeyboardInterrupt
        After Ctrl-C, when the step is done and the checkpoint, if any, is written.
    """
    torch = torch_module()
    checkpoint = _Checkpoint(identity)
    losses: dict[str, list[float]] = {
        name: [] for name in ("step", "loss", "held_out_step", "held_out_loss")
    }
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    every = _looks_every(plan.n_steps)
    trying = _TRIAL.get()
    watched = held_out[:_MOST_EVALUATED]

    def a_step(number: int, stream: int) -> Step:
        rng = np.random.default_rng([plan.seed, stream, number])
        generator = torch.Generator(device=plan.device)
        generator.manual_seed(int(rng.integers(2**63)))
        return Step(number, plan.n_steps, rng, generator)

    def loss_on(indices: Any, step: Step) -> Any:
        batch = tuple(_on_device(one, plan.device) for one in collate(list(indices), step))
        autocast = (
            torch.autocast(torch.device(plan.device).type, dtype=torch.bfloat16)
            if plan.precision == "bfloat16"
            else nullcontext()
        )
        with autocast:
            return loss_of(batch, step)

    def held_out_loss() -> float:
        _set_mode(networks, training=False)
        with torch.no_grad():
            # Always the same noise, so that numbers of different steps can be compared.
            found = [
                float(loss_on(watched[i : i + plan.batch_size], a_step(i, 2)))
                * len(watched[i : i + plan.batch_size])
                for i in range(0, len(watched), plan.batch_size)
            ]
        _set_mode(networks, training=True)
        return sum(found) / len(watched)

    with ExitStack() as stack:
        stack.enter_context(torch_threads(n_threads()))
        interrupted = stack.enter_context(_deferred_interrupt())
        progress = stack.enter_context(progress_callback("training", plan.verbose))
        n_done = checkpoint.load(networks, optimizer, losses)
        _set_mode(networks, training=True)
        order = _Order(trained_on, plan.seed)
        while n_done < plan.n_steps and not _is_over(losses["held_out_loss"], plan):
            started = time.perf_counter()
            step = a_step(n_done, 1)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * plan.rate(n_done, plan.n_steps)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_on(order.batch(n_done, plan.batch_size), step)
            loss.backward()
            if plan.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, plan.max_grad_norm)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss at step {n_done} is {value}: training has diverged. Take a smaller "
                    'learning_rate or max_grad_norm, or precision="float32".'
                )
            optimizer.step()
            n_done += 1
            losses["step"].append(n_done)
            losses["loss"].append(value)
            if trying is not None:
                trying.step_seconds.append(time.perf_counter() - started)
                if trying.is_over:
                    break
            if len(watched) and (n_done % every == 0 or n_done == plan.n_steps):
                losses["held_out_step"].append(n_done)
                losses["held_out_loss"].append(held_out_loss())
            if progress is not None:
                progress(n_done, plan.n_steps, f"loss {value:.4g}")
            if interrupted.is_set():
                checkpoint.save(n_done, networks, optimizer, losses)
                raise KeyboardInterrupt
            if checkpoint.is_due(n_done):
                checkpoint.save(n_done, networks, optimizer, losses)
        if trying is not None and len(watched):
            started = time.perf_counter()
            held_out_loss()
            trying.look_seconds = (time.perf_counter() - started) / len(watched)
        if trying is not None and interrupted.is_set():
            raise KeyboardInterrupt  # in the last step of the trial, or in that look
        checkpoint.save(n_done, networks, optimizer, losses)
        _set_mode(networks, training=False)
    return {name: np.array(values, dtype=np.float64) for name, values in losses.items()}


def _looks_every(n_steps: int) -> int:
    """Steps from one look at held-out images to the next."""
    return max(1, n_steps // _N_EVALUATIONS)


def _on_device(values: np.ndarray, device: str) -> Any:
    torch = torch_module()
    tensor = torch.from_numpy(np.require(values, requirements=("C", "W"))).to(device)
    return tensor.float() if tensor.is_floating_point() else tensor


def _set_mode(networks: dict[str, Any], *, training: bool) -> None:
    for network in networks.values():
        network.train(training)


def _is_over(held_out: list[float], plan: Plan) -> bool:
    """Tell whether the loss of held-out images has stopped falling."""
    if not plan.early_stopping or len(held_out) <= _PATIENCE:
        return False
    return min(held_out[-_PATIENCE:]) > (1.0 - _TOLERANCE) * min(held_out[:-_PATIENCE])


class _Order:
    """The samples of each step: all of them in turn, shuffled anew in every epoch."""

    def __init__(self, samples: np.ndarray, seed: int) -> None:
        self._samples, self._seed = samples, seed
        self._epoch, self._shuffled = -1, samples

    def batch(self, step: int, size: int) -> list[int]:
        n = len(self._samples)
        chosen = []
        for position in range(step * size, (step + 1) * size):
            epoch, within = divmod(position, n)
            if epoch != self._epoch:
                rng = np.random.default_rng([self._seed, 0, epoch])
                self._epoch, self._shuffled = epoch, rng.permutation(self._samples)
            chosen.append(int(self._shuffled[within]))
        return chosen


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Note Ctrl-C instead of raising it in the middle of a step; a second one raises at once.

    In any other thread than the main one this does nothing: only that one gets it.
    """
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            before(number, frame)
        asked.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
