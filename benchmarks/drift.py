"""Drift: false alarms of a monitor over good parts alone, and how soon it notices brighter images.

    python benchmarks/drift.py ROOT CATEGORY --features resnet18 --weights r18.pth

Detectors and features are chosen as for ``accuracy.py``. A detector is fitted on a random half of
the good training images. The other half and the good test images are held out: they are scored
once as they are and once with all pixels brighter by ``--brighter``. Replays draw from these.

Each replay draws calibration images and a stream of parts from the held-out images, one by one
and with replacement, so that all of them are independent draws from the same distribution and
exchangeable: an alarm is a false one. Equal draws tie, and ties are broken at random. In a second
stream the parts from ``--from-part`` on are the brighter images of the same parts.

With ``--own-scores`` the calibration scores are the detector's own out-of-sample scores of its
training images instead, which are exchangeable with new ones only as far as the detector gets them
right. The stream is then drawn from the held-out training images alone, and what a monitor says of
the good test images, in the order of their names, stands on standard error.

Prints a Markdown table: the share of replays with an alarm among good parts, by statistic; the
share with an alarm within ``--within`` parts of the change, and none before; and the median delay.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from pathlib import Path

import numpy as np
from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.inference import anomaly_scores
from pyimgano.monitoring import DriftMonitor, image_statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    add_options(parser)
    parser.add_argument("--coreset-ratio", type=float, default=0.01)
    parser.add_argument("--brighter", type=float, default=0.05)
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--calibrate-on", type=int, default=100)
    parser.add_argument("--parts", type=int, default=500)
    parser.add_argument("--from-part", type=int, default=250)
    parser.add_argument("--within", type=int, default=50)
    parser.add_argument("--false-alarm-rate", type=float, default=0.01)
    parser.add_argument("--own-scores", action="store_true")
    add_figures_option(parser)
    args = parser.parse_args()
    warnings.simplefilter("ignore", TooFewImagesWarning)

    data = load_folder(args.root, args.category)
    rng = np.random.RandomState(0)
    order = rng.permutation(len(data.X_train))
    half = len(order) // 2
    train = [data.X_train[i] for i in order[:half]]
    held_out = [data.X_train[i] for i in order[half:]]
    test = [image for image, y in zip(data.X_test, data.y_test) if y == 1]
    if not args.own_scores:
        held_out += test
    brighter = [
        np.clip(np.rint(image * (1.0 + args.brighter)), 0, 255).astype(np.uint8)
        for image in held_out
    ]
    detector = make_detector(args, coreset_ratio=args.coreset_ratio, random_state=0).fit(train)
    usual = records_of(held_out, anomaly_scores(detector, held_out))
    bright = records_of(brighter, anomaly_scores(detector, brighter))
    own = records_of(train, detector.training_scores_)
    if args.own_scores:
        monitor = monitor_of(own, args.false_alarm_rate, 0)
        monitor.update(records_of(test, anomaly_scores(detector, test)))
        for alarm in monitor.alarms_:
            print(f"part {alarm['part']} of the test images: {alarm['message']}", file=sys.stderr)

    rows = []
    for seed in range(args.replays):
        draws = rng.randint(len(usual), size=args.calibrate_on)
        known = own if args.own_scores else [usual[i] for i in draws]
        monitor = monitor_of(known, args.false_alarm_rate, seed)
        stream = rng.randint(len(usual), size=args.parts)
        before, after = stream[: args.from_part], stream[args.from_part :]
        false = monitor.update([usual[i] for i in before])
        changed = copy.deepcopy(monitor)
        noticed = changed.update([bright[i] for i in after])
        false += monitor.update([usual[i] for i in after])
        delay = noticed[0]["part"] - args.from_part + 1 if noticed else np.inf
        soon = delay <= args.within and not any(one["part"] < args.from_part for one in false)
        rows.append(
            {
                "false alarm": float(bool(false)),
                **{
                    f"by {name}": float(any(one["statistic"] == name for one in false))
                    for name in monitor.statistics_
                },
                f"alarm within {args.within}": float(soon),
                "delay": float(min(delay, args.parts)),
            }
        )
    name = setting(args, coreset_ratio=args.coreset_ratio)
    name += ", own scores" if args.own_scores else ""
    shares = {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "delay"}
    print("| detector | " + " | ".join([*shares, "median delay"]) + " |")
    print("|---|" + "---|" * (len(shares) + 1))
    cells = [f"{share:.1%}" for share in shares.values()]
    print(f"| {name} | {' | '.join(cells)} | {np.median([row['delay'] for row in rows]):.0f} |")
    if args.figures:
        measured = [{key: row[key] for key in shares} for row in rows]
        record(args.figures, f"drift/{args.category}/{name}", measured)


def monitor_of(known: list[dict[str, float]], rate: float, seed: int) -> DriftMonitor:
    """A monitor that compares with these good parts."""
    calibrator = ThresholdCalibrator().fit(np.array([[one["score"]] for one in known]))
    return DriftMonitor(false_alarm_rate=rate, random_state=seed).fit(calibrator, known)


def records_of(images: list[np.ndarray], scores: np.ndarray) -> list[dict[str, float]]:
    """Records of parts, as a monitor takes them."""
    return [
        {"score": float(score), **image_statistics(image)} for image, score in zip(images, scores)
    ]


if __name__ == "__main__":
    main()
