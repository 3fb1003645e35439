"""Time of EfficientNet-Lite0 to layer3 beside onnxruntime, on one core.

    python -m venv peer && peer/bin/pip install onnx onnxruntime
    python benchmarks/bench_efficientnet.py --onnx-python peer/bin/python

Both run the same weights with batch norms folded in, on the same images of 224 x 224 pixels, uint8
to the maps at a 4th, 8th and 16th of the resolution. The two processes take turns, ten images
each, so that a busy machine slows both. Prints milliseconds of processor time per image and the
ratio of ours to theirs, and the largest difference of the maps in parts of their largest value.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE, N_IMAGES = 224, 10
LAYERS = ("layer1", "layer2", "layer3")


def images() -> list[np.ndarray]:
    rng = np.random.RandomState(0)
    return [rng.randint(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(N_IMAGES)]


def folded_weights() -> dict[str, np.ndarray]:
    """Kernels and biases by block, and what each block is."""
    from pyimgano.backbones._efficientnet_lite import (
        _BLOCKS,
        _ENDS,
        EfficientNetLite,
        _convolutions,
        _merged,
    )
    from pyimgano.backbones._state_dict import read_state_dict

    state = read_state_dict(str(EfficientNetLite.find_published("efficientnet_lite0")))
    weights = dict(zip(("stem.kernel", "stem.bias"), _merged(state, "_conv_stem", "_bn0")))
    for number, block in enumerate(_BLOCKS[: _ENDS["layer3"] + 1]):
        parts = "edp" if block.expands else "dp"  # expand, depthwise, project
        for part, (name, norm, _) in zip(parts, _convolutions(block)):
            kernel, bias = _merged(state, name, norm)
            weights |= {f"{number}.{part}.kernel": kernel, f"{number}.{part}.bias": bias}
        about = (block.inner, block.size, block.stride, block.expands, block.adds_input)
        weights[f"{number}.about"] = np.array(about)
    weights["ends"] = np.array([_ENDS[layer] for layer in LAYERS])
    return weights


def onnx_graph(weights: dict[str, np.ndarray]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def convolution(x, name, size=1, stride=1, group=1, rectify=False):
        constant(f"{name}.kernel", weights[f"{name}.kernel"])
        constant(f"{name}.bias", weights[f"{name}.bias"])
        options = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "group": group}
        inputs = [x, f"{name}.kernel", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], auto_pad="SAME_UPPER", **options))
        if rectify:
            nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}.6"]))
        return f"{name}.6" if rectify else name

    for name, value in (("zero", 0), ("six", 6), ("mean", 127), ("scale", 128)):
        constant(name, np.float32(value))
    nodes.append(helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Sub", ["float", "mean"], ["centered"]))
    nodes.append(helper.make_node("Div", ["centered", "scale"], ["scaled"]))
    nodes.append(helper.make_node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]))
    x, outputs, side = convolution("x", "stem", 3, 2, rectify=True), [], SIZE // 2
    for number in range(weights["ends"].max() + 1):
        inner, size, stride, expands, adds = (int(v) for v in weights[f"{number}.about"])
        side //= stride
        y = convolution(x, f"{number}.e", rectify=True) if expands else x
        y = convolution(y, f"{number}.d", size, stride, inner, rectify=True)
        y = convolution(y, f"{number}.p")
        if adds:
            nodes.append(helper.make_node("Add", [x, y], [f"{number}"]))
        x = f"{number}" if adds else y
        if number in weights["ends"]:
            shape = [1, len(weights[f"{number}.p.bias"]), side, side]
            outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])
    graph = helper.make_graph(nodes, "efficientnet_lite0", [image], outputs, constants)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def serve(args: argparse.Namespace) -> None:
    """Time the images once for each line that comes in."""
    if args.child == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with np.load(args.folder / "weights.npz") as arrays:
            graph = onnx_graph(dict(arrays))
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

        def maps(image):
            return session.run(None, {"image": image[None]})
    else:
        from pyimgano.features import BackbonePatchFeatures

        step = BackbonePatchFeatures("efficientnet_lite0", layers=LAYERS)
        network = step.load_network()._network().module

        def maps(image):
            return network.maps(image, 1)

    many = images()
    found = [np.squeeze(one) for one in maps(many[0])]
    if args.child == "onnxruntime":
        found = [one.transpose(1, 2, 0) for one in found]
    np.savez(args.folder / f"{args.child}.npz", *found)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        for image in many:
            maps(image)
        print((time.process_time() - start) / len(many) * 1e3, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--onnx-python", type=Path, help="interpreter that has onnxruntime and onnx"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--child", choices=["pyimgano", "onnxruntime"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return serve(args)
    if args.onnx_python is None:
        parser.error("--onnx-python is needed")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "weights.npz"), **folded_weights())
        pythons = {"pyimgano": sys.executable, "onnxruntime": str(args.onnx_python)}
        running = {
            name: subprocess.Popen(
                [python, __file__, "--child", name, "--folder", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, python in pythons.items()
        }
        times: dict[str, list[float]] = {name: [] for name in running}
        for process in running.values():
            assert process.stdout.readline() == "ready\n"
        for _ in range(args.rounds):
            for name, process in running.items():
                process.stdin.write("\n")
                process.stdin.flush()
                times[name].append(float(process.stdout.readline()))
        for process in running.values():
            process.stdin.close()
            process.wait()
        both = [np.load(Path(folder, f"{name}.npz")) for name in running]
        off = max(
            np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*(o.values() for o in both))
        )
    print("| | median ms | least ms |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {np.median(values):.2f} | {min(values):.2f} |")
    ours, theirs = (np.array(values) for values in times.values())
    print(f"\nratio of turns, median: {np.median(ours / theirs):.2f}; largest difference {off:.1e}")
    return None


if __name__ == "__main__":
    main()
