"""Small GSV-Cities folders, made row by row."""

import csv

import numpy as np
from PIL import Image

from mixvpr_jax.data.gsv_cities import COLUMNS


def row(place, city="Rome", panoid="abc", **other):
    values = {"year": 2012, "month": 3, "northdeg": 7, "lat": "41.9", "lon": "12.50"} | other
    when = (values["year"], values["month"], values["northdeg"])
    return (place, *when, city, values["lat"], values["lon"], panoid)


def write_table(root, city, rows, columns=COLUMNS):
    (root / "Dataframes").mkdir(exist_ok=True, parents=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (root / "Dataframes" / f"{city}.csv").write_text("\n".join(lines) + "\n")


def names_of(root, city="Rome"):
    """Each row's image, named by the text of the table."""
    with (root / "Dataframes" / f"{city}.csv").open() as file:
        return [
            f"Images/{r['city_id']}/{r['city_id']}_{r['place_id'].zfill(7)}_{r['year'].zfill(4)}_"
            f"{r['month'].zfill(2)}_{r['northdeg'].zfill(3)}_{r['lat']}_{r['lon']}_{r['panoid']}.jpg"
            for r in csv.DictReader(file)
        ]


def write_city(root, city="Rome", places=3, images=4, size=(40, 30)):
    """A city of plain pictures, each of its own grey."""
    rows = [row(p, city, f"{city}{p}-{i}") for p in range(places) for i in range(images)]
    write_table(root, city, rows)
    for number, name in enumerate(names_of(root, city)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((size[1], size[0], 3), 10 + 3 * number % 240, np.uint8)
        Image.fromarray(pixels).save(root / name, quality=95)
    return root
