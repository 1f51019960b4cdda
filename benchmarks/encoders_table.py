"""The comparison of encoders as tables, from the rows that encoders.py gathered.

python benchmarks/encoders_table.py prints them; with --write docs/encoders.md they replace what stands there
between the markers. --rows takes another file, or the folder of a run that is not finished (OUT/rows).
"""

import json
from pathlib import Path
from typing import Any

from results_table import print_or_write, table_flags

ROWS = Path(__file__).resolve().parents[1] / "docs" / "results" / "benchmarks" / "encoders.json"
PROBED = ("position", "velocity")

Row = dict[str, Any]


def tables(rows: list[Row]) -> str:
    """Markdown: probes, looks, an unseen task, planning, objectives, time.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError(
            "no rows were found; make some with: python benchmarks/encoders.py --out runs/encoders"
        )
    by_part: dict[str, list[Row]] = {}
    for row in rows:
        by_part.setdefault(row["part"], []).append(row)
    made = []
    for part, title, make in (
        ("probes", "Probes of tasks that pretraining saw, R^2:", probes_table),
        ("probes", "MLP probes of positions, in looks that they were not fitted to, R^2:", looks_table),
        ("unseen", "Probes of tasks that pretraining never saw, R^2:", probes_table),
        ("planning", "Goals reached with one head, predictor and budget, % (95 % interval):", planning_table),
        (
            "robust",
            "Near goals reached in looks that no predictor was trained on, % (95 % interval):",
            robust_table,
        ),
        ("objectives", "Pretrained by each objective on one budget; probes, R^2:", probes_table),
        ("time", "One frame on one thread:", time_table),
    ):
        if part in by_part and (table := make(by_part[part])):
            made.append(f"{title}\n\n{table}")
    minutes = {part: sum(row["cpu_seconds"] for row in found) / 60 for part, found in by_part.items()}
    each = ", ".join(f"{part} {spent:.0f}" for part, spent in minutes.items())
    made.append(f"Minutes of one core: {each}; {sum(minutes.values()):.0f} together.")
    return "\n\n".join(made)


def probes_table(rows: list[Row]) -> str:
    """One line a task and encoder; columns by the number of labels."""
    numbers = sorted({row["labels"] for row in rows}, reverse=True)
    columns = [
        f"{what}, {kind}, {number}" for number in numbers for what in PROBED for kind in ("linear", "MLP")
    ]
    lines = []
    for (task, encoder), by_number in _grouped(rows, "labels").items():
        cells = [
            _explained(by_number[number][kind]["plain"][what]) if number in by_number else ""
            for number in numbers
            for what in PROBED
            for kind in ("linear", "mlp")
        ]
        lines.append([task, encoder, *cells])
    return _table(["task", "encoder", *columns], lines)


def looks_table(rows: list[Row]) -> str:
    """One line a task, encoder and number of labels; empty where no looks were measured."""
    rows = [row for row in rows if len(row["mlp"]) > 1]
    if not rows:
        return ""
    looks = list(rows[0]["mlp"])
    order = sorted(rows, key=lambda row: (row["task"], -row["labels"]))
    return _table(
        ["task", "encoder", "labels", *looks],
        [
            [row["task"], row["encoder"], str(row["labels"])]
            + [_explained(row["mlp"][look]["position"]) for look in looks]
            for row in order
        ],
    )


def planning_table(rows: list[Row]) -> str:
    """One line a task and encoder; columns by share of the data and kind of goal."""
    fractions = sorted({row["fraction"] for row in rows}, reverse=True)
    protocols = [name for name in ("near", "far") if any(name in row for row in rows)]
    lines = []
    for (task, encoder), by_fraction in _grouped(rows, "fraction").items():
        cells = [
            _rate(by_fraction[fraction][name]) if fraction in by_fraction else ""
            for fraction in fractions
            for name in protocols
        ]
        lines.append([task, encoder, *cells])
    columns = [f"{name}, {fraction:.0%} of the data" for fraction in fractions for name in protocols]
    return _table(["task", "encoder", *columns], lines)


def robust_table(rows: list[Row]) -> str:
    """One line a task and encoder; columns by what looks otherwise."""
    changes = [name for name, value in rows[0].items() if isinstance(value, dict)]
    return _table(
        ["task", "encoder", *changes],
        [[row["task"], row["encoder"], *(_rate(row[name]) for name in changes)] for row in rows],
    )


def time_table(rows: list[Row]) -> str:
    """One line an encoder."""
    return _table(
        ["encoder", "encode, ms", "its bare matrix products, ms", "ratio", "preprocess a 96 px frame, ms"],
        [
            [
                row["encoder"],
                f"{row['encode_ms']:.2f}",
                f"{row['products_ms']:.2f}",
                f"{row['ratio']:.2f}" if row["ratio"] else "",
                f"{row['preprocess_ms']:.2f}",
            ]
            for row in rows
        ],
    )


def _grouped(rows: list[Row], by: str) -> dict[tuple[str, str], dict[Any, Row]]:
    """Rows by task and encoder, and within by one of their values."""
    found: dict[tuple[str, str], dict[Any, Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["encoder"]), {})[row[by]] = row
    return found


def _explained(value: float) -> str:
    """R^2; what is worse than guessing the mean is just that."""
    return f"{value:.3f}" if value >= 0 else "< 0"


def _rate(found: Row) -> str:
    low, high = found["ci95"]
    return f"{100 * found['success_rate']:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _table(columns: list[str], lines: list[list[str]]) -> str:
    texts = sum(column in {"task", "encoder"} for column in columns)
    marks = "|---" * texts + "|---:" * (len(columns) - texts) + "|"
    return "\n".join([f"| {' | '.join(columns)} |", marks, *(f"| {' | '.join(line)} |" for line in lines)])


def read_rows(path: Path) -> list[Row]:
    """The rows of a gathered file, or of a run's folder."""
    if path.is_dir():
        return [json.loads(file.read_text()) for file in sorted(path.glob("*.json"))]
    return json.loads(path.read_text()) if path.is_file() else []


def main() -> None:
    """Print the tables, or put them in their place."""
    parser = table_flags(__doc__)
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE|DIR")
    flags = parser.parse_args()
    print_or_write(lambda: tables(read_rows(flags.rows)), flags.write)


if __name__ == "__main__":
    main()
