"""NBD servers side by side."""

from benchmarks.figures import Figures, Quantity
from benchmarks.rig.servers import QemuNbd, QemuNbdX509
from benchmarks.section import Chart, Section, milliseconds, sentence_case, significant, value
from benchmarks.tables.servers import CLIENTS, CONNECT, DAEMON, OURS, OURS_PSK, OURS_X509, case

ALIKE = 0.97


def meaning(figures: Figures) -> str:
    return " ".join([_speed(figures), _tls(figures), _connecting(figures)])


def _speed(figures: Figures) -> str:
    parts = [figures.ratio(case(clients), Quantity.RATE, OURS, QemuNbd.name) for clients in CLIENTS]
    clear = [variant for variant in figures.variants(case(max(CLIENTS))) if "TLS" not in variant]
    fastest = max(clear, key=lambda variant: figures.median(case(1), variant, Quantity.RATE))
    numbers = ", ".join(f"{part:.2f}" for part in parts)
    many = ", ".join(map(str, CLIENTS))
    words = "An export reads no slower than" if min(parts) >= ALIKE else "An export reads at this part of the rate of"
    start = f"{words} a qemu-nbd that was started by hand ({numbers} of its rate for {many} clients)"
    if fastest == OURS:
        return f"{start}, and nothing that was tried is faster for one client."
    part = figures.ratio(case(1), Quantity.RATE, OURS, fastest)
    return f"{start}; the fastest for one client is {fastest}, of whose rate it has {part:.2f}."


def _tls(figures: Figures) -> str:
    keys = figures.ratio(case(1), Quantity.RATE, OURS_PSK, OURS)
    certificates = figures.ratio(case(1), Quantity.RATE, OURS_X509, OURS)
    by_hand = figures.ratio(case(1), Quantity.RATE, OURS_X509, QemuNbdX509.name)
    return (
        f"Encryption leaves {keys:.2f} of the rate with a key for each export, and {certificates:.2f} with "
        f"certificates: {by_hand:.2f} times what a qemu-nbd by hand gives with such certificates and the same cipher."
    )


def _connecting(figures: Figures) -> str:
    ours, plain = (figures.median(CONNECT, variant, Quantity.SECONDS) * 1000 for variant in (OURS, QemuNbd.name))
    if ours < 0.7 * plain:
        return f"A connection takes {ours:.0f} ms instead of {plain:.0f} ms, as the listener sends without delay."
    return f"A connection takes {ours:.0f} ms; with the server by hand, {plain:.0f} ms."


def sections(figures: Figures) -> list[Section]:
    chart = Chart(
        "servers",
        "One image in the page cache, read by 1, 4 and 16 clients",
        "MB/s, all clients together",
        {
            case(clients): {
                variant: figures.median(case(clients), variant, Quantity.RATE)
                for variant in figures.variants(case(clients))
            }
            for clients in CLIENTS
        },
    )
    first, *others = [_section(figures, clients, chart if clients == min(CLIENTS) else None) for clients in CLIENTS]
    return [first, *others, _connections(figures)]


def _section(figures: Figures, clients: int, chart: Chart | None) -> Section:
    name = case(clients)
    headings = ("server", "MB/s", "of qemu-nbd by hand", "server, s/GiB", "client, s/GiB", "memory, MiB")
    rows = [
        (
            variant,
            value(figures, name, variant, Quantity.RATE),
            f"{figures.ratio(name, Quantity.RATE, variant, QemuNbd.name):.2f}",
            significant(figures.median(name, variant, Quantity.SERVER_CPU)),
            significant(figures.median(name, variant, Quantity.CLIENT_CPU)),
            significant(figures.median(name, variant, Quantity.MEMORY)),
        )
        for variant in figures.variants(name)
    ]
    note = ""
    if clients == min(CLIENTS):
        daemon = significant(figures.median(DAEMON, OURS, Quantity.MEMORY))
        note = (
            "Each client is an `nbdcopy` of its own on another host (a network namespace) that reads all of the "
            "image, with as many connections as it likes. Ours has an export, and so a process, for each client; the"
            " others serve all at one address. Memory is the largest seen, of all processes; ours includes the "
            f"daemon's {daemon} MiB."
        )
    return Section(sentence_case(name), headings, rows, note, chart)


def _connections(figures: Figures) -> Section:
    rows = [(variant, milliseconds(figures, CONNECT, variant)) for variant in figures.variants(CONNECT)]
    note = "`nbdinfo --size`, its own start included."
    return Section("One connection", ("server", "ms"), rows, note)
