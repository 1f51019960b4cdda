"""The progress bar: what it counts, how quickly, and what else it says."""

import io

from rich.console import Console

from wm_plan.progress_bar import RateBar


def test_it_shows_how_many_are_done_and_the_rate_since_the_first() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with RateBar(console, "reacher", 4, "episodes", "frames") as bar:
        now = 10.0
        bar._progress.get_time = lambda: now
        bar.update(1, 0)
        bar.update(2, 40)
        now = 12.0
        bar.update(3, 100, note="reached 50%")
    shown = written.getvalue()
    assert "3/4" in shown
    assert "episodes  30 frames/s" in shown
    assert "reached 50%" in shown
