"""Answers as columns."""

import numpy as np

from service.samples import NO_SEQ, Answers, FieldError, Status


def test_a_part_of_answers_has_its_rows_its_reasons_and_its_errors() -> None:
    """What is told of rows 2 and 3 is told of rows 0 and 1 of the part, and of no others."""
    answers = Answers.blank(5, Status.APPLIED)
    answers.seq[:] = np.arange(5)
    answers.refuse([1, 3], Status.LATE, "too late")
    answers.errors[2] = (FieldError("ts", "must be a time"),)
    part = answers.part(2, 4)
    assert part.seq.tolist() == [2, 3]
    assert part.status.tolist() == [Status.APPLIED, Status.LATE]
    assert part.reasons == {1: "too late"}
    assert part.errors == {0: (FieldError("ts", "must be a time"),)}


def test_the_whole_of_answers_is_no_copy_and_a_blank_one_says_nothing() -> None:
    """A batch of one sender is handed on as it is; a blank answer has its status and nothing else."""
    blank = Answers.blank(3, Status.DEFERRED)
    assert blank.part(0, 3) is blank
    assert blank.seq.tolist() == [NO_SEQ] * 3
    assert np.isnan(blank.risk).all()
    assert np.isnan(blank.surprise).all()
    assert blank.status.dtype == np.uint8
    assert blank.phase.tolist() == blank.warming_up.tolist() == [-1, -1, -1]
