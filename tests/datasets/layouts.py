"""Small trees of pictures in the layouts of public datasets; every picture is another one."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
from PIL import Image

SIZE = 32
_seeds = itertools.count()


def picture(path, size=(SIZE, SIZE)):
    """Write a picture that no other file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(next(_seeds))
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def mask(path, *values, size=(SIZE, SIZE)):
    """Write a mask with a row of 5 pixels for each value; without values it is all black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    for row, value in enumerate(values):
        pixels[row, :5] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec_ad(root, category="bottle"):
    base = root / category
    for i in range(3):
        picture(base / f"train/good/{i:03d}.png")
    picture(base / "test/good/000.png")
    for kind, count in (("crack", 2), ("stain", 1)):
        for i in range(count):
            picture(base / f"test/{kind}/{i:03d}.png")
            mask(base / f"ground_truth/{kind}/{i:03d}_mask.png", 255)
    return root


def mvtec_ad_2(root, category="can"):
    base = root / category
    for i in range(2):
        picture(base / f"train/good/{i:03d}_regular.png")
        picture(base / f"validation/good/{i:03d}_regular.png")
    for light in ("regular", "overexposed", "shift_1"):
        picture(base / f"test_public/good/000_{light}.png")
        picture(base / f"test_public/bad/001_{light}.png")
        mask(base / f"test_public/ground_truth/bad/001_{light}_mask.png", 255)
        picture(base / f"test_private_mixed/000_{light}.png")
    picture(base / "test_private/000_regular.png")
    return root


def mvtec_loco(root, category="pushpins"):
    base = root / category
    for part in ("train", "validation", "test"):
        for i in range(2):
            picture(base / part / f"good/{i:03d}.png")
    for kind, values in (("logical_anomalies", (255, 254)), ("structural_anomalies", (253,))):
        picture(base / f"test/{kind}/000.png")
        for i, value in enumerate(values):
            mask(base / f"ground_truth/{kind}/000/{i:03d}.png", *[0] * i, value)
    config = [
        ("additional_pushpin", 255, 3, False),
        ("missing_pushpin", 254, 6300, False),
        ("broken", 253, 0.5, True),
    ]
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    entries = [dict(zip(keys, values)) for values in config]
    (base / "defects_config.json").write_text(json.dumps(entries))
    return root


def visa(root):
    rows = []
    for category in ("candle", "pcb1"):
        images = root / category / "Data/Images"
        for i, part in enumerate(("train", "train", "test")):
            picture(images / f"Normal/{i:04d}.JPG")
            row = (category, part, "normal", f"{category}/Data/Images/Normal/{i:04d}.JPG", "")
            rows.append(row)
        picture(images / "Anomaly/000.JPG")
        mask(root / category / "Data/Masks/Anomaly/000.png", 1, 4)
        rows.append(
            (
                category,
                "test",
                "anomaly",
                f"{category}/Data/Images/Anomaly/000.JPG",
                f"{category}/Data/Masks/Anomaly/000.png",
            )
        )
    table(root / "split_csv/1cls.csv", rows)
    few_shot = [r if r[2] == "normal" else (r[0], "train", *r[2:]) for r in rows]
    table(root / "split_csv/2cls_fewshot.csv", few_shot)
    return root


def table(path, rows, columns=("object", "split", "label", "image", "mask")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def btad(root):
    for category, suffix, mask_suffix in (("01", "bmp", "png"), ("02", "png", "bmp")):
        base = root / category
        for i in range(2):
            picture(base / f"train/ok/{i:04d}.{suffix}")
        picture(base / f"test/ok/0000.{suffix}")
        picture(base / f"test/ko/0000.{suffix}")
        mask(base / f"ground_truth/ko/0000.{mask_suffix}", 255)
    return root


def kolektor_sdd(root):
    for item in range(1, 7):
        for part in range(3):
            picture(root / f"kos{item:02d}/Part{part}.jpg")
            values = (255,) if part == 1 else ()
            mask(root / f"kos{item:02d}/Part{part}_label.bmp", *values)
    return root


def kolektor_sdd2(root):
    for part, first in (("train", 10000), ("test", 20000)):
        for i in range(3):
            picture(root / part / f"{first + i}.png")
            mask(root / part / f"{first + i}_GT.png", *(255,) if i == 2 else ())
    for name in ("10001", "10001_GT"):  # as in the published archive
        content = (root / f"train/{name}.png").read_bytes()
        (root / f"train/{name} (copy).png").write_bytes(content)
    (root / "split_weakly_246.pyb").write_bytes(b"not to be unpickled")
    return root


def mpdd(root):
    return mvtec_ad(root, "bracket_black")


def real_iad(root, category="audiojack", sizes=(256,)):
    def entry(name, kind, has_mask=False):
        return {
            "category": category,
            "anomaly_class": kind,
            "image_path": f"{name}.jpg",
            "mask_path": f"{name}_mask.png" if has_mask else None,
        }

    stem = f"S0001/{category}_0001"
    good = [entry(f"OK/{stem}_OK_C{i}_2023", "OK") for i in (1, 2)]
    test = [
        entry(f"OK/S0002/{category}_0002_OK_C1_2023", "OK"),
        entry(f"NG/HS/{stem}_NG_HS_C1_2023", "HS", has_mask=True),
        entry(f"NG/HS/{stem}_NG_HS_C2_2023", "OK"),
    ]
    for size in sizes:
        base = root / f"realiad_{size}" / category
        for one in good + test:
            picture(base / one["image_path"])
            if one["mask_path"]:
                mask(base / one["mask_path"], 255)
    meta = {"normal_class": "OK", "prefix": f"{category}/"}
    for folder, train in (("realiad_jsons", good), ("realiad_jsons_sv", good[:1])):
        path = root / "realiad_jsons" / folder / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"meta": meta, "train": train, "test": test}))
    return root
