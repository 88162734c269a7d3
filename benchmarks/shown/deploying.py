"""The blog post's table."""

from benchmarks.figures import Figures, Quantity
from benchmarks.section import Chart, Section, significant, slug, value
from benchmarks.tables.deploying import COMPRESSORS, LINKS, ONCE_IF_SLOWER, OURS, OURS_VERIFIED, RANDOM, SPARSE, Link

AS_FAST = 1.05
MIB = 2**20


def meaning(figures: Figures) -> str:
    parts = [_against_typing(figures)]
    if OURS in figures.variants(LINKS[0].case(SPARSE)):
        parts.append(_ours(figures))
    return " ".join(parts)


def _against_typing(figures: Figures) -> str:
    """What holes are worth, by whoever knows of them."""
    case = LINKS[0].case(SPARSE)
    fastest = min(figures.variants(case), key=lambda variant: figures.median(case, variant, Quantity.SECONDS))
    times = figures.ratio(case, Quantity.SECONDS, "nc", fastest)
    return (
        f"Most of a new machine's disk is empty: {fastest} writes an image, a quarter of which is content, "
        f"{times:.1f} times as fast as netcat copies it."
    )


def _ours(figures: Figures) -> str:
    sparse, random = (
        [_of_fastest(figures, link.case(kind)) for link in LINKS if kind in link.size_bytes]
        for kind in (SPARSE, RANDOM)
    )
    fastest = (
        "is the fastest of all on every link"
        if max(sparse) <= 1
        else f"takes at most {max(sparse):.2f} times as long as the fastest of the others"
    )
    full = "never slower than 1.05 times the fastest" if max(random) <= AS_FAST else f"{max(random):.2f} times at worst"
    return f"For an image with holes, `{OURS}` {fastest}; for one without, it is {full}."


def _of_fastest(figures: Figures, case: str) -> float:
    """Of what others do."""
    others = [variant for variant in figures.variants(case) if variant not in (OURS, OURS_VERIFIED)]
    fastest = min(figures.median(case, variant, Quantity.SECONDS) for variant in others)
    return figures.median(case, OURS, Quantity.SECONDS) / fastest


def sections(figures: Figures) -> list[Section]:
    return [_section(figures, link, kind) for link in LINKS for kind in link.size_bytes]


def _section(figures: Figures, link: Link, kind: str) -> Section:
    case = link.case(kind)
    seconds = {variant: figures.median(case, variant, Quantity.SECONDS) for variant in figures.variants(case)}
    fastest = min(seconds.values())
    rows = [
        (
            f"{variant}{_chosen(figures, case, variant)}",
            value(figures, case, variant, Quantity.SECONDS),
            f"{seconds[variant] / fastest:.2f}",
            significant(figures.median(case, variant, Quantity.CPU)),
        )
        for variant in sorted(seconds, key=lambda variant: seconds[variant])
    ]
    chart = Chart(f"deploying-{slug(case)}", f"A {case}", "seconds", {"": dict(sorted(seconds.items(), key=_second))})
    title = f"A {case}: {link.size_bytes[kind] // MIB} MiB"
    return Section(title, ("method", "s", "of the fastest", "CPU, s"), rows, _note(link, kind), chart)


def _chosen(figures: Figures, case: str, variant: str) -> str:
    """How the content went, where that was chosen in each attempt."""
    try:
        went = set(figures.one(case, variant, Quantity.COMPRESSED).values)
    except KeyError:
        return ""
    return f" ({' or '.join('compressed' if each else 'NBD' for each in sorted(went))})"


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _note(link: Link, kind: str) -> str:
    if link is LINKS[0] and kind == SPARSE:
        return (
            "From one host (a network namespace with its own address) onto the empty disk of another one, until "
            "every byte is durable there; after each attempt the target was compared with the image. The image is an"
            f" ext4 file system, a quarter full of this machine's programs. `{'`, `'.join(COMPRESSORS)}` are written "
            "by `dd` with fsync at the other end, `dd onto nbdfuse`, `nbdcopy` and `qemu-img convert` to a qemu-nbd "
            f"that was started by hand. A method that took {ONCE_IF_SLOWER} times as long as the fastest was measured "
            "once. CPU is that of both sides. The route that `cloudmanager deploy` chose is in brackets."
        )
    if link.delay_seconds:
        return (
            f"A relay, which takes some of the processors' time, holds every byte back for "
            f"{link.delay_seconds * 1000:.0f} ms in each direction."
        )
    if kind == RANDOM:
        return "Random data: nothing to leave out, nothing to compress."
    return ""
