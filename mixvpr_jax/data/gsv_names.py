"""What an image of GSV-Cities is called: its row's text, or numbers as pandas prints them."""

from __future__ import annotations

PLACES_PER_CITY = 10**5  # the official loader adds a multiple of it to ids, and takes it away again


def whole(text: str) -> int:
    """A whole number, also as pandas writes a column that has blanks: `10.0`.

    Raises:
        ValueError: It is none, or larger than a float64 holds exactly.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > 2**53:
            raise
        return int(number)


def is_blank(northdeg: str) -> bool:
    """Whether a table does not say which way a camera looked."""
    return northdeg.strip().lower() in ("", "nan")


def other_names_of(
    place: str, year: str, month: str, northdeg: str, city: str, lat: str, lon: str, panoid: str
) -> list[bytes]:
    """The names that an image may have beside that of its table's text, the official one first.

    Pandas makes floats of a column of whole numbers and blanks, and prints each its own
    way.
    """
    full, short = whole(place), whole(place) % PLACES_PER_CITY
    degrees = as_float = "nan"
    if not is_blank(northdeg):
        degrees, as_float = str(whole(northdeg)), str(float(northdeg))
    printed, text = f"{float(lat)}_{float(lon)}", f"{lat}_{lon}"
    forms = (
        (short, degrees, printed),
        (short, as_float, printed),
        (full, degrees, printed),
        (short, degrees, text),
        (full, northdeg.strip(), text),
    )
    when = f"{whole(year):04d}_{whole(month):02d}"
    return [
        f"Images/{city}/{city}_{place:07d}_{when}_{bearing.zfill(3)}_{where}_{panoid}.jpg".encode()
        for place, bearing, where in forms
    ]
