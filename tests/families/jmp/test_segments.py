import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from atomslim.families.jmp.gemnet_oc.segments import Segments, order_by_size, segment_apply, segment_outer

OF_ROW = torch.tensor([3, 2, 2, 0, 0, 0, 5, 5, 5])
SEGMENTS = Segments.of(OF_ROW, 7)


def operands(r: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y, matrices = torch.randn(9, r, 3), torch.randn(9, r, 4), torch.randn(7, 3, 4)
    return x.double().requires_grad_(), y.double().requires_grad_(), matrices.double().requires_grad_()


def test_outer_sums_over_the_rows_of_each_segment() -> None:
    x, y, _ = operands()
    expected = torch.zeros(7, 3, 4).double().index_add(0, OF_ROW, torch.einsum("nrp,nrq->npq", x, y))
    assert torch.allclose(segment_outer(x, y, SEGMENTS), expected, rtol=1e-14)


def test_apply_multiplies_rows_by_their_segments_matrix() -> None:
    x, _, matrices = operands()
    expected = torch.einsum("nrp,npq->nrq", x, matrices[OF_ROW])
    assert torch.allclose(segment_apply(x, matrices, SEGMENTS), expected, rtol=1e-14)


def test_first_and_second_derivatives() -> None:
    x, y, matrices = operands()
    assert gradcheck(lambda a, b: segment_outer(a, b, SEGMENTS), (x, y))
    assert gradgradcheck(lambda a, b: segment_outer(a, b, SEGMENTS), (x, y))
    assert gradcheck(lambda a, b: segment_apply(a, b, SEGMENTS), (x, matrices))
    assert gradgradcheck(lambda a, b: segment_apply(a, b, SEGMENTS), (x, matrices))


def test_views_and_transposes_are_taken_as_they_are() -> None:
    x, y, matrices = operands()
    strided = torch.stack([x, x], dim=-1)[..., 0]
    assert torch.equal(segment_outer(strided, y, SEGMENTS), segment_outer(x, y, SEGMENTS))
    back = segment_apply(y, matrices.transpose(1, 2), SEGMENTS)
    assert torch.allclose(back, torch.einsum("nrq,npq->nrp", y, matrices[OF_ROW]), rtol=1e-14)


def test_no_rows_at_all() -> None:
    empty = Segments.of(torch.zeros(0, dtype=torch.int64), 3)
    assert torch.equal(segment_outer(torch.zeros(0, 1, 2), torch.zeros(0, 1, 5), empty), torch.zeros(3, 2, 5))
    assert segment_apply(torch.zeros(0, 1, 2), torch.zeros(3, 2, 5), empty).shape == (0, 1, 5)


def test_rows_are_put_in_order_of_size_with_segments_kept_together() -> None:
    of_row = torch.tensor([0, 0, 0, 1, 2, 2, 4, 4, 4])
    assert of_row[order_by_size(of_row)].tolist() == [1, 2, 2, 0, 0, 0, 4, 4, 4]
    groups = Segments.of(of_row[order_by_size(of_row)], 5).groups
    assert [(g.segments.tolist(), g.first_row, g.size) for g in groups] == [([1], 0, 1), ([2], 1, 2), ([0, 4], 3, 3)]


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 8])
def test_parts_are_of_whole_segments(at_once: int) -> None:
    of_row = torch.tensor([3, 2, 0, 0, 4, 4, 5, 5, 5])  # sizes 1, 1, 2, 2, 3
    segments = Segments.of(of_row, 7)
    parts = segments.parts(0, at_once)
    assert [row for part in parts for row in range(9)[part.rows]] == list(range(9))
    for part in parts:
        inside = of_row[part.rows].unique()
        assert part.segments.num_rows <= max(at_once, int((of_row == inside[0]).sum()))
        assert not set(inside.tolist()) & set(of_row.tolist()[: part.rows.start] + of_row.tolist()[part.rows.stop :])
    x, _, matrices = operands()
    found = torch.cat([segment_apply(x[part.rows], matrices, part.segments) for part in parts])
    assert torch.equal(found, segment_apply(x, matrices, segments))
    assert all(a.segments.num_rows + b.segments.num_rows > at_once for a, b in itertools.pairwise(parts))


def test_few_rows_stay_together() -> None:
    (part,) = SEGMENTS.parts(9, 1)
    assert part.segments is SEGMENTS
    assert torch.equal(OF_ROW[part.rows], OF_ROW)
