"""Until the batcher takes columns: hands it one sample at a time, and puts its answers into columns."""

import math

from service import samples as columns
from service.batcher import MicroBatcher
from service.samples import CURRENT_EPOCH, NO_SEQ, Answers, Samples
from service.wire import Sample


async def submit(batcher: MicroBatcher, samples: Samples) -> Answers:
    """Answers in the order of the samples."""
    rows = [
        Sample(
            samples.vehicle_ids[i],
            int(samples.ts_ms[i]),
            None if samples.seq[i] == NO_SEQ else int(samples.seq[i]),
            None if samples.epoch[i] == CURRENT_EPOCH else int(samples.epoch[i]),
            samples.signals[i],
        )
        for i in range(len(samples))
    ]
    answers = Answers.blank(len(rows), columns.Status.DEFERRED)
    for i, answer in enumerate(await batcher.submit(rows)):
        answers.status[i] = columns.Status[answer.status.name]
        answers.seq[i] = NO_SEQ if answer.seq is None else answer.seq
        answers.risk[i] = math.nan if answer.risk is None else answer.risk
        answers.surprise[i] = math.nan if answer.surprise is None else answer.surprise
        answers.phase[i] = -1 if answer.phase is None else int(answer.phase)
        answers.warming_up[i] = -1 if answer.warming_up is None else answer.warming_up
        if answer.reason:
            answers.reasons[i] = answer.reason
        if answer.errors:
            answers.errors[i] = tuple(columns.FieldError(e.field, e.reason) for e in answer.errors)
    return answers
