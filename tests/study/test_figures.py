"""Axes of a study's figures."""

from atomslim.study.figures import _errors_axis, _legend, _panel


def test_no_two_ticks_look_alike() -> None:
    for errors in ([0.13, 0.21], [0.0412, 0.0455], [0.04, 0.62], [90.0, 14000.0]):
        figure, axes = _panel("metals", "blocks", "error")
        axes.plot([1, 2], errors)
        _errors_axis(axes)
        figure.draw_without_rendering()
        low, high = axes.get_ylim()
        shown = [one.get_text() for one in axes.get_yticklabels() if low <= one.get_position()[1] <= high]
        assert len(shown) == len(set(shown)) >= 2
        assert not any("e" in text for text in shown)


def test_a_long_name_of_an_axis_stays_in_the_panel() -> None:
    figure, axes = _panel("molecules", "steps", "validation 1 − ROC-AUC, mean over labels")
    axes.plot([0, 60], [0.5, 0.05], label="full")
    _legend(figure, "cut ones: sliced")
    figure.draw_without_rendering()
    extent = axes.yaxis.label.get_window_extent()
    assert extent.y0 >= 0
    assert extent.y1 <= figure.bbox.height
