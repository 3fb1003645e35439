"""torchvision's classification networks, cut off after a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from functools import lru_cache
from typing import Any

from pyimgano.backbones._network import nearest_names
from pyimgano.backbones._torch_module import torch_module
from pyimgano.utils._optional import import_optional

__all__ = ["IMAGENET_COLORS", "build_graph", "fold_batch_norms", "torchvision_models"]

#: Mean and standard deviation of the colors that every one of them was trained with.
IMAGENET_COLORS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# These rescale their input themselves when they hold the published weights.
_BUILD_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


def torchvision_models(backbone: str) -> Any:
    """Return ``torchvision.models``, which must know the backbone."""
    models = import_optional("torchvision.models", "torch", "BackbonePatchFeatures")
    # Swin's maps have their channels last, which nothing in their shape would tell.
    known = [name for name in models.list_models(module=models) if not name.startswith("swin")]
    if backbone not in known:
        raise ValueError(
            f"backbone={backbone!r} is no convolutional classification network of torchvision."
            + nearest_names(backbone, known)
        )
    return models


def build_graph(backbone: str, layers: tuple[str, ...]) -> Any:
    """Graph of the network from its input to the layers, and nothing else; without values."""
    return deepcopy(_graph(backbone, layers))


@lru_cache(maxsize=2)  # tracing takes longer than training a step
def _graph(backbone: str, layers: tuple[str, ...]) -> Any:
    torch = import_optional("torch", "torch", f"backbone={backbone!r} with layers={layers}")
    models = torchvision_models(backbone)
    feature_extraction = import_optional(
        "torchvision.models.feature_extraction", "torch", "BackbonePatchFeatures"
    )
    options = _BUILD_OPTIONS.get(backbone, {})
    try:  # the meta device has shapes but no values: nothing is drawn, no time is spent
        with torch.device("meta"):
            model = models.get_model(backbone, weights=None, **options).eval()
    except NotImplementedError:  # RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]):
            model = models.get_model(backbone, weights=None, **options).eval()
    try:
        extractor = feature_extraction.create_feature_extractor(
            model, list(layers), suppress_diff_warning=True
        )
    except ValueError as error:
        _, nodes = feature_extraction.get_graph_node_names(model, suppress_diff_warning=True)
        available = _layer_names(nodes)
        for layer in layers:
            if layer not in available:
                top = list(dict.fromkeys(name.split(".")[0] for name in nodes))
                raise ValueError(
                    f"layers: {backbone} has no layer {layer!r}."
                    + nearest_names(layer, available)
                    + f" Its outermost layers are {', '.join(top)}."
                ) from error
        raise
    # Of its two graphs, for training and for evaluation, only the second is wanted, and a
    # plain module of it can be edited.
    graph = torch.fx.GraphModule(extractor, extractor.eval_graph).eval()
    # Outputs in the order of ``layers``, and copied: what follows a layer may work in place.
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    copies = []
    for layer in layers:
        node = output.args[0][layer]
        with graph.graph.inserting_after(node):
            copies.append(graph.graph.call_method("clone", (node,)))
    output.args = (tuple(copies),)
    graph.recompile()
    return graph


def _layer_names(nodes: Iterable[str]) -> set[str]:
    """All names a layer goes by: "layer2.0.conv1" is also in "layer2.0" and "layer2"."""
    names: set[str] = set()
    for node in nodes:
        parts = node.split(".")
        names.update(".".join(parts[:k]) for k in range(1, len(parts) + 1))
    return names


def fold_batch_norms(graph: Any) -> None:
    """Merge each batch norm into the convolution before it, where nothing else uses that."""
    torch = torch_module()
    fusion = import_optional("torch.nn.utils.fusion", "torch", "BackbonePatchFeatures")
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not torch.nn.BatchNorm2d:
            continue
        before = node.args[0]
        if (
            before.op != "call_module"
            or type(modules[before.target]) is not torch.nn.Conv2d
            or len(before.users) != 1
            or calls[before.target] != 1
        ):
            continue
        folded = fusion.fuse_conv_bn_eval(modules[before.target], modules[node.target])
        parent, _, child = before.target.rpartition(".")
        setattr(modules[parent], child, folded)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
