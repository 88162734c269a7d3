"""How much, as people write it."""


def bytes_in_words(size: int | None) -> str:
    if size is None:
        return "-"
    number, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f} {units[0]}" if number >= 100 or number == int(number) else f"{number:.1f} {units[0]}"
