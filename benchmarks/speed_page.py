"""The page and the figure of ``benchmarks.speed``, from its record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS = "recbole_kd"
# Wall over CPU-seconds from which a single thread must have waited for others.
_BUSY = 1.2
Record = dict[str, Any]
Entry = dict[str, Any]


def page(record: Record, picture: str) -> str:
    """Markdown of a record."""
    parts = [
        "# Speed",
        "Written by `python -m benchmarks.speed`; what is timed and how is in [docs/speed.md](../speed.md).",
        _machine(record),
        f"![CPU-seconds to a validation NDCG@10]({picture})",
        "## Against other packages",
        _rivals(record),
        "## Seconds to every level",
        _levels(record),
        "## Distance from the floor",
        _floors(record),
    ]
    if record["overheads"]:
        parts += ["## Distillation, diagnostics, threads", _overheads(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(record: Record) -> str:
    machine, versions = record["machine"], record["versions"]
    lines = [
        f"- {record['date']}, {machine['processor'] or machine['machine']}, {machine['cores']} cores, "
        f"{record['device']}, one thread per process, one process at a time, seed {record['seed']}",
        "- " + ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()),
        "- seconds are CPU-seconds on a CPU and wall seconds on a GPU",
        "- the same split, network sizes and dropout; cross-entropy over all items everywhere; all items "
        "ranked, seen items kept, average rank for ties; learning rate and batch are each system's own",
        *_ours(record),
        *_recbole(record),
        f"- ours runs to early stopping, the others to the highest level or {record['budget']:.0f} s of "
        "training; ratios are theirs over ours; - means not reached",
    ]
    waits = [e["wall_per_cpu"] for e in record["entries"] if e.get("wall_per_cpu")]
    if record["device"] == "cpu" and waits and max(waits) > _BUSY:
        lines.append(
            f"- **the machine had other work** (wall over CPU-seconds {min(waits):.1f} to {max(waits):.1f}): "
            "all seconds are longer than on a quiet one, ratios are good to some tens of per cent"
        )
    if record["quick"]:
        lines.append("- **a quick cut**: lowest level only, ours ends there too; not for comparison")
    for name in record["left_out"]:
        lines.append(f"- {name} was left out: no interpreter was named that has it")
    return "\n".join(lines)


def _ours(record: Record) -> list[str]:
    """Where ours does less for the same epoch: neither is the rivals' choice to make."""
    said = record.get("softmax")
    if said is None:
        return []
    lower = "" if said == "float32" else "; the rivals' are float32, as is the peak of the floor below"
    return [
        f"- the products of our catalogue softmax are {said}, which is this processor's `auto`{lower}; our "
        "short histories share a row or stand beside others of their length, the rivals' are filled to the "
        "longest allowed"
    ]


def _recbole(record: Record) -> list[str]:
    """How RecBole ran: both choices move its seconds."""
    said = record.get("recbole")
    if said is None or not any(e["system"] == "RecBole" for e in record["entries"]):
        return []
    how = "on, as its import leaves it for its users" if said["anomaly_detection"] else "off"
    batch = f"batches of {said['batch_size']} (2048 by default, slower on a CPU)"
    return [f"- RecBole has torch's anomaly detection {how}, which costs it time, and {batch}"]


def _rivals(record: Record) -> str:
    lines = [
        "An epoch of RecTools or RePlay reads the last interactions of a user, as many as an input holds, "
        "and none before them; ours and RecBole's read all.",
        "",
        "| data | backbone | system | s / epoch | ratio | interactions / epoch | \u00b5s each | ratio "
        "| s to NDCG@10 | ratio | best NDCG@10 | evaluation, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in record["entries"]:
        ours = find(record, OURS, entry)
        place = f"| {entry['dataset']} | {entry['model']} | {entry['system']} "
        if "error" in entry:
            lines.append(f"{place}| failed: {entry['error'].splitlines()[0][:80]} | | | | | | | | | |")
            continue
        level = shown_level(record, entry)
        mine, theirs = (None if e is None else seconds_to(e, level) for e in (ours, entry))
        reach = "-" if theirs is None else f"{theirs:.1f}"
        note = " (scaled up)" if entry["epoch_is_scaled"] else ""
        evaluation = entry["eval_seconds"]
        each, our_each = (
            None if e is None else 1e6 * e["epoch_cpu"] / read(record, e) for e in (entry, ours)
        )
        lines.append(
            f"{place}| {entry['epoch_cpu']:.2f}{note} "
            f"| {_ratio(entry['epoch_cpu'], ours['epoch_cpu'] if ours else None)} "
            f"| {read(record, entry):,} | {each:.1f} | {_ratio(each, our_each)} "
            f"| {reach} (to {level:g}) | {_ratio(theirs, mine)} | {entry['best_ndcg']:.4f} "
            f"| {'-' if evaluation is None else f'{evaluation:.2f}'} | {entry['peak_memory_mb']:.0f} |"
        )
    return "\n".join(lines)


def _levels(record: Record) -> str:
    """CPU-seconds to the first measurement at every level; a bound where budget or run ended before."""
    lines = ["First measurement at or above the level; in brackets the ratio to ours."]
    for dataset in dict.fromkeys(e["dataset"] for e in record["entries"]):
        own = [e for e in record["entries"] if e["dataset"] == dataset and "error" not in e]
        if not own:
            continue
        levels = [reach["level"] for reach in own[0]["reach"]]
        head = " | ".join(f"{level:g}" for level in levels)
        lines += ["", f"| {dataset} | system | {head} |", "|---|---|" + "---|" * len(levels)]
        for entry in own:
            ours = find(record, OURS, entry)
            cells = [_reached(entry, ours, level) for level in levels]
            lines.append(f"| {entry['model']} | {entry['system']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _reached(entry: Entry, ours: Entry | None, level: float) -> str:
    seconds, mine = seconds_to(entry, level), None if ours is None else seconds_to(ours, level)
    if seconds is not None:
        return f"{seconds:.1f} ({_ratio(seconds, mine)})" if mine else f"{seconds:.1f}"
    spent = float(entry["cpu_seconds"])
    if "early stopping" in str(entry.get("ended")):
        return f"not reached; stopped early after {spent:.0f}"
    return f"more than {spent:.0f}" + (f" (> {_ratio(spent, mine)})" if mine else "")


def find(record: Record, system: str, like: Entry) -> Entry | None:
    """Entry of ``system`` on the same backbone and data, if it was run to an end."""
    for entry in record["entries"]:
        same = (entry["model"], entry["dataset"]) == (like["model"], like["dataset"])
        if same and entry["system"] == system and "error" not in entry:
            found: Entry = entry
            return found
    return None


def read(record: Record, entry: Entry) -> int:
    """Train interactions that an epoch of an entry reads."""
    return int(record["interactions"][entry["dataset"]][entry["system"]])


def seconds_to(entry: Entry, level: float) -> float | None:
    """CPU-seconds to the first measurement at or above ``level``."""
    for reach in entry["reach"]:
        if reach["level"] == level:
            found: float | None = reach["first"]
            return found
    return None


def shown_level(record: Record, like: Entry) -> float:
    """Highest level that all systems on this backbone and data reached; else the highest that any reached.

    Where nobody reached one it is the lowest.
    """
    peers = [
        e
        for e in record["entries"]
        if "error" not in e and (e["model"], e["dataset"]) == (like["model"], like["dataset"])
    ]
    levels = [reach["level"] for reach in peers[0]["reach"]]
    for enough in (all, any):
        reached = [v for v in levels if enough(seconds_to(e, v) is not None for e in peers)]
        if reached:
            return float(max(reached))
    return float(min(levels))


def _ratio(theirs: float | None, ours: float | None) -> str:
    return "" if theirs is None or not ours else f"{theirs / ours:.1f}x"


def _floors(record: Record) -> str:
    lines = [
        "Operations and bytes that an epoch of ours (each interaction once) must do, over this machine's "
        "measured peak. A rival's epoch does other work, RecBole's each prefix anew; the last column still "
        "says how far its way of spending an epoch is from that floor.",
        "",
        "| data | backbone | GFLOP / epoch | GB / epoch | floor, s | bound by | times the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    peaks = []
    for dataset, found in record["floors"].items():
        peak = found["peak"]
        peaks.append(
            f"{peak['device']}, {peak['threads']} thread: {peak['flops'] / 1e9:.0f} GFLOP/s in float32 "
            f"products, {peak['bytes'] / 1e9:.1f} GB/s copied"
        )
        for model, work in found["floor"].items():
            here = [
                e
                for e in record["entries"]
                if "error" not in e and e["dataset"] == dataset and e["model"] == model
            ]
            times = ", ".join(f"{e['system']} {e['epoch_cpu'] / work['seconds']:.1f}x" for e in here)
            bound = "products" if work["flops"] / peak["flops"] > work["bytes"] / peak["bytes"] else "memory"
            lines.append(
                f"| {dataset} | {model} | {work['flops'] / 1e9:.0f} | {work['bytes'] / 1e9:.1f} "
                f"| {work['seconds']:.2f} | {bound} | {times} |"
            )
    return "\n".join([*lines, "", *(f"- {line}" for line in dict.fromkeys(peaks))])


def _overheads(record: Record) -> str:
    lines = [
        "| backbone | plain epoch, CPU-s | distillation adds | diagnostics add | wall s by threads | best |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["overheads"]:
        threads = row.get("seconds_by_threads") or {}
        shown = ", ".join(f"{n}: {s:.2f}" for n, s in threads.items())
        lines.append(
            f"| {row['model']} | {row['epoch_cpu']['plain']:.2f} | {row['distillation']:+.1%} "
            f"| {row['diagnostics']:+.1%} | {shown} | {row.get('best_threads', '')} |"
        )
    return "\n".join(lines)


def draw(record: Record, path: Path) -> None:
    """Bars of CPU-seconds to the shown level, one group per backbone and data set; not reached is hatched."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    entries = [e for e in record["entries"] if "error" not in e]
    groups = list(dict.fromkeys((e["dataset"], e["model"]) for e in entries))
    systems = list(dict.fromkeys(e["system"] for e in entries))
    figure, axis = plt.subplots(
        figsize=(1.9 + 1.5 * max(1, len(groups)), 3.6 if len(groups) > 2 else 4.6), layout="constrained"
    )
    width = 0.8 / max(1, len(systems))
    colours = dict(zip(systems, ("#1b6ca8", "#c44e52", "#8c8c8c", "#dd9f3d"), strict=False))
    for entry in entries:
        level = shown_level(record, entry)
        reached = seconds_to(entry, level)
        height = entry["cpu_seconds"] if reached is None else reached
        x = groups.index((entry["dataset"], entry["model"])) + width * systems.index(entry["system"])
        axis.bar(
            x,
            max(height, 1e-2),
            width,
            color=colours[entry["system"]],
            alpha=0.35 if reached is None else 1.0,
            hatch="//" if reached is None else None,
        )
    names = [f"{m}\n{d}\n{shown_level(record, {'dataset': d, 'model': m}):g}" for d, m in groups]
    axis.set_xticks([k + width * (len(systems) - 1) / 2 for k in range(len(groups))], names, fontsize=8)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_ylabel("CPU-seconds to validation NDCG@10")
    for system in systems:
        axis.bar(0, 0, color=colours[system], label=system)
    axis.bar(0, 0, color="white", edgecolor="grey", hatch="//", label="not reached in its budget")
    figure.legend(
        fontsize=8, frameon=False, loc="outside lower center", ncols=min(len(systems) + 1, 2 * len(groups))
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
